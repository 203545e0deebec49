//! DeleteContainerState (protocol 6.11).

use std::time::Duration;

use nix::libc::SIGKILL;

use super::container::State;
use super::Host;
use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::prot::{HResult, MessageBase};
use crate::spec::{self, Context};

const DELETE_LIMIT: Duration = Duration::from_secs(120);

impl Host {
    pub(super) fn delete(&mut self, ticket: Ticket, base: &MessageBase) {
        let id = base.container_id.clone();
        let container = match self.container(&id) {
            Ok(container) => container,
            Err(failure) => return self.outbox.answer(ticket, Err(failure)),
        };
        match container.state {
            State::Exited => {
                container.state = State::Deleting;
                self.notify_exit(&id);
                self.delete_files(id, ticket);
            }
            // Never started: its init is killed, and its exit goes on with the deletion.
            State::Created => {
                container.state = State::Deleting;
                container.delete = Some(ticket);
                let name = id.clone();
                self.run(
                    format!("killing the never started container {id:?}"),
                    super::shutdown::SIGNAL_LIMIT,
                    move || crate::runtime::signal_all(&name, SIGKILL),
                    move |host, killed: Result<(), Failure>| {
                        let Err(failure) = killed else { return };
                        let Some(container) = host.containers.get_mut(&id) else {
                            return;
                        };
                        if let Some(ticket) = container.delete.take() {
                            container.state = State::Created;
                            host.outbox.answer(ticket, Err(failure));
                        }
                    },
                );
            }
            state => {
                let text =
                    format!("deleting container {id:?}: it is {state:?}; shut it down first");
                self.outbox
                    .answer(ticket, Err(Failure::new(HResult::INVALID_STATE, text)));
            }
        }
    }

    /// The container's processes are gone: removes what it left, then forgets it.
    pub(super) fn delete_files(&mut self, id: String, ticket: Ticket) {
        let Some(container) = self.containers.get(&id) else {
            return;
        };
        let (bundle, scratch) = (container.bundle.clone(), container.scratch.clone());
        let name = id.clone();
        self.run(
            format!("deleting container {id:?}"),
            DELETE_LIMIT,
            move || {
                let engine = crate::runtime::delete(&name);
                let files = spec::remove_files(&name, &scratch, &bundle, &Context::default());
                engine.and(files)
            },
            move |host, deleted: Result<(), Failure>| {
                host.namespaces.unbind(&id);
                if let Some(container) = host.containers.remove(&id) {
                    let keys = container
                        .init
                        .into_iter()
                        .chain(container.execs.into_values());
                    for key in keys.collect::<Vec<_>>() {
                        host.discard_process(key);
                    }
                }
                host.outbox.answer(ticket, deleted.map(|()| Reply::Done));
            },
        );
    }
}
