//! MappedVirtualDisk and SCSIDevice (protocol sections 7.1, 7.2).

use std::time::Duration;

use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::prot::settings::{MappedVirtualDisk, ScsiDevice};
use crate::storage::arrival::ARRIVAL;
use crate::storage::{disk, scsi, Disk, MountRecord, Roots, Source};
use crate::uvm::arrivals::ArrivalLimits;
use crate::uvm::Uvm;

/// Longer than a format may take (240 s), because the error of the format says more. The host gives
/// up after five minutes.
const LIMIT: Duration = Duration::from_secs(270);

impl Uvm {
    /// Adds a disk, from the request to its answer:
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
        // The path is taken before anything is looked for, so that one of two requests is refused.
        if let Err(failure) = self.mounts.begin_add(&path) {
            return self.outbox.answer(ticket, Err(failure));
        }
        let expected = match disk::expected(&Roots::default(), &disk) {
            Ok(Some(expected)) => expected,
            // Nothing is mounted, so nothing is looked for.
            Ok(None) => return self.disk_added(ticket, &path, Ok(None)),
            Err(failure) => return self.disk_added(ticket, &path, Err(failure)),
        };
        // The loop waits for the disk; a task looks for it and mounts it.
        let limits = ArrivalLimits {
            arrival: ARRIVAL,
            task: LIMIT,
        };
        let doing = format!("adding {} at {path:?}", disk.source());
        let (device, failed_path) = (expected.clone(), path.clone());
        self.run_when_there(
            doing,
            limits,
            device,
            move |journal| disk::add(&expected, &disk, journal),
            move |uvm, added: Result<MountRecord, Failure>| match added {
                Ok(record) => uvm.disk_added(ticket, &path, Ok(Some(record))),
                // The path stays taken until what was done is undone.
                Err(failure) => uvm.outbox.answer(ticket, Err(failure)),
            },
            move |uvm| uvm.mounts.end_add(&failed_path, None),
        );
    }

    /// The record of what is mounted is kept for the Remove; without one the path is free.
    fn disk_added(
        &mut self,
        ticket: Ticket,
        path: &str,
        added: Result<Option<MountRecord>, Failure>,
    ) {
        let (record, answer) = match added {
            Ok(record) => (record, Ok(Reply::Done)),
            Err(failure) => (None, Err(failure)),
        };
        self.mounts.end_add(path, record);
        self.outbox.answer(ticket, answer);
    }

    pub(super) fn remove_disk(&mut self, ticket: Ticket, settings: &MappedVirtualDisk) {
        let named = Source::Disk {
            controller: settings.controller,
            lun: settings.lun,
            partition: settings.partition,
        };
        self.remove_mount(ticket, &settings.mount_path, named, LIMIT, |_, _| {});
    }

    pub(super) fn remove_scsi_device(&mut self, ticket: Ticket, device: ScsiDevice) {
        let doing = format!("removing SCSI disk {}:{}", device.controller, device.lun);
        self.run(
            doing,
            LIMIT,
            move || scsi::remove(&Roots::default(), device.controller, device.lun),
            move |uvm, removed: Result<(), Failure>| {
                uvm.outbox.answer(ticket, removed.map(|()| Reply::Done));
            },
        );
    }
}
