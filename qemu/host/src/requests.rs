//! The requests, typed (protocol 4 and 7). Each waits for its answer; `send` does not.

use std::time::Duration;

use serde_json::{json, Map, Value};

use crate::bridge::{self, Pending};
use crate::end::HostError;
use crate::host::Host;
use crate::state::Notification;
use crate::wire::Rpc;

/// `ContainerId` of the VM itself.
pub const UVM_ID: &str = "00000000-0000-0000-0000-000000000000";
/// Every request carries it, as the shim's do.
const ACTIVITY: &str = "00000000-0000-0000-0000-000000000000";
/// The time limit for every request except WaitForProcess (protocol 11.1).
pub const RPC_LIMIT: Duration = Duration::from_secs(300);
const PROTOCOL: u64 = 4;

/// Settings of a MappedVirtualDisk (protocol 7.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedVirtualDisk {
    /// The SCSI controller, from 0 to 3.
    pub controller: u8,
    /// The LUN at the controller, from 0 to 63.
    pub lun: u8,
    /// Where the guest mounts it.
    pub mount_path: String,
    /// Mount it read-only.
    pub read_only: bool,
    /// `ext4` or `xfs`: format the disk when it holds something else.
    pub ensure_filesystem: Option<String>,
}

impl MappedVirtualDisk {
    /// A disk with a file system on it.
    pub fn new(controller: u8, lun: u8, mount_path: &str, read_only: bool) -> Self {
        Self {
            controller,
            lun,
            mount_path: mount_path.to_owned(),
            read_only,
            ensure_filesystem: None,
        }
    }
}

impl Host {
    /// Sends a request of any type with any payload, valid or not.
    pub fn send_frame(&self, message: u32, payload: Vec<u8>) -> Result<Pending, HostError> {
        let doing = crate::wire::name(message);
        bridge::send(self.shared(), self.writer(), message, payload, doing, None)
    }

    /// Expects the answer to a frame that is yet to be written with [`Host::send_bytes`]; `id`
    /// instead of the next one. It must not be that of another call.
    pub fn expect(&self, message: u32, id: Option<u64>) -> Pending {
        bridge::expect(self.shared(), message, id, crate::wire::name(message))
    }

    /// Writes bytes to the bridge as they are. The guest may close it for that.
    pub fn send_bytes(&self, bytes: &[u8]) -> Result<(), HostError> {
        let guard = self
            .writer()
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let written = bridge::write(self.shared(), bytes, "writing raw bytes to the bridge");
        drop(guard);
        written
    }

    /// Sends a request with the base members and `body`.
    pub fn send(&self, rpc: Rpc, container: &str, body: Value) -> Result<Pending, HostError> {
        let doing = match container {
            UVM_ID | "" => format!("{rpc:?}"),
            id => format!("{rpc:?} of {id}"),
        };
        self.send_doing(rpc, container, body, doing)
    }

    /// `doing` names it in errors and in the timeline. When there is one, the request says its
    /// place in it.
    fn send_doing(
        &self,
        rpc: Rpc,
        container: &str,
        body: Value,
        doing: String,
    ) -> Result<Pending, HostError> {
        let trace = self.shared().lock().trace.clone();
        let span = trace.request(&doing);
        let mut members = Map::new();
        members.insert("ContainerId".into(), container.into());
        members.insert("ActivityId".into(), ACTIVITY.into());
        if let Some(span) = span {
            members.insert("ocsc".into(), trace.context(span));
        }
        if let Value::Object(body) = body {
            members.extend(body);
        }
        let mut payload = Value::Object(members).to_string().into_bytes();
        // As Go's encoder ends a document.
        payload.push(b'\n');
        let message = rpc as u32;
        bridge::send(self.shared(), self.writer(), message, payload, doing, span)
    }

    /// `send`, then the answer within the limit that a real host keeps.
    pub fn call(
        &self,
        rpc: Rpc,
        container: &str,
        body: Value,
    ) -> Result<Map<String, Value>, HostError> {
        self.send(rpc, container, body)?.wait(RPC_LIMIT)
    }

    /// NegotiateProtocol for version 4; returns `Capabilities`.
    pub fn negotiate(&self) -> Result<Value, HostError> {
        let versions = json!({"MinimumVersion": PROTOCOL, "MaximumVersion": PROTOCOL});
        let answer = self.call(Rpc::NegotiateProtocol, "", versions)?;
        let unusable = |detail: String| {
            let doing = "NegotiateProtocol".to_owned();
            Err(HostError::Unusable { doing, detail })
        };
        let version = answer.get("Version").and_then(Value::as_u64).unwrap_or(0);
        if version != PROTOCOL {
            return unusable(format!(
                "the guest chose protocol version {version}; a host takes 4"
            ));
        }
        let capabilities = answer.get("Capabilities").cloned().unwrap_or_default();
        let os = capabilities
            .get("RuntimeOsType")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if !os.eq_ignore_ascii_case("linux") {
            return unusable(format!(
                "RuntimeOsType is {os:?}: a host takes this guest for Windows"
            ));
        }
        Ok(capabilities)
    }

    /// ModifySettings of one resource of the VM.
    pub fn modify(&self, resource: &str, request: &str, settings: Value) -> Result<(), HostError> {
        let body = json!({"Request": {
            "ResourceType": resource, "RequestType": request, "Settings": settings}});
        let doing = format!("ModifySettings {request} {resource}");
        let mut pending = self.send_doing(Rpc::ModifySettings, UVM_ID, body, doing)?;
        pending.wait(RPC_LIMIT).map(drop)
    }

    /// The SecurityPolicy request that every LCOW VM gets right after the negotiation (protocol 7.11).
    pub fn security_policy_empty(&self) -> Result<(), HostError> {
        self.modify("SecurityPolicy", "Add", json!({}))
    }

    /// Makes the guest mount a disk that is plugged in, or about to be: a guest waits some seconds
    /// for it.
    pub fn add_disk(&self, disk: &MappedVirtualDisk) -> Result<(), HostError> {
        let mut settings = json!({
            "MountPath": disk.mount_path, "Lun": disk.lun, "Controller": disk.controller,
            "ReadOnly": disk.read_only});
        if disk.read_only {
            settings["Options"] = json!(["ro"]);
        }
        if let Some(kind) = &disk.ensure_filesystem {
            settings["EnsureFilesystem"] = true.into();
            settings["Filesystem"] = kind.as_str().into();
        }
        self.modify("MappedVirtualDisk", "Add", settings)
    }

    /// Unmounts a disk; with the members that a v0.12.3 host sends.
    pub fn remove_disk(&self, disk: &MappedVirtualDisk) -> Result<(), HostError> {
        let settings = json!({
            "MountPath": disk.mount_path, "Lun": disk.lun, "Controller": disk.controller});
        self.modify("MappedVirtualDisk", "Remove", settings)
    }

    /// Tells the guest to forget a disk that is about to be unplugged.
    pub fn remove_scsi_device(&self, controller: u8, lun: u8) -> Result<(), HostError> {
        self.modify(
            "SCSIDevice",
            "Remove",
            json!({"Controller": controller, "Lun": lun}),
        )
    }

    /// Overlay mount; the first layer is the topmost. Without scratch it is read-only.
    pub fn combine_layers(
        &self,
        container: &str,
        root: &str,
        layers: &[String],
        scratch: Option<&str>,
    ) -> Result<(), HostError> {
        let layers: Vec<Value> = layers.iter().map(|path| json!({"Path": path})).collect();
        let mut settings = json!({
            "ContainerID": container, "ContainerRootPath": root, "Layers": layers});
        if let Some(scratch) = scratch {
            settings["ScratchPath"] = scratch.into();
        }
        self.modify("CombinedLayers", "Add", settings)
    }

    /// Makes the guest unmount the overlay at `root`.
    pub fn remove_layers(&self, root: &str) -> Result<(), HostError> {
        self.modify(
            "CombinedLayers",
            "Remove",
            json!({"ContainerRootPath": root}),
        )
    }

    /// Create; `config` is the ContainerConfig document. The id is registered before it is sent.
    pub fn create_document(&self, container: &str, config: &Value) -> Result<(), HostError> {
        let fresh = self
            .shared()
            .update(|state| state.containers.insert(container.to_owned(), None));
        let body = json!({"ContainerConfig": config.to_string()});
        let outcome = self.call(Rpc::Create, container, body).map(drop);
        if outcome.is_err() {
            // A second Create of a living container fails, and the container goes on.
            self.shared().update(|state| match fresh {
                Some(before) => state.containers.insert(container.to_owned(), before),
                None => state.containers.remove(container),
            });
        }
        outcome
    }

    /// Expects a container whose Create the caller writes itself, so that its notification is no
    /// breach.
    pub fn register(&self, container: &str) {
        self.shared()
            .update(|state| state.containers.insert(container.to_owned(), None));
    }

    /// Create from an OCI spec.
    pub fn create(
        &self,
        container: &str,
        bundle: &str,
        spec: &Value,
        scratch_dir: &str,
    ) -> Result<(), HostError> {
        let config = json!({
            "SchemaVersion": {"Major": 2, "Minor": 1},
            "OciBundlePath": bundle,
            "OciSpecification": spec,
            "ScratchDirPath": scratch_dir});
        self.create_document(container, &config)
    }

    /// Start. It starts nothing: the first process comes with [`Host::init`] (protocol 4.3).
    pub fn start(&self, container: &str) -> Result<(), HostError> {
        self.call(Rpc::Start, container, json!({})).map(drop)
    }

    /// WaitForProcess without a time limit, sent and not waited for.
    pub fn send_wait(&self, container: &str, pid: u32) -> Result<Pending, HostError> {
        let body = json!({"ProcessId": pid, "TimeoutInMs": u32::MAX});
        let doing = format!("waiting for process {pid}");
        self.send_doing(Rpc::WaitForProcess, container, body, doing)
    }

    /// Sends a process a signal, by its Linux number (protocol 4.6).
    pub fn signal(&self, container: &str, pid: u32, signal: i32) -> Result<(), HostError> {
        let body = json!({"ProcessId": pid, "Options": {"Signal": signal}});
        self.call(Rpc::SignalProcess, container, body).map(drop)
    }

    /// Tells the terminal of a process its size, in characters (protocol 4.7).
    pub fn resize(
        &self,
        container: &str,
        pid: u32,
        rows: u16,
        columns: u16,
    ) -> Result<(), HostError> {
        let body = json!({"ProcessId": pid, "Height": rows, "Width": columns});
        self.call(Rpc::ResizeConsole, container, body).map(drop)
    }

    /// ShutdownGraceful (`SIGTERM`) or ShutdownForced (`SIGKILL`) of a container.
    pub fn shutdown(&self, container: &str, forced: bool) -> Result<(), HostError> {
        let rpc = if forced {
            Rpc::ShutdownForced
        } else {
            Rpc::ShutdownGraceful
        };
        self.call(rpc, container, json!({})).map(drop)
    }

    /// Tells the VM to power off. There is no answer; wait for the end of the VM.
    pub fn shutdown_uvm(&self) -> Result<(), HostError> {
        self.let_go();
        self.send(Rpc::ShutdownGraceful, UVM_ID, json!({}))
            .map(drop)
    }

    /// DeleteContainerState: the guest forgets the container and its directories (protocol 4.12).
    pub fn delete(&self, container: &str) -> Result<(), HostError> {
        self.call(Rpc::DeleteContainerState, container, json!({}))
            .map(drop)
    }

    /// The `Properties` document of a container.
    pub fn properties(&self, container: &str, types: &[&str]) -> Result<Value, HostError> {
        let query = json!({"PropertyTypes": types}).to_string();
        let answer = self.call(Rpc::GetProperties, container, json!({"Query": query}))?;
        let text = answer
            .get("Properties")
            .and_then(Value::as_str)
            .unwrap_or("{}");
        // `strict` has checked that it is JSON.
        Ok(serde_json::from_str(text).unwrap_or_default())
    }

    /// What the guest is doing, as free text.
    pub fn dump_stacks(&self) -> Result<String, HostError> {
        let answer = self.call(Rpc::DumpStacks, UVM_ID, json!({}))?;
        Ok(answer
            .get("GuestStacks")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned())
    }

    /// Waits for the exit notification of a container.
    pub fn wait_notification(
        &self,
        container: &str,
        limit: Duration,
    ) -> Result<Notification, HostError> {
        let doing = format!("waiting for the exit notification of {container}");
        self.shared().wait(&doing, limit, |state| {
            state.containers.get(container)?.clone()
        })
    }
}
