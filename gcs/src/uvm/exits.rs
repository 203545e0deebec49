//! How processes and containers end.
//!
//! Order at the end of a process: reaped → streams drained → waiters answered → (init only)
//! the container's exit notification. A record goes away by the rules of protocol 6.8.

use std::time::{Duration, Instant};

use nix::libc::SIGKILL;
use nix::unistd::Pid;

use super::container::{Container, WaitingDelete};
use super::processes::{ProcessKey, Role, Waiter};
use super::{note_poll_error, v1, Uvm};
use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::prot::HResult;
use crate::stdio::{Relay, StreamKind};
use crate::sys::process::ExitStatus;

/// How often a hung-up terminal is looked at.
const TERMINAL_LOOK: Duration = Duration::from_millis(250);
/// How long the output of a process may come after its exit, from those that it has left behind.
const OUTPUT_GRACE: Duration = Duration::from_secs(2);
/// How long the notification of an exit waits for a first WaitForProcess.
const WAITER_GRACE: Duration = Duration::from_secs(5);

impl Uvm {
    /// Registers a process. `exit` is set when it ended before its pid was known.
    pub(super) fn adopt(
        &mut self,
        role: Role,
        pid: Pid,
        relay: Relay,
        exit: Option<ExitStatus>,
    ) -> ProcessKey {
        let key = self.processes.add(role, pid, relay);
        let exit = exit.or_else(|| self.children.claim(pid, key));
        self.watch_relay(key);
        if let Some(status) = exit {
            self.process_exited(key, status);
        }
        key
    }

    /// Begins to move the streams of a process.
    pub(super) fn watch_relay(&mut self, key: ProcessKey) {
        if self.processes.has_terminal(key) {
            self.look_at_terminal_later(key);
        }
        self.processes.watch(key, &mut self.poller);
    }

    pub(super) fn stream_ready(&mut self, key: ProcessKey, kind: StreamKind) {
        self.processes.stream_ready(key, kind, &mut self.poller);
        self.publish_if_over(key);
    }

    /// There is no event when a process opens a terminal that all had closed. So the terminal is
    /// looked at from time to time.
    fn look_at_terminal_later(&mut self, key: ProcessKey) {
        let pid = self.processes.pid(key).unwrap_or_default();
        let (at, label) = (
            Instant::now() + TERMINAL_LOOK,
            format!("look at the terminal of process {pid}"),
        );
        self.at(at, label, move |uvm| {
            if uvm.processes.look_at_terminal(key, &mut uvm.poller) {
                uvm.look_at_terminal_later(key);
            }
        });
    }

    pub(super) fn process_exited(&mut self, key: ProcessKey, status: ExitStatus) {
        self.processes.exited(key, status, &mut self.poller);
        if let Some(Role::Init(id)) = self.processes.role(key).cloned() {
            self.init_exited(&id);
        }
        self.publish_if_over(key);
        // A record that is gone was published and collected.
        let is_known = self.processes.pid(key).is_some();
        if is_known && !self.processes.is_published(key) {
            self.cut_output_later(key);
        }
    }

    /// A process that this one has left behind may have its output open for ever, and its exit
    /// would never be known.
    fn cut_output_later(&mut self, key: ProcessKey) {
        let pid = self.processes.pid(key).unwrap_or_default();
        let label = format!("end of the output of process {pid}, which has ended");
        let cut = self.at(Instant::now() + OUTPUT_GRACE, label, move |uvm| {
            let (pid, left) = uvm.processes.cut_output(key, &mut uvm.poller);
            for output in left {
                log::info!(
                    "process {pid} has ended and left one behind that has its output open: what \
                     that one writes is dropped from now on"
                );
                uvm.drop_output(pid, output);
            }
            uvm.publish_if_over(key);
        });
        self.processes.set_cut(key, cut);
    }

    /// Makes an exit known once the process was reaped and its streams are drained.
    fn publish_if_over(&mut self, key: ProcessKey) {
        if self.processes.is_to_be_published(key) && v1::storage_is_gone(self, key) {
            self.publish(key);
        }
    }

    /// Makes the exit of a reaped process known, and drops what its streams still hold.
    pub(super) fn publish(&mut self, key: ProcessKey) {
        let heard = self.outbox.is_connected();
        let Some(process) = self.processes.publish(key, heard) else {
            return;
        };
        note_poll_error("a stream", process.relay.abandon(&mut self.poller));
        if let Some(cut) = process.cut {
            self.cancel(cut);
        }
        if let Some(status) = process.exit {
            self.answer_waiters(process.waiters, &Ok(exited(status)));
        }
        // After the replies, so that the host sees the exit code first (P-023).
        if let Role::Init(id) = process.role {
            self.container_exited(&id);
        }
        self.drop_collected(key);
    }

    fn answer_waiters(&mut self, waiters: Vec<Waiter>, answer: &Result<Reply, Failure>) {
        for waiter in waiters {
            if let Some(timer) = waiter.timer {
                self.cancel(timer);
            }
            self.outbox.answer(waiter.ticket, answer.clone());
        }
    }

    /// Waits for a process: without a `limit` for ever, with zero until the end of this turn of the
    /// loop, which may still bring the exit.
    pub(super) fn wait_for(&mut self, key: ProcessKey, ticket: Ticket, limit: Option<Duration>) {
        if let Some((status, role)) = self.processes.collect(key) {
            self.outbox.answer(ticket, Ok(exited(status)));
            if let Role::Init(id) = role {
                self.notify_exit(&id);
            }
            return self.drop_collected(key);
        }
        let Some(pid) = self.processes.pid(key) else {
            return;
        };
        let number = self.processes.waiter_number();
        let timer = limit.map(|limit| {
            let label = format!("time-out of a wait for process {pid}");
            self.at(Instant::now() + limit, label, move |uvm| {
                if let Some((ticket, pid)) = uvm.processes.take_waiter(key, number) {
                    uvm.outbox.answer(ticket, Err(wait_timeout(pid)));
                }
            })
        });
        self.processes.wait(key, number, ticket, timer);
    }

    /// A collected exit needs no record any more.
    fn drop_collected(&mut self, key: ProcessKey) {
        if self.session.keeps_collected() {
            return;
        }
        if let Some((id, pid)) = self.processes.drop_collected(key) {
            if let Some(container) = self.containers.get_mut(&id) {
                container.forget_exec(pid, key);
            }
        }
    }

    /// Forgets a process with its streams. Its waiters get the exit code, or the error that it is
    /// gone.
    pub(super) fn discard_process(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.remove(key) else {
            return;
        };
        self.children.disown(key);
        if let Some(cut) = process.cut {
            self.cancel(cut);
        }
        // When the process has ended, only the rest of its output is lost.
        let answer = match process.exit {
            Some(status) => Ok(exited(status)),
            None => Err(Failure::new(
                HResult::NOT_FOUND,
                format!(
                    "waiting for process {}: its container was deleted",
                    process.pid
                ),
            )),
        };
        self.answer_waiters(process.waiters, &answer);
        note_poll_error("a stream", process.relay.abandon(&mut self.poller));
    }

    /// Init was reaped. The container's other processes are killed, because its streams would not
    /// end otherwise (protocol 6.5).
    fn init_exited(&mut self, id: &str) {
        self.end_leases(id);
        if let Some(container) = self.containers.get_mut(id) {
            container.init_exited();
            self.kill_leftovers(id);
        }
    }

    /// Kills the processes that outlive init (P-213). In a pid namespace of the container's own the
    /// kernel does that.
    pub(super) fn kill_leftovers(&mut self, id: &str) {
        let container = self.containers.get(id);
        if container.is_none_or(Container::owns_pid_namespace) {
            return;
        }
        let doing = format!("killing what is left of container {id:?}");
        self.signal_all(doing, id, SIGKILL, |_, killed| {
            if let Err(failure) = killed {
                log::warn!("{failure}");
            }
        });
    }

    /// Every waiter has init's exit code, so the notification follows. When nobody has waited yet,
    /// a WaitForProcess is probably on its way. The notification gives it some time, so that the
    /// exit code goes first (P-023).
    fn container_exited(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let delete = container.take_delete();
        let init = container.init().filter(|_| container.is_started());
        match init.filter(|key| !self.processes.is_collected(*key)) {
            Some(init) if delete.is_none() => self.notify_exit_later(init),
            _ => self.notify_exit(id),
        }
        if let Some(WaitingDelete { ticket, timer }) = delete {
            if let Some(timer) = timer {
                self.cancel(timer);
            }
            self.delete_files(id.to_owned(), ticket);
        }
    }

    fn notify_exit_later(&mut self, init: ProcessKey) {
        let pid = self.processes.pid(init).unwrap_or_default();
        let label = format!("exit notification of process {pid}");
        self.at(Instant::now() + WAITER_GRACE, label, move |uvm| {
            // A container with the same id and another init is another container.
            if let Some(Role::Init(id)) = uvm.processes.role(init).cloned() {
                uvm.notify_exit(&id);
            }
        });
    }

    /// Sends the notification of a container that has exited, unless somebody still waits for its
    /// exit code, which goes first (P-023).
    pub(super) fn notify_if_known(&mut self, id: &str) {
        let init = self.containers.get(id).and_then(Container::init);
        if init.is_some_and(|key| self.processes.is_published(key)) {
            self.notify_exit(id);
        }
    }

    /// Sends the exit notification of a container, unless it was sent.
    pub(super) fn notify_exit(&mut self, id: &str) {
        let container = self.containers.get_mut(id);
        if let Some(notification) = container.and_then(|container| container.notify(id)) {
            self.outbox.notify(&notification);
        }
    }
}

fn wait_timeout(pid: u32) -> Failure {
    Failure::new(
        HResult::TIMEOUT,
        format!("waiting for process {pid}: it still runs"),
    )
}

fn exited(status: ExitStatus) -> Reply {
    Reply::Exited {
        exit_code: status.code(),
    }
}
