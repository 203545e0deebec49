//! Signals and shutdown (protocol 4.6, 4.8, 6.9).

use nix::errno::Errno;
use nix::libc::{SIGKILL, SIGTERM};
use nix::unistd::Pid;

use super::container::ContainerState;
use super::processes::{ProcessKey, Role};
use super::{End, Uvm};
use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::prot::{HResult, MessageBase, NotificationType, UVM_ID};

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
        let container = match self.containers.find(id) {
            Ok(container) => container,
            Err(failure) => return self.outbox.answer(ticket, Err(failure)),
        };
        if container.has_exited() {
            self.outbox.answer(ticket, Ok(Reply::Done));
            // The host may be waiting for it (protocol 6.10).
            return self.notify_if_known(id);
        }
        // The type of the exit is noted before, because the container may be gone before the task
        // has reported.
        let noted = if signal == SIGKILL {
            NotificationType::ForcedExit
        } else {
            NotificationType::GracefulExit
        };
        let before = container.note_exit_type(noted.clone());
        // A program decides itself about SIGTERM. Before it is started there is none, and what waits
        // in its place is the first process of a pid namespace, which the kernel spares.
        let is_unstarted = container.state() == ContainerState::Created;
        let signal = if is_unstarted { SIGKILL } else { signal };
        let doing = format!("sending signal {signal} to container {id:?}");
        let name = id.to_owned();
        self.signal_all(doing, id, signal, move |uvm, sent| {
            if let (Err(_), Some(container)) = (&sent, uvm.containers.get_mut(&name)) {
                container.forget_exit_type(&noted, before);
            }
            uvm.outbox.answer(ticket, sent.map(|()| Reply::Done));
        });
    }

    /// `SIGKILL` for a process that has not been reaped.
    pub(super) fn kill_child(&self, key: ProcessKey) {
        if let Some(pid) = self.processes.living(key) {
            if let Err(failure) = send(pid, SIGKILL) {
                log::warn!("{failure}");
            }
        }
    }

    pub(super) fn signal(&mut self, ticket: Ticket, base: &MessageBase, pid: u32, signal: i32) {
        let id = &base.container_id;
        let key = match self.process(id, pid) {
            Ok(key) => key,
            Err(failure) => return self.outbox.answer(ticket, Err(failure)),
        };
        let is_init = matches!(self.processes.role(key), Some(Role::Init(_)));
        if is_init && matches!(signal, SIGKILL | SIGTERM) {
            return self.shutdown_container(ticket, id, signal);
        }
        let sent = match self.processes.living(key) {
            Some(pid) => send(pid, signal),
            None => {
                let text = format!("signalling process {pid}: it has ended");
                Err(Failure::new(HResult::NOT_FOUND, text))
            }
        };
        self.outbox.answer(ticket, sent.map(|()| Reply::Done));
    }

    /// The process that a request names, of the utility VM or of a container.
    pub(super) fn process(&mut self, id: &str, pid: u32) -> Result<ProcessKey, Failure> {
        if id == UVM_ID {
            self.processes.external(pid)
        } else {
            self.containers.process(id, pid, &self.processes)
        }
    }
}

/// `kill(2)` on one process. The pid is that of a child that is not reaped, so no other process can
/// have it.
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
