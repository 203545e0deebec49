//! MappedVirtualDisk and SCSIDevice (protocol sections 7.1, 7.2).

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::prot::settings::{MappedVirtualDisk, ScsiDevice};
use crate::storage::scsi::Address;
use crate::storage::{disk, scsi, Disk, Journal, Record, Roots, Source};
use crate::uvm::{Key, Uvm};

/// Over the device's own limit of five seconds and a format's of 240, which can say more; below
/// the five minutes after which the host gives up.
const LIMIT: Duration = Duration::from_secs(270);

fn doing(disk: &Disk) -> String {
    format!("adding {} at {:?}", disk.source(), disk.mount_path)
}

impl Uvm {
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
        match disk::expected(&Roots::default(), &disk) {
            Some(address) => self.add_coming_disk(ticket, disk, address),
            None => {
                let path = disk.mount_path.clone();
                let doing = doing(&disk);
                self.add_mount(ticket, &path, doing, LIMIT, move |journal| {
                    disk::add(&Roots::default(), &disk, journal)
                });
            }
        }
    }

    fn add_coming_disk(&mut self, ticket: Ticket, disk: Disk, address: Address) {
        if let Err(failure) = self.mounts.begin_add(&disk.mount_path) {
            return self.outbox.answer(ticket, Err(failure));
        }
        let disk = Rc::new(disk);
        let ticket = Rc::new(Cell::new(Some(ticket)));
        let label = doing(&disk);
        let look = move |uvm: &mut Self, key| {
            uvm.add_disk_if_there(&ticket, &disk, key);
        };
        self.await_disk(label, address, Box::new(look));
    }

    fn add_disk_if_there(
        &mut self,
        ticket: &Rc<Cell<Option<Ticket>>>,
        disk: &Rc<Disk>,
        arrival: Key,
    ) {
        let path = disk.mount_path.clone();
        let doing = doing(disk);
        let (theirs, ours) = (Rc::clone(disk), Rc::clone(disk));
        let ticket = Rc::clone(ticket);
        let answer = move |uvm: &mut Self, result: Result<Reply, Failure>| {
            if let Some(ticket) = ticket.take() {
                uvm.outbox.answer(ticket, result);
            }
        };
        let job = move |journal: &Journal| disk::add_if_there(&Roots::default(), &theirs, journal);
        let then = move |uvm: &mut Self, added: Result<Option<Record>, Failure>| match added {
            Ok(Some(record)) => {
                uvm.arrived(arrival);
                uvm.mounts.end_add(&ours.mount_path, Some(record));
                answer(uvm, Ok(Reply::Done));
            }
            Ok(None) => {
                if let Some((address, waited)) = uvm.absent(arrival) {
                    let failure = scsi::missing(&Roots::default(), address, waited);
                    uvm.mounts.end_add(&ours.mount_path, None);
                    let failure = failure.during(format_args!("adding {}", ours.source()));
                    answer(uvm, Err(failure));
                }
            }
            Err(failure) => {
                uvm.arrived(arrival);
                answer(uvm, Err(failure));
            }
        };
        let failed = move |uvm: &mut Self| uvm.mounts.end_add(&path, None);
        self.run_undoable(doing, LIMIT, &[], job, then, failed);
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
