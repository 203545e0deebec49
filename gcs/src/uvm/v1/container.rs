//! The container of a VM of the retired protocol: its storage comes with Create and goes with
//! its init (8.3, 8.5).

use std::path::PathBuf;
use std::time::Duration;

use super::storage::{self, Attached};
use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::bundle;
use crate::error::Failure;
use crate::prot::v1::{MappedDirectory, NetworkAdapter, VmHostedContainerSettings};
use crate::prot::{HResult, MessageBase, NotificationType};
use crate::storage::{clean, Directory, Record};
use crate::uvm::container::{Container, State};
use crate::uvm::process::Role;
use crate::uvm::session::Session;
use crate::uvm::{Key, Uvm};

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
    /// Where disks and directories are mapped, as in [`Directory::mount_path`].
    pub mapped: Vec<PathBuf>,
    pub adapters: Vec<NetworkAdapter>,
}

impl Uvm {
    pub(super) fn create_v1(
        &mut self,
        ticket: Ticket,
        base: &MessageBase,
        settings: VmHostedContainerSettings,
    ) {
        let id = base.container_id.clone();
        let directories = match check(&id, &settings) {
            Ok(directories) => directories,
            Err(failure) => return self.outbox.answer(ticket, Err(failure)),
        };
        // Its bundle is known when its number is; until then it has none to share.
        let none = PathBuf::new();
        let container = Container::creating(base.activity_id.clone(), none.clone(), none);
        let disks = settings.mapped_virtual_disks.iter();
        let mapped: Vec<PathBuf> = disks.filter_map(storage::mapped_at).collect();
        if let Err(failure) = self.take_v1(&mapped) {
            return self.outbox.answer(ticket, Err(failure));
        }
        self.containers.insert(id.clone(), container);
        let adapters = settings.network_adapters.clone();
        let taken = mapped.clone();
        self.run_undoable(
            format!("attaching the storage of container {id:?}"),
            ATTACH_LIMIT,
            &[],
            move |journal| storage::attach(&settings, journal),
            move |uvm, attached: Result<(Attached, Vec<Record>), Failure>| {
                let attached = match attached {
                    Ok((attached, disks)) => {
                        for (path, disk) in mapped.iter().zip(disks) {
                            uvm.mounts.end_add(&path.to_string_lossy(), Some(disk));
                        }
                        attached
                    }
                    Err(failure) => {
                        uvm.containers.remove(&id);
                        return uvm.outbox.answer(ticket, Err(failure));
                    }
                };
                let mounts = Mounts {
                    attached,
                    mapped,
                    adapters,
                };
                uvm.map_directories_v1(ticket, id, mounts, directories.into_iter());
            },
            move |uvm| uvm.free_v1(&taken),
        );
    }

    /// Takes all of these paths for disks that are about to be mounted, or none.
    fn take_v1(&mut self, paths: &[PathBuf]) -> Result<(), Failure> {
        for (at, path) in paths.iter().enumerate() {
            self.mounts
                .begin_add(&path.to_string_lossy())
                .inspect_err(|_| self.free_v1(&paths[..at]))?;
        }
        Ok(())
    }

    fn free_v1(&mut self, paths: &[PathBuf]) {
        for path in paths {
            self.mounts.end_add(&path.to_string_lossy(), None);
        }
    }

    /// The last step of Create: one directory after the other, and all or nothing.
    fn map_directories_v1(
        &mut self,
        ticket: Ticket,
        id: String,
        mut mounts: Mounts,
        mut directories: std::vec::IntoIter<Directory>,
    ) {
        let Some(directory) = directories.next() else {
            if let Some(container) = self.containers.get_mut(&id) {
                container.state = State::Created;
                container.bundle = mounts.attached.directory.clone();
                container.v1 = Some(Stage::Mounted(mounts));
            }
            self.outbox.answer(ticket, Ok(Reply::CreatedV1));
            return self.open_session(Session::V3);
        };
        let path = directory.mount_path.clone();
        let mapped = move |uvm: &mut Self, done: Result<(), Failure>| match done {
            Ok(()) => {
                mounts.mapped.push(path);
                uvm.map_directories_v1(ticket, id, mounts, directories);
            }
            Err(failure) => uvm.take_apart_v1(id, mounts, move |uvm, id| {
                uvm.containers.remove(&id);
                uvm.outbox.answer(ticket, Err(failure));
            }),
        };
        self.attach_directory(directory, Box::new(mapped));
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
    pub(in crate::uvm) fn storage_is_gone(&mut self, key: Key) -> bool {
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
        self.take_apart_v1(id, mounts, move |uvm, id| {
            if let Some(container) = uvm.containers.get_mut(&id) {
                container.v1 = None;
                container.exit_type = NotificationType::UnexpectedExit;
            }
            if let Some(init) = init {
                uvm.publish(init);
            }
            uvm.notify_exit(&id);
            uvm.containers.remove(&id);
        });
    }

    fn take_apart_v1(
        &mut self,
        id: String,
        mounts: Mounts,
        then: impl FnOnce(&mut Self, String) + 'static,
    ) {
        let name = id.clone();
        self.detach_v1(
            format!("taking container {id:?} apart"),
            mounts.mapped,
            move |mapped| {
                let purged = crate::runtime::purge(&name);
                let unmapped = storage::unmap(mapped);
                unmapped.and(storage::detach(&mounts.attached)).and(purged)
            },
            move |uvm| then(uvm, id),
        );
    }

    /// Runs a task that unmounts, among others, what is mapped at these paths. `then` comes
    /// whether it could or not.
    pub(super) fn detach_v1(
        &mut self,
        doing: String,
        mapped: Vec<PathBuf>,
        job: impl FnOnce(&[PathBuf]) -> Result<(), Failure>,
        then: impl FnOnce(&mut Self) + 'static,
    ) {
        let shares = self.expect_answers(|path| mapped.iter().any(|p| p == path));
        let at: Vec<PathBuf> = mapped.iter().filter_map(|path| clean(path).ok()).collect();
        self.run(
            doing.clone(),
            DETACH_LIMIT,
            move || job(&mapped),
            move |uvm, done: Result<(), Failure>| {
                if let Err(left) = done {
                    log::error!("{doing}: {left}");
                }
                uvm.forget_shares(&shares);
                uvm.mounts.forget(|path| at.iter().any(|p| p == path));
                then(uvm);
            },
        );
    }
}

/// What can be checked before anything is touched.
fn check(id: &str, settings: &VmHostedContainerSettings) -> Result<Vec<Directory>, Failure> {
    bundle::check_id(id)?;
    if settings.layers.is_empty() {
        return Err(Failure::unspecified(
            "the container document has no Layers; one of schema 2.1 needs NegotiateProtocol first",
        ));
    }
    settings.mapped_directories.iter().map(directory).collect()
}

/// What a directory to be mapped comes to.
pub(super) fn directory(sent: &MappedDirectory) -> Result<Directory, Failure> {
    storage::in_utility_vm(sent.create_in_utility_vm, &sent.container_path)?;
    Directory::new(&sent.container_path, sent.port.into(), "", sent.read_only)
}
