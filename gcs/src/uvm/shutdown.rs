//! Signals and shutdown (protocol 4.6, 4.8, 6.9).

use std::time::Duration;

use nix::errno::Errno;
use nix::libc::{SIGKILL, SIGTERM};
use nix::unistd::Pid;

use super::container::State;
use super::process::Role;
use super::{End, Key, Uvm};
use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::prot::{HResult, MessageBase, NotificationType, UVM_ID};

/// Time to deliver a signal to every process of a container.
pub const SIGNAL_LIMIT: Duration = Duration::from_secs(20);

impl Uvm {
    /// ShutdownGraceful and ShutdownForced; for the utility VM there is no answer (P-209).
    pub(super) fn shutdown(&mut self, ticket: Ticket, base: &MessageBase, signal: i32) {
        if base.container_id == UVM_ID {
            self.outbox.leave_unanswered(ticket);
            self.end = Some(End::PowerOff);
        } else {
            self.shutdown_container(ticket, &base.container_id, signal);
        }
    }

    fn shutdown_container(&mut self, ticket: Ticket, id: &str, signal: i32) {
        let container = match self.container(id) {
            Ok(container) => container,
            Err(failure) => return self.outbox.answer(ticket, Err(failure)),
        };
        if container.state >= State::Exited {
            self.outbox.answer(ticket, Ok(Reply::Done));
            // The host may be waiting for it (protocol 6.10).
            return self.notify_if_known(id);
        }
        // Noted first: the container may be gone before the signal task has reported.
        let noted = if signal == SIGKILL {
            NotificationType::ForcedExit
        } else {
            NotificationType::GracefulExit
        };
        let before = std::mem::replace(&mut container.exit_type, noted.clone());
        let (name, id) = (id.to_owned(), id.to_owned());
        self.run(
            format!("sending signal {signal} to container {id:?}"),
            SIGNAL_LIMIT,
            move || crate::runtime::signal_all(&name, signal),
            move |uvm, sent: Result<(), Failure>| {
                if sent.is_err() {
                    if let Some(container) = uvm.containers.get_mut(&id) {
                        // Unless a later signal has got through.
                        if container.exit_type == noted {
                            container.exit_type = before;
                        }
                    }
                }
                uvm.outbox.answer(ticket, sent.map(|()| Reply::Done));
            },
        );
    }

    /// `SIGKILL` for a process that has not been reaped.
    pub(super) fn kill_child(&self, key: Key) {
        if let Some(process) = self.processes.get(&key).filter(|p| !p.has_exited()) {
            if let Err(failure) = send(process.pid, SIGKILL) {
                log::warn!("{failure}");
            }
        }
    }

    pub(super) fn signal(&mut self, ticket: Ticket, base: &MessageBase, pid: u32, signal: i32) {
        let id = &base.container_id;
        let key = if id == UVM_ID {
            self.external(pid)
        } else {
            self.container_process(id, pid)
        };
        let result = key.and_then(|key| {
            let process = &self.processes[&key];
            if matches!(process.role, Role::Init(_)) && matches!(signal, SIGKILL | SIGTERM) {
                return Ok(true);
            }
            if process.has_exited() {
                let text = format!("signalling process {pid}: it has ended");
                return Err(Failure::new(HResult::NOT_FOUND, text));
            }
            send(pid, signal).map(|()| false)
        });
        match result {
            Ok(true) => self.shutdown_container(ticket, &base.container_id, signal),
            other => self.outbox.answer(ticket, other.map(|_| Reply::Done)),
        }
    }
}

/// `kill(2)` on one process. The pid is a child of ours that was not reaped: it cannot be
/// somebody else's.
pub(super) fn send(pid: u32, signal: i32) -> Result<(), Failure> {
    let pid = Pid::from_raw(pid.cast_signed());
    crate::sys::process::kill(pid, signal).map_err(|errno| {
        let code = if errno == Errno::ESRCH {
            HResult::NOT_FOUND
        } else {
            HResult::FAIL
        };
        Failure::new(
            code,
            format!("sending signal {signal} to process {pid}: {}", errno.desc()),
        )
    })
}
