//! ModifySettings of the retired protocol: disks of the container (8.5).

use std::time::Duration;

use super::storage;
use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::host::Host;
use crate::prot::v1::{MappedVirtualDisk, Mapping, ModifyRequest};
use crate::prot::{MessageBase, RequestType};

const LIMIT: Duration = Duration::from_secs(60);

impl Host {
    pub(super) fn modify_v1(&mut self, ticket: Ticket, base: &MessageBase, request: ModifyRequest) {
        let id = &base.container_id;
        let refused = |text: String| Err(Failure::unspecified(text));
        let disk = self.mounts_v1(id).map(drop).and_then(|()| {
            match (request.mapping, &request.request_type) {
                (Mapping::Disk(disk), RequestType::Add | RequestType::Remove) => Ok(disk),
                (Mapping::Disk(_), other) => refused(format!("a disk knows no request {other}")),
                (Mapping::Directory(_), _) => {
                    refused("MappedDirectory of the retired schema is not supported".to_owned())
                }
                (Mapping::Unknown(_), _) => {
                    refused("the retired schema maps disks and directories only".to_owned())
                }
            }
        });
        match (disk, request.request_type) {
            (Err(failure), _) => self.outbox.answer(ticket, Err(failure)),
            (Ok(disk), RequestType::Remove) => self.unmap_v1(ticket, id.clone(), disk),
            (Ok(disk), _) => self.map_v1(ticket, id.clone(), disk),
        }
    }

    fn map_v1(&mut self, ticket: Ticket, id: String, disk: MappedVirtualDisk) {
        let mapped = disk.clone();
        self.run(
            format!("mapping the disk at {:?}", disk.container_path),
            LIMIT,
            move || storage::map_disk(&mapped),
            move |host, done: Result<(), Failure>| {
                let result = done.map(|()| match host.mounts_v1(&id) {
                    Ok(mounts) => mounts.disks.push(disk),
                    // The container has ended meanwhile, and its mounts without this one.
                    Err(_) => log::warn!("a disk of the ended container {id:?} stays mounted"),
                });
                host.outbox.answer(ticket, result.map(|()| Reply::Done));
            },
        );
    }

    fn unmap_v1(&mut self, ticket: Ticket, id: String, disk: MappedVirtualDisk) {
        let mapped = disk.clone();
        self.run(
            format!("removing the disk at {:?}", disk.container_path),
            LIMIT,
            move || storage::unmap_disk(&mapped).and_then(|()| storage::unplug(mapped.lun)),
            move |host, done: Result<(), Failure>| {
                if let (Ok(()), Ok(mounts)) = (&done, host.mounts_v1(&id)) {
                    mounts
                        .disks
                        .retain(|d| d.container_path != disk.container_path);
                }
                host.outbox.answer(ticket, done.map(|()| Reply::Done));
            },
        );
    }
}
