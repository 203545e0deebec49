//! VPMemDevice (protocol section 7.4).

use std::time::Duration;

use crate::bridge::outbox::Ticket;
use crate::prot::settings::VpMemDevice;
use crate::storage::pmem::{self, Part, Pmem};
use crate::storage::Roots;
use crate::uvm::Uvm;

/// Over the device's own limit of five seconds, which can say more.
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
        let path = &settings.mount_path;
        let doing = format!("adding {} at {path:?}", pmem.source());
        self.add_mount(ticket, path, doing, LIMIT, move |journal| {
            pmem::add(&Roots::default(), &pmem, journal)
        });
    }

    pub(super) fn remove_pmem(&mut self, ticket: Ticket, settings: &VpMemDevice) {
        let named = pmem(settings).source();
        self.remove_mount(ticket, &settings.mount_path, named, LIMIT, |_, _| {});
    }
}
