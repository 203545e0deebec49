//! The container of a VM under the retired protocol. Its storage is made at Create and removed
//! after the end of init (8.3, 8.5).

use std::path::PathBuf;
use std::time::Duration;

use super::storage::{self, AttachedStorage};
use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::bundle;
use crate::error::Failure;
use crate::prot::v1::{MappedDirectory, NetworkAdapter, VmHostedContainerSettings};
use crate::prot::{HResult, MessageBase, NotificationType};
use crate::storage::arrival::ARRIVAL;
use crate::storage::{clean, Directory, MountRecord};
use crate::uvm::arrivals::{AllOf, ArrivalLimits};
use crate::uvm::container::Container;
use crate::uvm::processes::{ProcessKey, Role};
use crate::uvm::session::Protocol;
use crate::uvm::Uvm;

/// All disks are mounted one after another.
const ATTACH_LIMIT: Duration = Duration::from_secs(240);
const DETACH_LIMIT: Duration = Duration::from_secs(120);

/// The state of the storage of such a container.
pub enum StorageV1 {
    Mounted(Mounts),
    /// Its init has ended. The exit is published when the storage is gone.
    Unmounting,
}

/// What was mounted for it, and what is still to be mounted.
pub struct Mounts {
    pub attached: AttachedStorage,
    /// Where disks and directories are mapped, as in [`Directory::mount_path`].
    pub mapped: Vec<PathBuf>,
    pub adapters: Vec<NetworkAdapter>,
}

pub(super) fn create(
    uvm: &mut Uvm,
    ticket: Ticket,
    base: &MessageBase,
    settings: VmHostedContainerSettings,
) {
    let id = base.container_id.clone();
    let checked = check(&id, &settings);
    let (directories, disks) = match checked {
        Ok(checked) => checked,
        Err(failure) => return uvm.outbox.answer(ticket, Err(failure)),
    };
    // The bundle is not known before the number of its directory. Until then it shares none.
    let none = PathBuf::new();
    let container = Container::creating(base.activity_id.clone(), none.clone(), none);
    let mapped = settings.mapped_virtual_disks.iter();
    let mapped: Vec<PathBuf> = mapped.filter_map(storage::mapped_at).collect();
    let taken = take_paths(uvm, &mapped).and_then(|()| {
        let added = uvm.containers.add(&id, container);
        added.inspect_err(|_| free_paths(uvm, &mapped))
    });
    if let Err(failure) = taken {
        return uvm.outbox.answer(ticket, Err(failure));
    }
    let limits = ArrivalLimits {
        arrival: ARRIVAL.saturating_mul(u32::try_from(disks.0.len()).unwrap_or(u32::MAX)),
        task: ATTACH_LIMIT,
    };
    let adapters = settings.network_adapters.clone();
    let taken = mapped.clone();
    uvm.run_when_there(
        format!("attaching the storage of container {id:?}"),
        limits,
        disks,
        move |journal| storage::attach(&settings, journal),
        move |uvm, attached: Result<(AttachedStorage, Vec<MountRecord>), Failure>| {
            let (attached, disks) = match attached {
                Ok(attached) => attached,
                Err(failure) => {
                    uvm.containers.remove(&id);
                    return uvm.outbox.answer(ticket, Err(failure));
                }
            };
            for (path, disk) in mapped.iter().zip(disks) {
                uvm.mounts.end_add(&path.to_string_lossy(), Some(disk));
            }
            let mounts = Mounts {
                attached,
                mapped,
                adapters,
            };
            map_directories(uvm, ticket, id, mounts, directories.into_iter());
        },
        move |uvm| free_paths(uvm, &taken),
    );
}

/// Takes all of these paths for disks that are about to be mounted, or none.
fn take_paths(uvm: &mut Uvm, paths: &[PathBuf]) -> Result<(), Failure> {
    for (at, path) in paths.iter().enumerate() {
        uvm.mounts
            .begin_add(&path.to_string_lossy())
            .inspect_err(|_| free_paths(uvm, &paths[..at]))?;
    }
    Ok(())
}

fn free_paths(uvm: &mut Uvm, paths: &[PathBuf]) {
    for path in paths {
        uvm.mounts.end_add(&path.to_string_lossy(), None);
    }
}

/// The last step of Create. It maps one directory after the other, all or nothing.
fn map_directories(
    uvm: &mut Uvm,
    ticket: Ticket,
    id: String,
    mut mounts: Mounts,
    mut directories: std::vec::IntoIter<Directory>,
) {
    let Some(directory) = directories.next() else {
        if let Some(container) = uvm.containers.get_mut(&id) {
            let bundle = mounts.attached.directory.clone();
            container.created_v1(bundle, StorageV1::Mounted(mounts));
        }
        uvm.outbox.answer(ticket, Ok(Reply::CreatedV1));
        return uvm.open_session(Protocol::V3);
    };
    let path = directory.mount_path.clone();
    let mapped = move |uvm: &mut Uvm, done: Result<(), Failure>| match done {
        Ok(()) => {
            mounts.mapped.push(path);
            map_directories(uvm, ticket, id, mounts, directories);
        }
        Err(failure) => take_apart(uvm, id, mounts, move |uvm, id| {
            uvm.containers.remove(&id);
            uvm.outbox.answer(ticket, Err(failure));
        }),
    };
    uvm.attach_directory(directory, Box::new(mapped));
}

pub(super) fn mounted<'u>(uvm: &'u mut Uvm, id: &str) -> Result<&'u mut Mounts, Failure> {
    match uvm.containers.find(id)?.v1() {
        Some(StorageV1::Mounted(mounts)) => Ok(mounts),
        _ => Err(Failure::new(
            HResult::INVALID_STATE,
            format!("container {id:?} has ended"),
        )),
    }
}

/// Whether the exit of this process may be published. An init of the retired protocol has to
/// wait until its storage is gone; the first call starts the removal.
pub fn storage_is_gone(uvm: &mut Uvm, key: ProcessKey) -> bool {
    let Some(Role::Init(id)) = uvm.processes.role(key).cloned() else {
        return true;
    };
    let container = uvm.containers.get_mut(&id);
    let Some(storage) = container.and_then(|c| c.v1().as_mut()) else {
        return true;
    };
    if let StorageV1::Mounted(mounts) = std::mem::replace(storage, StorageV1::Unmounting) {
        dissolve(uvm, id, mounts, Some(key));
    }
    false
}

/// Ends a container whose first process could not be started; `failure` was answered.
pub(super) fn start_failed(uvm: &mut Uvm, id: &str) {
    let Some(container) = uvm.containers.get_mut(id) else {
        return;
    };
    if let Some(init) = container.init() {
        // The rest follows at its exit.
        return uvm.kill_child(init);
    }
    let is_mounted = |storage: &mut StorageV1| matches!(storage, StorageV1::Mounted(_));
    if let Some(StorageV1::Mounted(mounts)) = container.v1().take_if(is_mounted) {
        *container.v1() = Some(StorageV1::Unmounting);
        dissolve(uvm, id.to_owned(), mounts, None);
    }
}

/// Removes the storage of the container, and then publishes the exit.
fn dissolve(uvm: &mut Uvm, id: String, mounts: Mounts, init: Option<ProcessKey>) {
    take_apart(uvm, id, mounts, move |uvm, id| {
        if let Some(container) = uvm.containers.get_mut(&id) {
            *container.v1() = None;
            container.note_exit_type(NotificationType::UnexpectedExit);
        }
        if let Some(init) = init {
            uvm.publish(init);
        }
        uvm.notify_exit(&id);
        uvm.containers.remove(&id);
    });
}

fn take_apart(
    uvm: &mut Uvm,
    id: String,
    mounts: Mounts,
    then: impl FnOnce(&mut Uvm, String) + 'static,
) {
    let name = id.clone();
    detach(
        uvm,
        format!("taking container {id:?} apart"),
        mounts.mapped,
        move |mapped| {
            let purged = crate::uvm::engine::group(&name).destroy();
            let unmapped = storage::unmap(mapped);
            unmapped.and(storage::detach(&mounts.attached)).and(purged)
        },
        move |uvm| then(uvm, id),
    );
}

/// Runs a task that unmounts, among others, what is mapped at these paths. `then` is called
/// whether it has succeeded or not.
pub(super) fn detach(
    uvm: &mut Uvm,
    doing: String,
    mapped: Vec<PathBuf>,
    job: impl FnOnce(&[PathBuf]) -> Result<(), Failure>,
    then: impl FnOnce(&mut Uvm) + 'static,
) {
    let shares = uvm.expect_answers(|path| mapped.iter().any(|p| p == path));
    let at: Vec<PathBuf> = mapped.iter().filter_map(|path| clean(path).ok()).collect();
    uvm.run(
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

/// Checks what can be checked before anything is changed. Returns the directories to map and the
/// disks that have to be present.
fn check(
    id: &str,
    settings: &VmHostedContainerSettings,
) -> Result<(Vec<Directory>, AllOf), Failure> {
    bundle::check_id(id)?;
    if settings.layers.is_empty() {
        return Err(Failure::unspecified(
            "the container document has no Layers; one of schema 2.1 needs NegotiateProtocol first",
        ));
    }
    let directories = settings.mapped_directories.iter().map(directory);
    let directories = directories.collect::<Result<_, _>>()?;
    Ok((directories, AllOf(storage::expected(settings)?)))
}

/// The directory that a document asks for.
pub(super) fn directory(sent: &MappedDirectory) -> Result<Directory, Failure> {
    storage::in_utility_vm(sent.create_in_utility_vm, &sent.container_path)?;
    Directory::new(&sent.container_path, sent.port.into(), "", sent.read_only)
}
