//! DeleteContainerState (protocol 6.11).

use std::time::{Duration, Instant};

use nix::libc::SIGKILL;

use super::container::State;
use super::{Deadline, Key, Uvm};
use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::bundle::{self, Context};
use crate::error::Failure;
use crate::prot::{HResult, MessageBase};
use crate::storage::{self, Roots};

const DELETE_LIMIT: Duration = Duration::from_secs(120);
/// How long a killed init may take to end; a host has given up on the container by then.
const DEATH_LIMIT: Duration = Duration::from_secs(60);

impl Uvm {
    pub(super) fn delete(&mut self, ticket: Ticket, base: &MessageBase) {
        let id = base.container_id.clone();
        let container = match self.container(&id) {
            Ok(container) => container,
            Err(failure) => return self.outbox.answer(ticket, Err(failure)),
        };
        match container.state {
            State::Exited => {
                container.state = State::Deleting;
                // Whoever still waits hears the exit code before the notification goes out.
                if let Some(init) = container.init {
                    self.publish(init);
                }
                self.notify_exit(&id);
                self.delete_files(id, ticket);
            }
            // Never started: its init is killed, and its exit goes on with the deletion.
            State::Created => {
                container.state = State::Deleting;
                container.delete = Some(ticket);
                if let Some(init) = container.init {
                    self.timers
                        .add(Instant::now() + DEATH_LIMIT, Deadline::Deletion(init));
                }
                let name = id.clone();
                self.run(
                    format!("killing the never started container {id:?}"),
                    super::shutdown::SIGNAL_LIMIT,
                    move || crate::runtime::signal_all(&name, SIGKILL),
                    move |uvm, killed: Result<(), Failure>| {
                        if let Err(failure) = killed {
                            uvm.deletion_failed(&id, failure);
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

    /// The init was killed and lives on, stuck in the kernel: the container stays.
    pub(super) fn deletion_overdue(&mut self, init: Key) {
        let of_init = self.containers.iter().find(|(_, c)| c.init == Some(init));
        if let Some(id) = of_init.map(|(id, _)| id.clone()) {
            let text =
                format!("deleting container {id:?}: its init was killed {DEATH_LIMIT:?} ago and has not ended");
            self.deletion_failed(&id, Failure::new(HResult::INVALID_STATE, text));
        }
    }

    /// Takes back a deletion that waits for its init to end.
    fn deletion_failed(&mut self, id: &str, failure: Failure) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        if let Some(ticket) = container.delete.take() {
            container.state = State::Created;
            self.outbox.answer(ticket, Err(failure));
        }
    }

    /// The container's processes are gone: removes what it left, then forgets it.
    pub(super) fn delete_files(&mut self, id: String, ticket: Ticket) {
        // Its group takes what it counted along.
        self.memory_look();
        let Some(container) = self.containers.get(&id) else {
            return;
        };
        let _about = ticket.scope.enter();
        let (bundle, scratch) = (container.bundle.clone(), container.scratch.clone());
        // Their mounts go too, if the host has left them there.
        let inside = self.begin_removal(&[&bundle, &scratch]);
        let mappings = inside.mappings.clone();
        let name = id.clone();
        self.run(
            format!("deleting container {id:?}"),
            DELETE_LIMIT,
            move || {
                let engine = crate::runtime::delete(&name);
                let files = bundle::remove_files(&name, &scratch, &bundle, &Context::default());
                let files =
                    files.and_then(|()| storage::remove_mappings(&Roots::default(), &mappings));
                engine.and(files)
            },
            move |uvm, deleted: Result<(), Failure>| {
                if let Err(failure) = deleted {
                    // A mount in use, most likely: nothing behind it is touched, and the host
                    // can ask again.
                    uvm.end_removal(&inside, false);
                    if let Some(container) = uvm.containers.get_mut(&id) {
                        container.state = State::Exited;
                    }
                    return uvm.outbox.answer(ticket, Err(failure));
                }
                uvm.end_removal(&inside, true);
                uvm.namespaces.unbind(&id);
                if let Some(container) = uvm.containers.remove(&id) {
                    let keys = container
                        .init
                        .into_iter()
                        .chain(container.execs.into_values());
                    for key in keys.collect::<Vec<_>>() {
                        uvm.discard_process(key);
                    }
                }
                uvm.outbox.answer(ticket, Ok(Reply::Done));
            },
        );
    }
}
