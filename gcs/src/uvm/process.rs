//! Processes the host knows: who waits for them, what they still have to say, how they ended.
//!
//! Order at the end of a process: reaped → streams drained → waiters answered → (init only)
//! the container's exit notification. A record goes away by the rules of protocol 6.8.

use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::session::Session;
use super::{note_poll_error, Child, Deadline, Key, Source, Uvm};
use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::log::Scope;
use crate::prot::HResult;
use crate::reactor::TimerKey;
use crate::stdio::{Relay, StreamKind};
use crate::sys::fds;
use crate::sys::process::ExitStatus;

/// How often a hung-up terminal is looked at.
const TERMINAL_LOOK: Duration = Duration::from_millis(250);

/// What a process is to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Of the utility VM itself.
    External,
    /// The first process of a container.
    Init(String),
    /// A further process of a container.
    Exec(String),
}

struct Waiter {
    key: Key,
    ticket: Ticket,
    timer: Option<TimerKey>,
}

pub struct Process {
    pub role: Role,
    pub pid: u32,
    pub relay: Relay,
    /// Whether it has a terminal; known also after the relay is gone.
    has_terminal: bool,
    exit: Option<ExitStatus>,
    /// Whether the exit was made known: reaped and drained.
    published: bool,
    waiters: Vec<Waiter>,
    /// Whether a waiter got the exit code.
    collected: bool,
    /// The request that made it, for records about its streams.
    scope: Scope,
}

impl Process {
    /// Whether its exit is on the record; it may still have output to move.
    pub fn has_exited(&self) -> bool {
        self.exit.is_some()
    }

    /// Whether its exit was made known to all who waited for it.
    pub fn is_published(&self) -> bool {
        self.published
    }

    /// Whether a waiter got the exit code.
    pub fn is_collected(&self) -> bool {
        self.collected
    }

    /// Gives a created init its streams, for the request that is current now.
    pub fn set_relay(&mut self, relay: Relay) {
        self.scope = Scope::current();
        self.has_terminal = relay.terminal.is_some();
        self.relay = relay;
    }

    /// Sets the size of the terminal; without effect once the process ended (P-167).
    pub fn resize(&self, rows: u16, columns: u16) -> Result<(), Failure> {
        let failed = |why: &str| {
            Failure::unspecified(format!(
                "resizing the console of process {}: {why}",
                self.pid
            ))
        };
        match &self.relay.terminal {
            Some(terminal) => {
                fds::resize(terminal, rows, columns).map_err(|error| failed(&error.to_string()))
            }
            None if self.has_terminal => Ok(()),
            None => Err(failed("it has none")),
        }
    }
}

impl Uvm {
    /// Puts a process on the books. `exit` is set when it ended before it was known.
    pub(super) fn adopt(
        &mut self,
        role: Role,
        pid: Pid,
        relay: Relay,
        exit: Option<ExitStatus>,
    ) -> Key {
        let key = self.key();
        let process = Process {
            role,
            pid: pid.as_raw().unsigned_abs(),
            has_terminal: relay.terminal.is_some(),
            relay,
            exit: None,
            published: false,
            waiters: Vec::new(),
            collected: false,
            scope: Scope::current(),
        };
        self.processes.insert(key, process);
        let exit = match exit {
            Some(status) => Some(status),
            None => self.claim(pid, Child::Process(key)),
        };
        self.watch_relay(key);
        if let Some(status) = exit {
            self.process_exited(key, status);
        }
        key
    }

    /// Begins to move the streams of a process.
    pub(super) fn watch_relay(&mut self, key: Key) {
        if let Some(process) = self.processes.get_mut(&key) {
            if process.has_terminal {
                self.timers
                    .add(Instant::now() + TERMINAL_LOOK, Deadline::Terminal(key));
            }
            let watched = process
                .relay
                .watch(&mut self.poller, |kind| Source::Stream(key, kind));
            note_poll_error("a stream", watched);
        }
    }

    pub(super) fn stream_ready(&mut self, key: Key, kind: StreamKind) {
        if let Some(process) = self.processes.get_mut(&key) {
            let about = process.scope.enter();
            let source = |kind| Source::Stream(key, kind);
            note_poll_error(
                "a stream",
                process.relay.advance(kind, &mut self.poller, source),
            );
            drop(about);
            self.publish_if_over(key);
        }
    }

    /// A terminal that all its processes closed says nothing when one opens it again: it is
    /// looked at now and then.
    pub(super) fn terminal_due(&mut self, key: Key) {
        let Some(process) = self.processes.get_mut(&key) else {
            return;
        };
        if process.exit.is_none() {
            let source = |kind| Source::Stream(key, kind);
            if let Err(error) = process.relay.look_again(&mut self.poller, source) {
                log::error!("looking at a terminal again: {error}");
            }
            self.timers
                .add(Instant::now() + TERMINAL_LOOK, Deadline::Terminal(key));
        }
    }

    pub(super) fn process_exited(&mut self, key: Key, status: ExitStatus) {
        let Some(process) = self.processes.get_mut(&key) else {
            return;
        };
        process.exit = Some(status);
        let source = |kind| Source::Stream(key, kind);
        note_poll_error("a stream", process.relay.finish(&mut self.poller, source));
        if let Role::Init(id) = process.role.clone() {
            self.init_exited(&id);
        }
        self.publish_if_over(key);
    }

    /// Makes an exit known once the process was reaped and its streams are drained.
    fn publish_if_over(&mut self, key: Key) {
        let over = |p: &Process| p.has_exited() && !p.published && p.relay.is_done();
        if self.processes.get(&key).is_some_and(over) && self.storage_is_gone(key) {
            self.publish(key);
        }
    }

    /// Makes the exit of a reaped process known, and gives up what its streams still hold.
    pub(super) fn publish(&mut self, key: Key) {
        let Some(process) = self.processes.get_mut(&key) else {
            return;
        };
        let Some(status) = process.exit.filter(|_| !process.published) else {
            return;
        };
        process.published = true;
        let relay = std::mem::take(&mut process.relay);
        note_poll_error("a stream", relay.abandon(&mut self.poller));
        let waiters = std::mem::take(&mut process.waiters);
        // An answer without a bridge is lost: its host will ask again (protocol 12.1).
        process.collected |= !waiters.is_empty() && self.outbox.is_connected();
        let role = process.role.clone();
        for waiter in waiters {
            if let Some(timer) = waiter.timer {
                self.timers.cancel(timer);
            }
            self.outbox.answer(
                waiter.ticket,
                Ok(Reply::Exited {
                    exit_code: status.code(),
                }),
            );
        }
        // Behind the replies, so that the host sees the exit code first (P-023).
        if let Role::Init(id) = role {
            self.container_exited(&id);
        }
        self.drop_collected(key);
    }

    /// A process of the utility VM itself, for signals and sizes.
    pub(super) fn external(&self, pid: u32) -> Result<Key, Failure> {
        self.externals.get(&pid).copied().ok_or_else(|| {
            let text = format!("the utility VM has no process {pid} started by the host");
            Failure::new(HResult::SYSTEM_NOT_FOUND, text)
        })
    }

    /// Waits for a process. `limit` none: for ever; zero: to the end of this turn of the loop,
    /// which may still bring the exit.
    pub(super) fn wait_for(&mut self, key: Key, ticket: Ticket, limit: Option<Duration>) {
        let waiter = self.key();
        let Some(process) = self.processes.get_mut(&key) else {
            return;
        };
        if let (Some(status), true) = (process.exit, process.published) {
            process.collected = true;
            let role = process.role.clone();
            self.outbox.answer(
                ticket,
                Ok(Reply::Exited {
                    exit_code: status.code(),
                }),
            );
            if let Role::Init(id) = role {
                self.notify_exit(&id);
            }
            return self.drop_collected(key);
        }
        let timer = limit.map(|limit| {
            self.timers
                .add(Instant::now() + limit, Deadline::Waiter(key, waiter))
        });
        process.waiters.push(Waiter {
            key: waiter,
            ticket,
            timer,
        });
    }

    pub(super) fn waiter_overdue(&mut self, key: Key, waiter: Key) {
        let Some(process) = self.processes.get_mut(&key) else {
            return;
        };
        if let Some(at) = process.waiters.iter().position(|w| w.key == waiter) {
            let Waiter { ticket, .. } = process.waiters.remove(at);
            self.outbox.answer(ticket, Err(wait_timeout(process.pid)));
        }
    }

    /// A collected exit needs no record any more, except a container's init, whose record lives
    /// as long as the container.
    fn drop_collected(&mut self, key: Key) {
        let Some(process) = self.processes.get(&key) else {
            return;
        };
        // In the retired protocol a pid is known until it is used again.
        if !process.published || !process.collected || self.session == Session::V3 {
            return;
        }
        match &process.role {
            Role::Init(_) => return,
            Role::External => {
                // A newer process may have got the same pid.
                if self.externals.get(&process.pid) == Some(&key) {
                    self.externals.remove(&process.pid);
                }
            }
            Role::Exec(id) => {
                if let Some(container) = self.containers.get_mut(id) {
                    if container.execs.get(&process.pid) == Some(&key) {
                        container.execs.remove(&process.pid);
                    }
                }
            }
        }
        self.processes.remove(&key);
    }

    /// Forgets a process with all its streams; its waiters hear how it ended, or that it is gone.
    pub(super) fn discard_process(&mut self, key: Key) {
        let Some(process) = self.processes.remove(&key) else {
            return;
        };
        self.children
            .retain(|_, child| *child != Child::Process(key));
        // Of one that has ended only the rest of its output is given up.
        let answer = match process.exit {
            Some(status) => Ok(Reply::Exited {
                exit_code: status.code(),
            }),
            None => Err(Failure::new(
                HResult::NOT_FOUND,
                format!(
                    "waiting for process {}: its container was deleted",
                    process.pid
                ),
            )),
        };
        for waiter in process.waiters {
            if let Some(timer) = waiter.timer {
                self.timers.cancel(timer);
            }
            self.outbox.answer(waiter.ticket, answer.clone());
        }
        note_poll_error("a stream", process.relay.abandon(&mut self.poller));
    }

    pub(super) fn describe_processes(&self) -> Vec<String> {
        let line = |process: &Process| {
            format!(
                "pid {} {:?} exit={:?} published={} waiters={} {}",
                process.pid,
                process.role,
                process.exit,
                process.published,
                process.waiters.len(),
                process.relay
            )
        };
        self.processes.values().map(line).collect()
    }
}

fn wait_timeout(pid: u32) -> Failure {
    Failure::new(
        HResult::TIMEOUT,
        format!("waiting for process {pid}: it still runs"),
    )
}
