//! Create (protocol section 5): register the id, write the bundle, have the engine make the
//! container up to the point where its init waits to be started.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::arrivals::{AllOf, ArrivalLimits};
use super::container::Container;
use super::engine::WaitingInit;
use super::processes::Role;
use super::{namespaces, Uvm};
use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::bundle::{self, ContainerKind, Context, Prepared};
use crate::error::Failure;
use crate::machine::uevent::Device;
use crate::prot::{HResult, MessageBase, SchemaVersion, VmHostedContainerSettingsV2};
use crate::stdio::Relay;
use crate::storage::{self, Journal, Roots};

const PREPARE_LIMIT: Duration = Duration::from_secs(90);
/// Of a container with assigned devices.
const DEVICE_LIMITS: ArrivalLimits = ArrivalLimits {
    arrival: Duration::from_secs(50),
    task: PREPARE_LIMIT,
};
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(60);

impl Uvm {
    pub(super) fn create(
        &mut self,
        ticket: Ticket,
        base: &MessageBase,
        config: VmHostedContainerSettingsV2,
    ) {
        let (bundle, oci) = match self.register(base, config) {
            Ok(registered) => registered,
            Err(failure) => return self.outbox.answer(ticket, Err(failure)),
        };
        let id = base.container_id.clone();
        let name = id.clone();
        let namespace = bundle::network_namespace(&oci);
        let context = self.context(&id, &oci, namespace.as_deref());
        // What is wrong with them is for `prepare` to say.
        let devices = bundle::assigned_devices(&oci, &context.roots).unwrap_or_default();
        let doing = format!("creating container {id:?}");
        let then = move |uvm: &mut Self, result| match result {
            Ok(prepared) => uvm.prepared(ticket, id, namespace.as_deref(), prepared),
            Err(failure) => uvm.create_failed(ticket, id, failure),
        };
        if devices.is_empty() {
            let job = move || bundle::prepare(&name, &bundle, oci, &context);
            return self.run(doing, PREPARE_LIMIT, job, then);
        }
        let expected = devices
            .iter()
            .cloned()
            .map(|device| Box::new(device) as Box<dyn Device>);
        let expected = AllOf(expected.collect());
        let job = move |_: &Journal| {
            for device in &devices {
                if !device.is_there()? {
                    return Ok(None);
                }
            }
            bundle::prepare(&name, &bundle, oci.clone(), &context).map(Some)
        };
        self.run_when_there(doing, DEVICE_LIMITS, expected, job, then, |_| {});
    }

    /// The files are written. Takes the network namespace; a workload uses that of its sandbox.
    fn prepared(
        &mut self,
        ticket: Ticket,
        id: String,
        namespace: Option<&str>,
        prepared: Prepared,
    ) {
        let Some(container) = self.containers.get_mut(&id) else {
            return;
        };
        let bundle = container.bundle().to_owned();
        container.prepared(
            prepared.outline,
            prepared.shared,
            prepared.owns_pid_namespace,
        );
        let bound = match prepared.kind {
            ContainerKind::Workload { .. } => Ok(()),
            ContainerKind::Sandbox | ContainerKind::Standalone => {
                self.namespaces.bind(namespace, &id)
            }
        };
        if let Err(failure) = bound {
            return self.create_failed(ticket, id, failure);
        }
        self.create_in_engine(
            &id.clone(),
            bundle,
            prepared.terminal,
            |uvm, made| match made {
                Ok(init) => uvm.connect(ticket, id, init),
                Err(failure) => uvm.create_failed(ticket, id, failure),
            },
        );
    }

    /// Checks what can be checked without touching anything, then takes the id.
    fn register(
        &mut self,
        base: &MessageBase,
        config: VmHostedContainerSettingsV2,
    ) -> Result<(PathBuf, Value), Failure> {
        let id = &base.container_id;
        let invalid = |text: &str| Err(Failure::new(HResult::INVALID_JSON, text));
        if config.schema_version < SchemaVersion::V2_1 {
            return invalid("the container document's SchemaVersion is below 2.1 or missing");
        }
        let Some(oci) = config.oci_specification else {
            return invalid("the container document has no OciSpecification");
        };
        bundle::check_id(id)?;
        self.containers.check_free(id)?;
        let context = Context::default();
        let bundle = match config.oci_bundle_path.as_str() {
            "" => context.bundle(id),
            path => PathBuf::from(path),
        };
        let scratch = PathBuf::from(config.scratch_dir_path);
        context.check_removable("OciBundlePath", &bundle)?;
        context.check_removable("ScratchDirPath", &scratch)?;
        self.containers.check_pod(id, &oci.0)?;
        let container = Container::creating(base.activity_id.clone(), bundle.clone(), scratch);
        self.containers.add(id, container)?;
        Ok((bundle, oci.0))
    }

    /// What the rewriting of the spec needs to know.
    fn context(&self, id: &str, oci: &Value, namespace: Option<&str>) -> Context {
        let mut context = Context {
            adapters: match namespace {
                Some(id) if self.namespaces.known(id) => Ok(self.namespaces.adapters(id)),
                _ if bundle::brings_network_namespace(oci, id) => Ok(Vec::new()),
                id => Err(namespaces::unknown(id)),
            },
            security: self.policy.sent().clone(),
            ..Context::default()
        };
        context.sandbox = bundle::sandbox_id(oci)
            .and_then(|sandbox| Some(self.containers.get(sandbox)?.outline()?.pod.clone()));
        context
    }

    /// Gives the waiting init the adapters of the namespace it has taken.
    fn connect(&mut self, ticket: Ticket, id: String, init: WaitingInit) {
        self.assign_network(&id.clone(), init.pid, move |uvm, assigned| match assigned {
            Ok(()) => uvm.created(ticket, &id, init),
            Err(failure) => uvm.create_failed(ticket, id, failure),
        });
    }

    fn created(&mut self, ticket: Ticket, id: &str, init: WaitingInit) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        container.created(init.streams);
        self.outbox.answer(ticket, Ok(Reply::Created));
        // This comes after the reply, because the exit of an init that has already ended is
        // reported next.
        let role = Role::Init(id.to_owned());
        let key = self.adopt(role, init.pid, Relay::default(), None);
        if let Some(container) = self.containers.get_mut(id) {
            container.set_init(key);
        }
    }

    /// Undoes what a failed Create left, then frees the id and answers (P-131, P-093).
    fn create_failed(&mut self, ticket: Ticket, id: String, failure: Failure) {
        let Some(container) = self.containers.get_mut(&id) else {
            return;
        };
        let bundle = container.bundle().to_owned();
        let own = container.own_directory(&id);
        let shared = container.take_shared();
        let others = self.containers.sources_of_others(&id);
        let inside = self.begin_removal(&[&bundle]);
        let mappings = inside.mappings.clone();
        let name = id.clone();
        self.run(
            format!("cleaning up after the failed create of {id:?}"),
            CLEAN_UP_LIMIT,
            move || {
                let engine = super::engine::group(&name).destroy();
                shared.undo(|path| {
                    let used = |sources: &[PathBuf]| sources.iter().any(|s| s.starts_with(path));
                    !path.starts_with(&bundle) && others.as_deref().is_none_or(used)
                });
                let files = bundle::remove_files(&own, Path::new(""), &bundle, &Context::default());
                let files =
                    files.and_then(|()| storage::remove_mappings(&Roots::default(), &mappings));
                files.and(engine)
            },
            move |uvm, cleaned: Result<(), Failure>| {
                // The host will not ask again, so what is left is unmounted by its path alone.
                uvm.end_removal(&inside, true);
                if let Err(left) = cleaned {
                    log::error!("{left}");
                }
                uvm.namespaces.unbind(&id);
                uvm.end_leases(&id);
                uvm.containers.remove(&id);
                uvm.outbox.answer(ticket, Err(failure));
            },
        );
    }
}
