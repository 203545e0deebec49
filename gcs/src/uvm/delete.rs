//! DeleteContainerState (protocol 6.11).

use std::time::{Duration, Instant};

use nix::libc::SIGKILL;

use super::container::{ContainerState, WaitingDelete};
use super::Uvm;
use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::bundle::{self, Context};
use crate::error::Failure;
use crate::prot::{HResult, MessageBase};
use crate::storage::{self, Roots};

const DELETE_LIMIT: Duration = Duration::from_secs(120);
/// How long a killed init may take to end. The host has given up on the container by then.
const DEATH_LIMIT: Duration = Duration::from_secs(60);

impl Uvm {
    pub(super) fn delete(&mut self, ticket: Ticket, base: &MessageBase) {
        let id = base.container_id.clone();
        let container = match self.containers.find(&id) {
            Ok(container) => container,
            Err(failure) => return self.outbox.answer(ticket, Err(failure)),
        };
        match container.state() {
            ContainerState::Exited => {
                container.begin_delete(None);
                // Waiters get the exit code before the notification goes out.
                if let Some(init) = container.init() {
                    self.publish(init);
                }
                self.notify_exit(&id);
                self.delete_files(id, ticket);
            }
            ContainerState::Created => self.delete_unstarted(id, ticket),
            state => {
                let text =
                    format!("deleting container {id:?}: it is {state:?}; shut it down first");
                self.outbox
                    .answer(ticket, Err(Failure::new(HResult::INVALID_STATE, text)));
            }
        }
    }

    /// The container was never started. Its init is killed, and the deletion goes on at its exit.
    /// When the init is stuck in the kernel and does not end, the container stays.
    fn delete_unstarted(&mut self, id: String, ticket: Ticket) {
        let text = format!(
            "deleting container {id:?}: its init was killed {DEATH_LIMIT:?} ago and has not ended"
        );
        let (label, name) = (format!("end of the deleted container {id:?}"), id.clone());
        let timer = self.at(Instant::now() + DEATH_LIMIT, label, move |uvm| {
            uvm.deletion_failed(&name, Failure::new(HResult::INVALID_STATE, text));
        });
        if let Some(container) = self.containers.get_mut(&id) {
            container.begin_delete(Some(WaitingDelete {
                ticket,
                timer: Some(timer),
            }));
        }
        let doing = format!("killing the never started container {id:?}");
        self.signal_all(doing, &id.clone(), SIGKILL, move |uvm, killed| {
            if let Err(failure) = killed {
                uvm.deletion_failed(&id, failure);
            }
        });
    }

    /// Gives up a deletion that waits for init to end.
    fn deletion_failed(&mut self, id: &str, failure: Failure) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        if let Some(WaitingDelete { ticket, timer }) = container.take_delete() {
            container.delete_failed(ContainerState::Created);
            if let Some(timer) = timer {
                self.cancel(timer);
            }
            self.outbox.answer(ticket, Err(failure));
        }
    }

    /// The container's processes are gone: removes what it left, then forgets it.
    pub(super) fn delete_files(&mut self, id: String, ticket: Ticket) {
        // The counters of its cgroup go away with the cgroup.
        self.machine.look_at_memory();
        let Some(container) = self.containers.get(&id) else {
            return;
        };
        let _about = ticket.scope.enter();
        let bundle = container.bundle().to_owned();
        let scratch = container.scratch().to_owned();
        let own = container.own_directory(&id);
        // Mounts that the host has left there are taken away too.
        let inside = self.begin_removal(&[&bundle, &scratch]);
        let mappings = inside.mappings.clone();
        let name = id.clone();
        self.run(
            format!("deleting container {id:?}"),
            DELETE_LIMIT,
            move || {
                let engine = super::engine::group(&name).destroy();
                let files = bundle::remove_files(&own, &scratch, &bundle, &Context::default());
                let files =
                    files.and_then(|()| storage::remove_mappings(&Roots::default(), &mappings));
                engine.and(files)
            },
            move |uvm, deleted: Result<(), Failure>| {
                if let Err(failure) = deleted {
                    // Most likely a mount is in use. Nothing below it was touched, and the host can
                    // ask again.
                    uvm.end_removal(&inside, false);
                    if let Some(container) = uvm.containers.get_mut(&id) {
                        container.delete_failed(ContainerState::Exited);
                    }
                    return uvm.outbox.answer(ticket, Err(failure));
                }
                uvm.end_removal(&inside, true);
                uvm.namespaces.unbind(&id);
                if let Some(container) = uvm.containers.remove(&id) {
                    for key in container.processes() {
                        uvm.discard_process(key);
                    }
                }
                uvm.outbox.answer(ticket, Ok(Reply::Done));
            },
        );
    }
}
