//! MappedVirtualDisk and SCSIDevice (protocol sections 7.1, 7.2).

use std::time::Duration;

use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::host::Host;
use crate::prot::settings::{MappedVirtualDisk, ScsiDevice};
use crate::storage::{disk, scsi, Disk, Roots};

/// Over the device's own limit of five seconds and a format's of 240, which can say more; below
/// the five minutes after which the host gives up.
const LIMIT: Duration = Duration::from_secs(270);

impl Host {
    pub(super) fn remove_scsi_device(&mut self, ticket: Ticket, device: ScsiDevice) {
        self.modify_task(
            ticket,
            format!("removing SCSI disk {}:{}", device.controller, device.lun),
            LIMIT,
            move || scsi::remove(&Roots::default(), device.controller, device.lun),
        );
    }

    pub(super) fn add_disk(&mut self, ticket: Ticket, settings: MappedVirtualDisk) {
        let path = settings.mount_path.clone();
        // The path is taken before the disk is looked for: of two requests one is refused.
        if let Err(failure) = self.disks.begin_add(&path) {
            return self.outbox.answer(ticket, Err(failure));
        }
        let disk = Disk {
            controller: settings.controller,
            lun: settings.lun,
            partition: settings.partition,
            mount_path: settings.mount_path,
            read_only: settings.read_only,
            encrypted: settings.encrypted,
            options: settings.options,
            ensure_filesystem: settings.ensure_filesystem,
            filesystem: settings.filesystem,
        };
        let doing = format!(
            "adding SCSI disk {}:{} at {path:?}",
            disk.controller, disk.lun
        );
        self.run(
            doing,
            LIMIT,
            move || disk::add(&Roots::default(), &disk),
            move |host, added: Result<disk::Record, Failure>| {
                let (record, result) = match added {
                    Ok(record) => (Some(record), Ok(Reply::Done)),
                    Err(failure) => (None, Err(failure)),
                };
                host.disks.end_add(&path, record);
                host.outbox.answer(ticket, result);
            },
        );
    }

    pub(super) fn remove_disk(&mut self, ticket: Ticket, settings: MappedVirtualDisk) {
        let path = settings.mount_path;
        let address = (settings.controller, settings.lun, settings.partition);
        if let Err(failure) = self.disks.begin_remove(&path, address) {
            return self.outbox.answer(ticket, Err(failure));
        }
        let mount_path = path.clone();
        self.run(
            format!("removing the disk at {path:?}"),
            LIMIT,
            move || disk::remove(&mount_path),
            move |host, removed: Result<(), Failure>| {
                host.disks.end_remove(&path, removed.is_ok());
                host.outbox.answer(ticket, removed.map(|()| Reply::Done));
            },
        );
    }
}
