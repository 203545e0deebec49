//! All work that the loop waits for, in one table: what is awaited, for which request, and how it
//! goes on.
//!
//! ```text
//! begin ─ Begun ─→ wake ─┬─ Wait: until one of what it awaits comes ─→ wake
//! Ready, Due, Exited, ───┘  Go: the same, and something goes on now
//! Device, Absent            Over: taken off the table, and the rest goes on
//! ```
//!
//! A kind of work says what it awaits and what to do when that comes ([`Work`]). The table does
//! the rest, the same for all kinds: it watches the descriptor, keeps the deadline, owns the
//! child, matches device events, and has everything happen in the log scope of the request that
//! the work is for. Nothing is watched while work is awake, so a descriptor is never closed while
//! it is registered.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::{note_poll_error, Readiness, Uvm};
use crate::log::Scope;
use crate::machine::uevent::{Matcher, Next, Socket};
use crate::reactor::{Interest, Poller, Registration, TimerKey, Timers};
use crate::sys::process::ExitStatus;
use crate::task;

/// Device events handled in one turn, so that the loop gets to its other work.
const EVENTS_AT_ONCE: usize = 64;

/// Names work for its lifetime; never repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkKey(u64);

#[cfg(test)]
impl WorkKey {
    pub const fn of(number: u64) -> Self {
        Self(number)
    }
}

/// What goes on.
pub type Continuation = Box<dyn FnOnce(&mut Uvm)>;

/// What work waits for now. Whatever comes first wakes it.
#[derive(Default)]
pub struct Awaited<'a> {
    pub fd: Option<(BorrowedFd<'a>, Interest)>,
    pub until: Option<Instant>,
    pub child: Option<Pid>,
    pub device: Option<&'a dyn Matcher>,
}

/// What has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// It is on the table.
    Begun,
    /// The descriptor is ready.
    Ready,
    /// The deadline. It does not come again unless there is a new one.
    Due,
    /// The child's end.
    Exited(ExitStatus),
    /// An event of the device, or events were lost.
    Device,
    /// A task has looked for the device and not found it.
    Absent,
}

/// What work does when it is woken.
pub enum Progress {
    Wait,
    Go(Continuation),
    Over(Continuation),
}

/// The kinds of work, as the state dump sorts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkKind {
    Task,
    Dial,
    Program,
    Arrival,
    Deadline,
    LeftOutput,
}

/// One piece of work that waits.
pub trait Work {
    fn kind(&self) -> WorkKind;
    /// What it is, for the log and the state dump.
    fn label(&self) -> &str;
    /// Label and state, for the state dump.
    fn describe(&self) -> String;
    fn awaited(&self) -> Awaited<'_>;
    /// Does what can be done without waiting. `buffer` has [`task::BUFFER`] bytes.
    fn wake(&mut self, own: WorkKey, wake: Wake, buffer: &mut [u8]) -> Progress;
}

struct PendingWork {
    work: Box<dyn Work>,
    /// The request that it is for.
    scope: Scope,
    registration: Registration,
    timer: Option<TimerKey>,
}

/// The table.
pub struct Pending {
    entries: BTreeMap<WorkKey, PendingWork>,
    deadlines: Timers<WorkKey>,
    /// The subscription to the kernel's device events, as long as one is awaited.
    devices: Option<(Socket, Registration)>,
    /// Of [`task::BUFFER`] bytes.
    buffer: Vec<u8>,
    next_key: u64,
}

impl Default for Pending {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            deadlines: Timers::default(),
            devices: None,
            buffer: vec![0; task::BUFFER],
            next_key: 0,
        }
    }
}

impl Pending {
    /// The next deadline.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    pub fn pop_due(&mut self, now: Instant) -> Option<WorkKey> {
        let key = self.deadlines.pop_due(now)?;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.timer = None;
        }
        Some(key)
    }

    /// Takes work off the table for as long as it is awake.
    fn take(&mut self, key: WorkKey, poller: &mut Poller<Readiness>) -> Option<PendingWork> {
        let mut entry = self.entries.remove(&key)?;
        if let Some(timer) = entry.timer.take() {
            self.deadlines.cancel(timer);
        }
        if let Some((fd, _)) = entry.work.awaited().fd {
            let forgotten = poller.forget(&mut entry.registration, fd);
            note_poll_error(entry.work.label(), forgotten);
        }
        Some(entry)
    }

    /// Puts it back, with what it waits for now.
    fn put(&mut self, key: WorkKey, mut entry: PendingWork, poller: &mut Poller<Readiness>) {
        let awaited = entry.work.awaited();
        if let Some((fd, interest)) = awaited.fd {
            let ready = Readiness::Work(key);
            let watched = poller.watch(&mut entry.registration, fd, interest, ready);
            note_poll_error(entry.work.label(), watched);
        }
        entry.timer = awaited.until.map(|at| self.deadlines.add(at, key));
        self.entries.insert(key, entry);
    }

    /// Device events are subscribed to before anything is looked for, so that none is missed.
    /// Without events there is still the look at the deadline.
    fn subscribe(&mut self, poller: &mut Poller<Readiness>) {
        if self.devices.is_some() {
            return;
        }
        let socket = match Socket::subscribe() {
            Ok(socket) => socket,
            Err(error) => return log::error!("device events: {error}"),
        };
        let mut registration = Registration::default();
        let (fd, ready) = (socket.as_fd(), Readiness::Devices);
        let watched = poller.watch(&mut registration, fd, Interest::READ, ready);
        note_poll_error("device events", watched);
        self.devices = Some((socket, registration));
    }

    fn unsubscribe_if_unused(&mut self, poller: &mut Poller<Readiness>) {
        let awaits_device = |entry: &PendingWork| entry.work.awaited().device.is_some();
        if self.devices.is_none() || self.entries.values().any(awaits_device) {
            return;
        }
        if let Some((socket, mut registration)) = self.devices.take() {
            let forgotten = poller.forget(&mut registration, socket.as_fd());
            note_poll_error("device events", forgotten);
        }
    }

    /// The work that the next device event concerns; none when there is no further event.
    fn next_device(&self) -> Option<Vec<WorkKey>> {
        let (socket, _) = self.devices.as_ref()?;
        let event = match socket.receive() {
            Ok(event) => event?,
            Err(error) => {
                log::error!("device events: {error}");
                return None;
            }
        };
        let concerned = |(key, entry): (&WorkKey, &PendingWork)| {
            let is_match = match (entry.work.awaited().device?, &event) {
                (device, Next::Event(event)) => device.is_match(event),
                (_, Next::Lost | Next::Deadline) => true,
            };
            is_match.then_some(*key)
        };
        Some(self.entries.iter().filter_map(concerned).collect())
    }

    fn of_kind(&self, kind: WorkKind) -> impl Iterator<Item = &dyn Work> {
        let all = self.entries.values().map(|entry| &*entry.work);
        all.filter(move |work| work.kind() == kind)
    }

    pub fn count(&self, kind: WorkKind) -> usize {
        self.of_kind(kind).count()
    }

    /// A line for each, for the state dump.
    pub fn describe(&self, kind: WorkKind) -> Vec<String> {
        self.of_kind(kind).map(Work::describe).collect()
    }

    /// The label and the child of each task, for the state dump.
    pub fn task_children(&self) -> impl Iterator<Item = (&str, Pid)> {
        let tasks = self.of_kind(WorkKind::Task);
        tasks.filter_map(|task| Some((task.label(), task.awaited().child?)))
    }

    /// What each deadline is of, in the order of their time, for the state dump.
    pub fn describe_deadlines(&self) -> Vec<String> {
        let now = Instant::now();
        let line = |(at, key): (Instant, &WorkKey)| {
            let left = at.saturating_duration_since(now);
            let work = self.entries.get(key).map(|entry| &entry.work);
            let of = match work.map(|work| work.kind()) {
                Some(WorkKind::Deadline) | None => "",
                Some(_) => "limit of ",
            };
            let label = work.map_or("?", |work| work.label());
            format!("in {left:.1?} {of}{label}")
        };
        self.deadlines.iter().map(line).collect()
    }

    pub fn deadlines(&self) -> usize {
        self.deadlines.len()
    }
}

impl Uvm {
    /// Puts work on the table, for the request that is current now.
    pub(super) fn begin(&mut self, work: impl Work + 'static) -> WorkKey {
        self.begin_for(Scope::current(), work)
    }

    fn begin_for(&mut self, scope: Scope, work: impl Work + 'static) -> WorkKey {
        self.pending.next_key += 1;
        let key = WorkKey(self.pending.next_key);
        let awaited = work.awaited();
        if awaited.device.is_some() {
            self.pending.subscribe(&mut self.poller);
        }
        if let Some(pid) = awaited.child {
            self.children.begin(key, pid);
        }
        let entry = PendingWork {
            work: Box::new(work),
            scope,
            registration: Registration::default(),
            timer: None,
        };
        self.advance(key, entry, Wake::Begun);
        key
    }

    /// Wakes work. Work that is over already is none.
    pub(super) fn wake(&mut self, key: WorkKey, wake: Wake) {
        if let Some(entry) = self.pending.take(key, &mut self.poller) {
            self.advance(key, entry, wake);
        }
    }

    fn advance(&mut self, key: WorkKey, mut entry: PendingWork, wake: Wake) {
        let _about = entry.scope.enter();
        match entry.work.wake(key, wake, &mut self.pending.buffer) {
            Progress::Wait => self.pending.put(key, entry, &mut self.poller),
            Progress::Go(on) => {
                self.pending.put(key, entry, &mut self.poller);
                on(self);
            }
            Progress::Over(on) => {
                drop(entry);
                self.pending.unsubscribe_if_unused(&mut self.poller);
                on(self);
                // Not before: it may claim a pid that the work has reported.
                self.children.end(key);
            }
        }
    }

    /// Takes work off the table; nothing of it goes on.
    pub(super) fn cancel(&mut self, key: WorkKey) {
        if self.pending.take(key, &mut self.poller).is_some() {
            self.pending.unsubscribe_if_unused(&mut self.poller);
            self.children.end(key);
        }
    }

    pub(super) fn devices_ready(&mut self) {
        for _ in 0..EVENTS_AT_ONCE {
            let Some(keys) = self.pending.next_device() else {
                return;
            };
            for key in keys {
                self.wake(key, Wake::Device);
            }
        }
    }

    /// Calls `then` at that time, on behalf of no request. `label` names it.
    pub(super) fn at(
        &mut self,
        at: Instant,
        label: impl Into<Cow<'static, str>>,
        then: impl FnOnce(&mut Self) + 'static,
    ) -> WorkKey {
        self.begin_for(Scope::default(), Deadline::new(at, label.into(), then))
    }

    /// Calls `then` after `limit`, for the request that is current now.
    pub(super) fn after(
        &mut self,
        limit: Duration,
        label: impl Into<Cow<'static, str>>,
        then: impl FnOnce(&mut Self) + 'static,
    ) -> WorkKey {
        self.begin(Deadline::new(Instant::now() + limit, label.into(), then))
    }
}

/// A time at which something goes on.
struct Deadline {
    label: Cow<'static, str>,
    at: Instant,
    then: Option<Continuation>,
}

impl Deadline {
    fn new(at: Instant, label: Cow<'static, str>, then: impl FnOnce(&mut Uvm) + 'static) -> Self {
        Self {
            label,
            at,
            then: Some(Box::new(then)),
        }
    }
}

impl Work for Deadline {
    fn kind(&self) -> WorkKind {
        WorkKind::Deadline
    }

    fn label(&self) -> &str {
        &self.label
    }

    fn describe(&self) -> String {
        self.label.clone().into_owned()
    }

    fn awaited(&self) -> Awaited<'_> {
        Awaited {
            until: Some(self.at),
            ..Awaited::default()
        }
    }

    fn wake(&mut self, _: WorkKey, wake: Wake, _: &mut [u8]) -> Progress {
        match self.then.take_if(|_| wake == Wake::Due) {
            Some(then) => Progress::Over(then),
            None => Progress::Wait,
        }
    }
}
