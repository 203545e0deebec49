//! VPMemDevice (protocol section 7.4).

use std::time::Duration;

use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::prot::settings::VpMemDevice;
use crate::storage::arrival::ARRIVAL;
use crate::storage::pmem::{self, ExpectedPmem, Part, Pmem};
use crate::storage::Roots;
use crate::uvm::arrivals::ArrivalLimits;
use crate::uvm::Uvm;

const LIMIT: Duration = Duration::from_secs(60);

fn pmem(settings: &VpMemDevice) -> Pmem {
    Pmem {
        device: settings.device_number,
        mount_path: settings.mount_path.clone(),
        part: settings.mapping_info.map(|mapping| Part {
            offset: mapping.device_offset_in_bytes,
            size: mapping.device_size_in_bytes,
        }),
        verified: false,
    }
}

impl Uvm {
    pub(super) fn add_pmem(&mut self, ticket: Ticket, settings: &VpMemDevice) {
        let mut pmem = pmem(settings);
        pmem.verified = self.layers_are_verified();
        let expected = ExpectedPmem::new(&Roots::default(), pmem.device);
        let begun = self.mounts.begin_add(&pmem.mount_path);
        let begun = begun.and_then(|()| {
            pmem::check(&pmem).inspect_err(|_| self.mounts.end_add(&pmem.mount_path, None))
        });
        if let Err(failure) = begun {
            return self.outbox.answer(ticket, Err(failure));
        }
        let limits = ArrivalLimits {
            arrival: ARRIVAL,
            task: LIMIT,
        };
        let (path, failed_path) = (pmem.mount_path.clone(), pmem.mount_path.clone());
        self.run_when_there(
            format!("adding {} at {path:?}", pmem.source()),
            limits,
            expected.clone(),
            move |journal| pmem::add(&expected, &pmem, journal),
            move |uvm, added: Result<_, Failure>| {
                let done = added.map(|record| uvm.mounts.end_add(&path, Some(record)));
                uvm.outbox.answer(ticket, done.map(|()| Reply::Done));
            },
            move |uvm| uvm.mounts.end_add(&failed_path, None),
        );
    }

    pub(super) fn remove_pmem(&mut self, ticket: Ticket, settings: &VpMemDevice) {
        let named = pmem(settings).source();
        self.remove_mount(ticket, &settings.mount_path, named, LIMIT, |_, _| {});
    }
}
