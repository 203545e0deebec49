//! The processes that the host knows: what they are, who waits for them, their streams, and how
//! they ended. This module only holds state; `exits` acts on it.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use nix::unistd::Pid;

use super::pending::WorkKey;
use super::{note_poll_error, Readiness};
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::log::Scope;
use crate::prot::HResult;
use crate::reactor::Poller;
use crate::stdio::{Relay, StreamKind};
use crate::sys::fds;
use crate::sys::process::ExitStatus;

/// Names a process for its lifetime; never repeats, as a pid does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessKey(u64);

#[cfg(test)]
impl ProcessKey {
    pub const fn of(number: u64) -> Self {
        Self(number)
    }
}

/// What a process is to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// A process of the utility VM itself.
    External,
    /// The first process of a container.
    Init(String),
    /// A further process of a container, an exec.
    Exec(String),
}

/// A WaitForProcess that is not answered yet.
pub struct Waiter {
    number: u64,
    pub ticket: Ticket,
    /// Its time-out, if it has one.
    pub timer: Option<WorkKey>,
}

/// What is left of a process when its exit is published or it is forgotten.
pub struct Remains {
    pub pid: u32,
    pub role: Role,
    /// None: it has not ended.
    pub exit: Option<ExitStatus>,
    pub relay: Relay,
    pub waiters: Vec<Waiter>,
    /// What would have ended its output.
    pub cut: Option<WorkKey>,
}

struct Process {
    role: Role,
    pid: u32,
    relay: Relay,
    /// Whether it has a terminal. This is also known after the relay is gone.
    has_terminal: bool,
    exit: Option<ExitStatus>,
    /// Whether the exit was made known, which follows when it is reaped and drained.
    published: bool,
    waiters: Vec<Waiter>,
    /// What ends its output after its exit.
    cut: Option<WorkKey>,
    /// Whether a waiter got the exit code.
    collected: bool,
    /// The request that has made it, for log records about its streams.
    scope: Scope,
}

impl Process {
    fn remains(&mut self) -> Remains {
        Remains {
            pid: self.pid,
            role: self.role.clone(),
            exit: self.exit,
            relay: std::mem::take(&mut self.relay),
            waiters: std::mem::take(&mut self.waiters),
            cut: self.cut.take(),
        }
    }

    /// Sets the size of the terminal; without effect once the process ended (P-167).
    fn resize(&self, rows: u16, columns: u16) -> Result<(), Failure> {
        let failed = |why: &str| {
            let pid = self.pid;
            Failure::unspecified(format!("resizing the console of process {pid}: {why}"))
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

/// The processes that the host knows. An exit is published once, and only after the process was
/// reaped. Each waiter is answered once. A pid names the newest process that has had it.
#[derive(Default)]
pub struct Processes {
    records: BTreeMap<ProcessKey, Process>,
    /// Processes of the utility VM itself, by pid.
    externals: BTreeMap<u32, ProcessKey>,
    next_key: u64,
    next_waiter: u64,
}

impl Processes {
    pub fn add(&mut self, role: Role, pid: Pid, relay: Relay) -> ProcessKey {
        self.next_key += 1;
        let key = ProcessKey(self.next_key);
        let process = Process {
            role,
            pid: pid.as_raw().unsigned_abs(),
            has_terminal: relay.terminal.is_some(),
            relay,
            exit: None,
            published: false,
            waiters: Vec::new(),
            cut: None,
            collected: false,
            scope: Scope::current(),
        };
        self.records.insert(key, process);
        key
    }

    /// Gives a created init its streams, for the request that is current now.
    pub fn set_relay(&mut self, key: ProcessKey, relay: Relay) {
        if let Some(process) = self.records.get_mut(&key) {
            process.scope = Scope::current();
            process.has_terminal = relay.terminal.is_some();
            process.relay = relay;
        }
    }

    pub fn pid(&self, key: ProcessKey) -> Option<u32> {
        self.records.get(&key).map(|process| process.pid)
    }

    pub fn role(&self, key: ProcessKey) -> Option<&Role> {
        self.records.get(&key).map(|process| &process.role)
    }

    /// The pid while the process is not reaped. Until then no other process can have it.
    pub fn living(&self, key: ProcessKey) -> Option<u32> {
        let process = self.records.get(&key)?;
        process.exit.is_none().then_some(process.pid)
    }

    pub fn has_terminal(&self, key: ProcessKey) -> bool {
        self.records.get(&key).is_some_and(|p| p.has_terminal)
    }

    /// Whether its exit was made known to all who waited for it.
    pub fn is_published(&self, key: ProcessKey) -> bool {
        self.records.get(&key).is_some_and(|p| p.published)
    }

    /// Whether a waiter got the exit code.
    pub fn is_collected(&self, key: ProcessKey) -> bool {
        self.records.get(&key).is_some_and(|p| p.collected)
    }

    /// A process of the utility VM itself.
    pub fn external(&self, pid: u32) -> Result<ProcessKey, Failure> {
        self.externals.get(&pid).copied().ok_or_else(|| {
            let text = format!("the utility VM has no process {pid} started by the host");
            Failure::new(HResult::SYSTEM_NOT_FOUND, text)
        })
    }

    /// Makes it the VM process that its pid names. Returns the one before (P-216).
    #[must_use]
    pub fn set_external(&mut self, key: ProcessKey) -> Option<ProcessKey> {
        let pid = self.pid(key)?;
        self.externals.insert(pid, key)
    }

    /// The newest process of this pid, wherever it runs (8.5).
    pub fn newest(&self, pid: u32) -> Result<ProcessKey, Failure> {
        let newest = self.records.iter().rev().find(|(_, p)| p.pid == pid);
        newest.map(|(key, _)| *key).ok_or_else(|| {
            let text = format!("there is no process {pid} that the host started");
            Failure::new(HResult::NOT_FOUND, text)
        })
    }

    /// Sets the size of its terminal.
    pub fn resize(&self, key: ProcessKey, rows: u16, columns: u16) -> Result<(), Failure> {
        let process = self.records.get(&key);
        process.map_or(Ok(()), |process| process.resize(rows, columns))
    }

    /// Tells the loop which streams are awaited.
    pub fn watch(&mut self, key: ProcessKey, poller: &mut Poller<Readiness>) {
        if let Some(process) = self.records.get_mut(&key) {
            let watched = process.relay.watch(poller, |kind| stream(key, kind));
            note_poll_error("a stream", watched);
        }
    }

    pub fn stream_ready(
        &mut self,
        key: ProcessKey,
        kind: StreamKind,
        poller: &mut Poller<Readiness>,
    ) {
        if let Some(process) = self.records.get_mut(&key) {
            let _about = process.scope.enter();
            let ready = |kind| stream(key, kind);
            note_poll_error("a stream", process.relay.advance(kind, poller, ready));
        }
    }

    /// Looks at the terminal of a process that has not ended; whether there is one.
    pub fn look_at_terminal(&mut self, key: ProcessKey, poller: &mut Poller<Readiness>) -> bool {
        let alive = |process: &&mut Process| process.exit.is_none();
        let Some(process) = self.records.get_mut(&key).filter(alive) else {
            return false;
        };
        if let Err(error) = process.relay.look_again(poller, |kind| stream(key, kind)) {
            log::error!("looking at a terminal again: {error}");
        }
        true
    }

    /// It was reaped, so its output comes to an end.
    pub fn exited(&mut self, key: ProcessKey, status: ExitStatus, poller: &mut Poller<Readiness>) {
        if let Some(process) = self.records.get_mut(&key) {
            process.exit = Some(status);
            let finished = process.relay.finish(poller, |kind| stream(key, kind));
            note_poll_error("a stream", finished);
        }
    }

    /// Notes what will end the output of a reaped process.
    pub fn set_cut(&mut self, key: ProcessKey, cut: WorkKey) {
        if let Some(process) = self.records.get_mut(&key) {
            process.cut = Some(cut);
        }
    }

    /// Ends the output of a process that was reaped a while ago, after what is there now. Returns
    /// what other processes may still write to, and the pid.
    pub fn cut_output(
        &mut self,
        key: ProcessKey,
        poller: &mut Poller<Readiness>,
    ) -> (u32, Vec<OwnedFd>) {
        let over = |p: &&mut Process| p.exit.is_some() && !p.published;
        let Some(process) = self.records.get_mut(&key).filter(over) else {
            return (0, Vec::new());
        };
        process.cut = None;
        let _about = process.scope.enter();
        let left = process.relay.cut(poller, |kind| stream(key, kind));
        let left = left.unwrap_or_else(|error| {
            log::error!("ending the output of process {}: {error}", process.pid);
            Vec::new()
        });
        (process.pid, left)
    }

    /// Whether it was reaped and drained, and its exit is not published yet.
    pub fn is_to_be_published(&self, key: ProcessKey) -> bool {
        let over = |p: &Process| p.exit.is_some() && !p.published && p.relay.is_done();
        self.records.get(&key).is_some_and(over)
    }

    /// Notes that the exit of a reaped process is published now, and returns the waiters. `None`:
    /// the process is not reaped, or its exit is published already. `heard`: a bridge is connected.
    pub fn publish(&mut self, key: ProcessKey, heard: bool) -> Option<Remains> {
        let process = self.records.get_mut(&key)?;
        if process.exit.is_none() || process.published {
            return None;
        }
        process.published = true;
        // An answer without a bridge is lost: its host will ask again (protocol 12.1).
        process.collected |= !process.waiters.is_empty() && heard;
        Some(process.remains())
    }

    /// Forgets it, whatever its state.
    pub fn remove(&mut self, key: ProcessKey) -> Option<Remains> {
        self.records.remove(&key).map(|mut p| p.remains())
    }

    /// The status of a published exit. The exit then counts as collected.
    pub fn collect(&mut self, key: ProcessKey) -> Option<(ExitStatus, Role)> {
        let process = self.records.get_mut(&key).filter(|p| p.published)?;
        let status = process.exit?;
        process.collected = true;
        Some((status, process.role.clone()))
    }

    /// The number of the next waiter.
    pub fn waiter_number(&mut self) -> u64 {
        self.next_waiter += 1;
        self.next_waiter
    }

    /// Adds a request that waits for the exit. Its `timer` removes it by this number.
    pub fn wait(&mut self, key: ProcessKey, number: u64, ticket: Ticket, timer: Option<WorkKey>) {
        if let Some(process) = self.records.get_mut(&key) {
            process.waiters.push(Waiter {
                number,
                ticket,
                timer,
            });
        }
    }

    /// Removes a waiter. Returns it with the pid that it waits for.
    pub fn take_waiter(&mut self, key: ProcessKey, number: u64) -> Option<(Ticket, u32)> {
        let process = self.records.get_mut(&key)?;
        let at = process.waiters.iter().position(|w| w.number == number)?;
        Some((process.waiters.remove(at).ticket, process.pid))
    }

    /// Forgets a process whose exit was collected, except a container's init, whose record lives as
    /// long as the container. Returns the exec that was forgotten.
    pub fn drop_collected(&mut self, key: ProcessKey) -> Option<(String, u32)> {
        let over = |p: &&Process| p.published && p.collected;
        let process = self.records.get(&key).filter(over)?;
        let pid = process.pid;
        let exec = match &process.role {
            Role::Init(_) => return None,
            Role::External => {
                // A newer process may have got the same pid.
                if self.externals.get(&pid) == Some(&key) {
                    self.externals.remove(&pid);
                }
                None
            }
            Role::Exec(id) => Some((id.clone(), pid)),
        };
        self.records.remove(&key);
        exec
    }

    /// One line for each, for the state dump.
    pub fn describe(&self) -> Vec<String> {
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
        self.records.values().map(line).collect()
    }
}

fn stream(key: ProcessKey, kind: StreamKind) -> Readiness {
    Readiness::Stream(key, kind)
}
