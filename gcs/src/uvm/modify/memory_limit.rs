//! PodCgroupMemoryLimit (protocol 16.3): the host has changed the VM's memory, and what containers may
//! use together follows. The same is done unasked, because a host may not say so.

use std::time::Duration;

use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::machine::containers_limit::{ram, NewLimit};
use crate::uvm::Uvm;

/// The kernel writes pages back before it lowers a limit.
const LIMIT: Duration = Duration::from_secs(60);

impl Uvm {
    pub(super) fn limit_containers(&mut self, ticket: Ticket) {
        let due = ram().and_then(|ram| {
            let limit = self.machine.limit_mut();
            let none = || Failure::unspecified("the service limits no memory here");
            Ok(limit.ok_or_else(none)?.due(ram))
        });
        match due {
            Err(failure) => self.outbox.answer(ticket, Err(failure)),
            Ok(None) => self.outbox.answer(ticket, Ok(Reply::Done)),
            Ok(Some(new)) => self.apply_limit(new, move |uvm, applied| {
                uvm.outbox.answer(ticket, applied.map(|()| Reply::Done));
            }),
        }
    }

    /// To be called from time to time.
    pub(in crate::uvm) fn look_at_ram(&mut self) {
        let Some(limit) = self.machine.limit_mut() else {
            return;
        };
        if let Some(new) = ram().ok().and_then(|ram| limit.news(ram)) {
            self.apply_limit(new, |_, applied| {
                if let Err(failure) = applied {
                    log::warn!("{failure}");
                }
            });
        }
    }

    fn apply_limit(
        &mut self,
        new: NewLimit,
        then: impl FnOnce(&mut Self, Result<(), Failure>) + 'static,
    ) {
        let doing = "changing the memory of all containers";
        self.run(
            doing,
            LIMIT,
            move || new.apply(),
            move |uvm, applied: Result<u64, Failure>| {
                let done = applied.map(|bytes| {
                    log::info!(bytes = bytes; "the memory of all containers has a new limit");
                    if let Some(limit) = uvm.machine.limit_mut() {
                        limit.applied(bytes);
                    }
                });
                then(uvm, done.map_err(|failure| failure.during(doing)));
            },
        );
    }
}
