//! ModifySettings of the retired protocol: disks and directories of the container (8.5).

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{container, storage};
use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::prot::settings::MappedDirectory;
use crate::prot::v1::{MappedVirtualDisk, Mapping, ModifyRequest};
use crate::prot::{MessageBase, RequestType};
use crate::storage::arrival::ARRIVAL;
use crate::storage::{Directory, Source};
use crate::uvm::arrivals::ArrivalLimits;
use crate::uvm::Uvm;

const LIMIT: Duration = Duration::from_secs(60);

pub(super) fn modify(uvm: &mut Uvm, ticket: Ticket, base: &MessageBase, request: ModifyRequest) {
    let id = base.container_id.clone();
    if let Err(failure) = container::mounted(uvm, &id) {
        return uvm.outbox.answer(ticket, Err(failure));
    }
    let text = match (request.mapping, request.request_type) {
        (Mapping::Disk(disk), RequestType::Add) => return map_disk(uvm, ticket, id, disk),
        (Mapping::Disk(disk), RequestType::Remove) => return unmap_disk(uvm, ticket, id, disk),
        (Mapping::Directory(sent), RequestType::Add) => match container::directory(&sent) {
            Ok(directory) => return map_directory(uvm, ticket, id, directory),
            Err(failure) => return uvm.outbox.answer(ticket, Err(failure)),
        },
        (Mapping::Directory(sent), RequestType::Remove) => {
            return unmap_directory(uvm, ticket, sent.container_path);
        }
        (Mapping::Unknown(_), _) => "the retired schema maps disks and directories only".to_owned(),
        (_, other) => format!("a disk or directory knows no request {other}"),
    };
    uvm.outbox.answer(ticket, Err(Failure::unspecified(text)));
}

fn map_disk(uvm: &mut Uvm, ticket: Ticket, id: String, disk: MappedVirtualDisk) {
    let Some(path) = storage::mapped_at(&disk) else {
        return uvm.outbox.answer(ticket, Ok(Reply::Done));
    };
    let at = disk.container_path.clone();
    let expected = uvm.mounts.begin_add(&at).and_then(|()| {
        storage::expected_later(&disk).inspect_err(|_| uvm.mounts.end_add(&at, None))
    });
    let expected = match expected {
        Ok(expected) => expected,
        Err(failure) => return uvm.outbox.answer(ticket, Err(failure)),
    };
    let limits = ArrivalLimits {
        arrival: ARRIVAL,
        task: LIMIT,
    };
    let failed_at = at.clone();
    uvm.run_when_there(
        format!("mapping the disk at {at:?}"),
        limits,
        expected,
        move |journal| storage::map_disk(&disk, journal),
        move |uvm, added: Result<_, Failure>| {
            let done = added.map(|record| uvm.mounts.end_add(&at, Some(record)));
            mapped(uvm, ticket, &id, path, done);
        },
        move |uvm| uvm.mounts.end_add(&failed_at, None),
    );
}

/// The path may stay in `mapped`, because unmounting what is not there succeeds. A disk at the
/// path is unmounted too, but stays plugged in.
fn unmap_directory(uvm: &mut Uvm, ticket: Ticket, mount_path: String) {
    let there = uvm.mounts.get(Path::new(&mount_path));
    match there.map(|record| record.source) {
        Some(disk @ Source::Disk { .. }) => {
            uvm.unmount(&mount_path, disk, LIMIT, |uvm, done| {
                uvm.outbox.answer(ticket, done.map(|()| Reply::Done));
            });
        }
        _ => {
            let directory = MappedDirectory {
                mount_path,
                ..MappedDirectory::default()
            };
            uvm.remove_directory(ticket, &directory);
        }
    }
}

fn map_directory(uvm: &mut Uvm, ticket: Ticket, id: String, directory: Directory) {
    let path = directory.mount_path.clone();
    let then = move |uvm: &mut Uvm, done| mapped(uvm, ticket, &id, path, done);
    uvm.attach_directory(directory, Box::new(then));
}

/// Notes that something is mounted at the path. When the container has ended meanwhile, this
/// mount is taken away too.
fn mapped(uvm: &mut Uvm, ticket: Ticket, id: &str, path: PathBuf, done: Result<(), Failure>) {
    let ended = match (done, container::mounted(uvm, id)) {
        (Ok(()), Ok(mounts)) => {
            mounts.mapped.push(path);
            return uvm.outbox.answer(ticket, Ok(Reply::Done));
        }
        (Ok(()), Err(ended)) => ended,
        (Err(failure), _) => return uvm.outbox.answer(ticket, Err(failure)),
    };
    let paths = vec![path];
    container::detach(
        uvm,
        format!("unmounting {paths:?} of the ended container {id:?}"),
        paths,
        storage::unmap,
        move |uvm| uvm.outbox.answer(ticket, Err(ended)),
    );
}

fn unmap_disk(uvm: &mut Uvm, ticket: Ticket, id: String, disk: MappedVirtualDisk) {
    let path = storage::mapped_at(&disk);
    let unplug = move |uvm: &mut Uvm, unmounted: Result<(), Failure>| {
        if let Err(failure) = unmounted {
            return uvm.outbox.answer(ticket, Err(failure));
        }
        if let Ok(mounts) = container::mounted(uvm, &id) {
            mounts.mapped.retain(|p| Some(p) != path.as_ref());
        }
        uvm.run(
            format!("letting go of the disk {}", disk.lun),
            LIMIT,
            move || storage::unplug(disk.lun),
            move |uvm, done: Result<(), Failure>| {
                uvm.outbox.answer(ticket, done.map(|()| Reply::Done));
            },
        );
    };
    match storage::mapped_at(&disk) {
        Some(path) => {
            let named = Source::Disk {
                controller: 0,
                lun: disk.lun,
                partition: 0,
            };
            uvm.unmount(&path.to_string_lossy(), named, LIMIT, unplug);
        }
        None => unplug(uvm, Ok(())),
    }
}
