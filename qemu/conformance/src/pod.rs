//! Pods of scenarios: a sandbox and workloads, as the containerd of a Windows host sends them.

use serde_json::{json, Value};

use uvm_host::wire::Rpc;
use uvm_host::UVM_ID;

use super::check::Checked;
use super::container::Plan;
use super::guest::Guest;

pub const TYPE: &str = "io.kubernetes.cri.container-type";
pub const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";
pub const SANDBOX: &str = "sandbox";

impl Guest {
    /// A network namespace that the guest knows, because an adapter was added to it. The adapter
    /// does not exist, and nobody waits for the refusal.
    pub fn namespace(&self) -> Checked<String> {
        self.namespace_with(json!({}))
    }

    /// The same with more settings of the adapter.
    pub fn namespace_with(&self, settings: Value) -> Checked<String> {
        let id = format!("{:0>8}-0A3B-4F1A-9E0B-6C5D2B1A7E11", self.serial());
        self.name_namespace(&id, settings)?;
        Ok(id)
    }

    /// Adds such an adapter to a namespace.
    pub fn name_namespace(&self, id: &str, settings: Value) -> Checked {
        let nic = format!("{:0>8}-6a0b-4b8f-8a51-55a1b2c3d4e5", self.serial());
        let mut all = json!({
            "NamespaceID": id, "ID": nic, "MacAddress": "00-15-5D-52-C0-00",
            "IPAddress": "172.16.0.5", "PrefixLength": 24});
        if let (Some(all), Value::Object(settings)) = (all.as_object_mut(), settings) {
            all.extend(settings);
        }
        let request = json!({"ResourceType": "Network", "RequestType": "Add", "Settings": all});
        let pending = self.send(Rpc::ModifySettings, UVM_ID, json!({"Request": request}))?;
        drop(pending);
        Ok(())
    }

    /// The sandbox of a pod, in a network namespace of its own.
    pub fn sandbox(&self, script: &str) -> Checked<Plan<'_>> {
        let namespace = self.namespace()?;
        Ok(self.sandbox_in(&namespace, script))
    }

    pub fn sandbox_in(&self, namespace: &str, script: &str) -> Plan<'_> {
        let plan = self.container(script).annotate(TYPE, SANDBOX);
        let id = plan.id().to_owned();
        plan.annotate(SANDBOX_ID, &id).edit(|spec| {
            spec["windows"] =
                json!({"layerFolders": null, "network": {"networkNamespace": namespace}});
        })
    }

    /// A further container of the pod, in namespaces of its own.
    pub fn workload(&self, sandbox: &str, script: &str) -> Plan<'_> {
        self.container(script)
            .annotate(TYPE, "container")
            .annotate(SANDBOX_ID, sandbox)
            .edit(|spec| {
                if let Some(members) = spec.as_object_mut() {
                    members.remove("hostname");
                }
            })
    }
}

/// Makes a workload share what the containers of a pod share: network, IPC and host name of the
/// running sandbox, whose first process is `pid`.
pub fn join(plan: Plan<'_>, pid: u32) -> Plan<'_> {
    join_also(plan, pid, &[])
}

/// The same with more kinds of namespaces, by their names below `/proc/<pid>/ns`.
pub fn join_also<'g>(plan: Plan<'g>, pid: u32, more: &[&str]) -> Plan<'g> {
    plan.edit(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut();
        for namespace in namespaces.into_iter().flatten() {
            let name = match namespace["type"].as_str().unwrap_or_default() {
                "network" => "net",
                kind @ ("ipc" | "uts") => kind,
                kind if more.contains(&kind) => kind,
                _ => continue,
            };
            namespace["path"] = json!(format!("/proc/{pid}/ns/{name}"));
        }
    })
}
