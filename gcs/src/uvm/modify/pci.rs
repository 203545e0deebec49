//! VPCIDevice (protocol section 7.9).

use std::time::Duration;

use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::prot::settings::VpciDevice;
use crate::storage::pci::{ExpectedFunction, ARRIVAL};
use crate::storage::Roots;
use crate::uvm::arrivals::ArrivalLimits;
use crate::uvm::Uvm;

const LIMITS: ArrivalLimits = ArrivalLimits {
    arrival: ARRIVAL,
    task: Duration::from_secs(20),
};

impl Uvm {
    /// Answers when the function is present; the host has just assigned it.
    pub(super) fn add_pci_device(&mut self, ticket: Ticket, device: VpciDevice) {
        let guid = device.vmbus_guid;
        let expected = match ExpectedFunction::new(&Roots::default(), &guid) {
            Ok(expected) => expected,
            Err(failure) => return self.outbox.answer(ticket, Err(failure)),
        };
        self.run_when_there(
            format!("waiting for the PCI device {guid:?}"),
            LIMITS,
            expected.clone(),
            move |_| expected.look(),
            move |uvm, found: Result<_, Failure>| {
                uvm.outbox.answer(ticket, found.map(|_| Reply::Done));
            },
            |_| {},
        );
    }
}
