//! MappedVirtualDisk and SCSIDevice (protocol sections 7.1, 7.2).

use std::time::Duration;

use crate::bridge::outbox::Ticket;
use crate::host::Host;
use crate::prot::settings::{MappedVirtualDisk, ScsiDevice};
use crate::storage::{disk, scsi, Disk, Roots, Source};

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
            block_device: settings.block_dev,
            verified: self.layers_are_verified(),
        };
        let path = disk.mount_path.clone();
        let doing = format!("adding {} at {path:?}", disk.source());
        self.add_mount(ticket, &path, doing, LIMIT, move |journal| {
            disk::add(&Roots::default(), &disk, journal)
        });
    }

    pub(super) fn remove_disk(&mut self, ticket: Ticket, settings: &MappedVirtualDisk) {
        let named = Source::Disk {
            controller: settings.controller,
            lun: settings.lun,
            partition: settings.partition,
        };
        self.remove_mount(ticket, &settings.mount_path, named, LIMIT, |_, _| {});
    }
}
