//! ContainerConstraints (protocol 7.10): new limits for a container.

use std::time::Duration;

use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::prot::settings::ContainerConstraints;
use crate::uvm::engine::group;
use crate::uvm::Uvm;

/// The kernel writes pages back before it lowers a memory limit.
const LIMIT: Duration = Duration::from_secs(60);

impl Uvm {
    /// Applies them to the container `id`, which must not have ended.
    pub(super) fn constrain(&mut self, ticket: Ticket, id: &str, settings: ContainerConstraints) {
        let checked = self.containers.find(id).and_then(|container| {
            if container.has_exited() {
                let text = format!("container {id:?} has exited: it has no limits to change");
                return Err(Failure::unspecified(text));
            }
            Ok(())
        });
        if let Err(failure) = checked {
            return self.outbox.answer(ticket, Err(failure));
        }
        let doing = format!("changing the limits of container {id:?}");
        let (id, label) = (id.to_owned(), doing.clone());
        let resources = settings.linux.unwrap_or_default().0;
        self.run(
            doing,
            LIMIT,
            move || {
                group(&id)
                    .constrain(&resources)
                    .map_err(|f| f.during(label))
            },
            move |uvm, done: Result<(), Failure>| {
                uvm.outbox.answer(ticket, done.map(|()| Reply::Done));
            },
        );
    }
}
