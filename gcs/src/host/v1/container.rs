//! The container of a VM of the retired protocol: its storage comes with Create and goes with
//! its init (8.3, 8.5).

use std::time::Duration;

use super::storage::{self, Attached};
use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::host::container::{Container, State};
use crate::host::process::Role;
use crate::host::session::Session;
use crate::host::{Host, Key};
use crate::prot::v1::{MappedVirtualDisk, NetworkAdapter, VmHostedContainerSettings};
use crate::prot::{HResult, MessageBase, NotificationType};
use crate::spec;

/// Every disk may take its time to appear, and they are mounted one after another.
const ATTACH_LIMIT: Duration = Duration::from_secs(240);
const DETACH_LIMIT: Duration = Duration::from_secs(120);

/// Where the storage of a container of the retired protocol stands.
pub enum Stage {
    Mounted(Mounts),
    /// Its init has ended: what that means is told when this is through.
    Unmounting,
}

/// What was mounted for it, and what it is still to get.
pub struct Mounts {
    pub attached: Attached,
    pub disks: Vec<MappedVirtualDisk>,
    pub adapters: Vec<NetworkAdapter>,
}

impl Host {
    pub(super) fn create_v1(
        &mut self,
        ticket: Ticket,
        base: &MessageBase,
        settings: VmHostedContainerSettings,
    ) {
        let id = base.container_id.clone();
        if let Err(failure) = check(&id, &settings) {
            return self.outbox.answer(ticket, Err(failure));
        }
        // Its bundle is known when its number is; until then it has none to share.
        let none = std::path::PathBuf::new();
        let container = Container::creating(base.activity_id.clone(), none.clone(), none);
        self.containers.insert(id.clone(), container);
        let (disks, adapters) = (
            settings.mapped_virtual_disks.clone(),
            settings.network_adapters.clone(),
        );
        self.run(
            format!("attaching the storage of container {id:?}"),
            ATTACH_LIMIT,
            move || storage::attach(&settings),
            move |host, attached: Result<Attached, Failure>| {
                let attached = match attached {
                    Ok(attached) => attached,
                    Err(failure) => {
                        host.containers.remove(&id);
                        return host.outbox.answer(ticket, Err(failure));
                    }
                };
                if let Some(container) = host.containers.get_mut(&id) {
                    container.state = State::Created;
                    container.bundle = attached.directory.clone();
                    container.v1 = Some(Stage::Mounted(Mounts {
                        attached,
                        disks,
                        adapters,
                    }));
                }
                host.outbox.answer(ticket, Ok(Reply::CreatedV1));
                host.open_session(Session::V3);
            },
        );
    }

    pub(super) fn mounts_v1(&mut self, id: &str) -> Result<&mut Mounts, Failure> {
        match &mut self.container(id)?.v1 {
            Some(Stage::Mounted(mounts)) => Ok(mounts),
            _ => Err(Failure::new(
                HResult::INVALID_STATE,
                format!("container {id:?} has ended"),
            )),
        }
    }

    /// Whether the exit of this process may be told: that of an init of the retired protocol
    /// is kept back until its storage is gone. The first call has that begun.
    pub(in crate::host) fn storage_is_gone(&mut self, key: Key) -> bool {
        let Some(Role::Init(id)) = self.processes.get(&key).map(|p| p.role.clone()) else {
            return true;
        };
        let container = self.containers.get_mut(&id);
        let Some(stage) = container.and_then(|c| c.v1.as_mut()) else {
            return true;
        };
        if let Stage::Mounted(mounts) = std::mem::replace(stage, Stage::Unmounting) {
            self.dissolve_v1(id, mounts, Some(key));
        }
        false
    }

    /// Ends a container whose first process could not be started; `failure` was answered.
    pub(super) fn failed_v1(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        match (container.init, container.v1.take()) {
            // Its end brings the rest about.
            (Some(init), stage) => {
                container.v1 = stage;
                self.kill_child(init);
            }
            (None, Some(Stage::Mounted(mounts))) => {
                container.v1 = Some(Stage::Unmounting);
                self.dissolve_v1(id.to_owned(), mounts, None);
            }
            (None, stage) => container.v1 = stage,
        }
    }

    /// Removes what the container is made of; then its waiters and the host hear of its end.
    fn dissolve_v1(&mut self, id: String, mounts: Mounts, init: Option<Key>) {
        let name = id.clone();
        self.run(
            format!("taking container {id:?} apart"),
            DETACH_LIMIT,
            move || {
                let purged = crate::runtime::purge(&name);
                storage::detach(&mounts.attached, &mounts.disks).and(purged)
            },
            move |host, done: Result<(), Failure>| {
                if let Err(left) = done {
                    log::error!("container {id:?}: {left}");
                }
                if let Some(container) = host.containers.get_mut(&id) {
                    container.v1 = None;
                    container.exit_type = NotificationType::UnexpectedExit;
                }
                if let Some(init) = init {
                    host.publish(init);
                }
                host.notify_exit(&id);
                host.containers.remove(&id);
            },
        );
    }
}

/// What can be checked before anything is touched.
fn check(id: &str, settings: &VmHostedContainerSettings) -> Result<(), Failure> {
    spec::check_id(id)?;
    if settings.layers.is_empty() {
        return Err(Failure::unspecified(
            "the container document has no Layers; one of schema 2.1 needs NegotiateProtocol first",
        ));
    }
    if !settings.mapped_directories.is_empty() {
        return Err(Failure::unspecified(
            "MappedDirectories of the retired schema are not supported",
        ));
    }
    Ok(())
}
