//! VPCIDevice (protocol section 7.9).

use std::time::Duration;

use crate::bridge::outbox::Ticket;
use crate::prot::settings::VpciDevice;
use crate::storage::{pci, Roots};
use crate::uvm::Uvm;

/// Over the device's own minute, which can say more.
const LIMIT: Duration = Duration::from_secs(70);

impl Uvm {
    /// Waits until the function is there: the host has assigned it just before.
    pub(super) fn add_pci_device(&mut self, ticket: Ticket, device: VpciDevice) {
        let guid = device.vmbus_guid;
        let doing = format!("waiting for the PCI device {guid:?}");
        self.modify_task(ticket, doing, LIMIT, move || {
            pci::find(&Roots::default(), &guid).map(drop)
        });
    }
}
