//! Disks that requests wait for: one subscription to the kernel's events for all of them, and no
//! process for any, so that a disk that never comes costs nobody anything.
//!
//! ```text
//! subscribe ─ look (task) ─ there ── the request goes on
//!        └───────┴─ not yet ─ its event, or some were lost ─ look again
//!                         └── deadline ─ look once more, and say what is missing
//! ```
//!
//! An event that comes while a task looks makes it look again, so none is missed.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::{note_poll_error, Deadline, Key, Source, Uvm};
use crate::log::Scope;
use crate::reactor::{Interest, Registration, TimerKey};
use crate::storage::arrival::ARRIVAL;
use crate::storage::scsi::Address;
use crate::storage::Roots;
use crate::uevent::{Matcher, Next, Socket};

/// The loop has other things to do between so many events.
const EVENTS_AT_ONCE: usize = 64;

/// Has a task look; it ends with [`Host::arrived`] or [`Host::absent`].
pub type Look = Box<dyn Fn(&mut Uvm, Key)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Looking {
        /// It may have come since.
        again: bool,
    },
    Waiting,
}

pub struct Arrival {
    /// The request that waits, for the log.
    scope: Scope,
    /// What it is waited for.
    label: String,
    address: Address,
    started: Instant,
    state: State,
    /// Gone when the deadline has come.
    timer: Option<TimerKey>,
    look: Option<Look>,
}

/// The subscription, as long as somebody waits.
#[derive(Default)]
pub struct Events(Option<(Socket, Registration)>);

impl Uvm {
    /// Looks for a disk now and whenever the kernel tells of it, for [`ARRIVAL`].
    pub(super) fn await_disk(&mut self, label: String, address: Address, look: Look) {
        self.subscribe();
        let key = self.key();
        let started = Instant::now();
        let timer = self.timers.add(started + ARRIVAL, Deadline::Arrival(key));
        let arrival = Arrival {
            scope: Scope::current(),
            label,
            address,
            started,
            state: State::Waiting,
            timer: Some(timer),
            look: Some(look),
        };
        self.arrivals.insert(key, arrival);
        // Most disks are still on their way: that is seen without a process.
        if address.is_announced(&Roots::default()) {
            self.look(key);
        }
    }

    /// Without events there is still the look at the deadline.
    fn subscribe(&mut self) {
        if self.events.0.is_some() {
            return;
        }
        let socket = match Socket::subscribe() {
            Ok(socket) => socket,
            Err(error) => return log::error!("device events: {error}"),
        };
        let mut registration = Registration::default();
        let watched = self.poller.watch(
            &mut registration,
            socket.as_fd(),
            Interest::READ,
            Source::Uevents,
        );
        note_poll_error("device events", watched);
        self.events.0 = Some((socket, registration));
    }

    fn look(&mut self, key: Key) {
        let Some(arrival) = self.arrivals.get_mut(&key) else {
            return;
        };
        arrival.state = State::Looking { again: false };
        let _about = arrival.scope.enter();
        if let Some(look) = arrival.look.take() {
            look(self, key);
            // It is over already when no task could be started.
            if let Some(arrival) = self.arrivals.get_mut(&key) {
                arrival.look = Some(look);
            }
        }
    }

    /// The disk is there, or something failed that has nothing to do with its coming.
    pub(super) fn arrived(&mut self, key: Key) {
        let arrival = self.arrivals.remove(&key);
        if let Some(timer) = arrival.and_then(|arrival| arrival.timer) {
            self.timers.cancel(timer);
        }
        if self.arrivals.is_empty() {
            if let Some((socket, mut registration)) = self.events.0.take() {
                let forgotten = self.poller.forget(&mut registration, socket.as_fd());
                note_poll_error("device events", forgotten);
            }
        }
    }

    /// The task has seen no disk. When there is no more time: the address, and how long it was
    /// waited for; the arrival is over then.
    pub(super) fn absent(&mut self, key: Key) -> Option<(Address, Duration)> {
        let arrival = self.arrivals.get_mut(&key)?;
        match std::mem::replace(&mut arrival.state, State::Waiting) {
            State::Looking { again: true } => self.look(key),
            _ if arrival.timer.is_none() => {
                let missing = (arrival.address, arrival.started.elapsed());
                self.arrived(key);
                return Some(missing);
            }
            State::Looking { again: false } | State::Waiting => {}
        }
        None
    }

    pub(super) fn arrival_due(&mut self, key: Key) {
        if let Some(arrival) = self.arrivals.get_mut(&key) {
            arrival.timer = None;
            self.look_unless_looking(key);
        }
    }

    fn look_unless_looking(&mut self, key: Key) {
        match self
            .arrivals
            .get_mut(&key)
            .map(|arrival| &mut arrival.state)
        {
            Some(State::Looking { again }) => *again = true,
            Some(State::Waiting) => self.look(key),
            None => {}
        }
    }

    pub(super) fn events_ready(&mut self) {
        for _ in 0..EVENTS_AT_ONCE {
            let Some((socket, _)) = &self.events.0 else {
                return;
            };
            let event = match socket.receive() {
                Ok(Some(next)) => next,
                Ok(None) => return,
                Err(error) => return log::error!("device events: {error}"),
            };
            let concerned = |arrival: &Arrival| match &event {
                Next::Event(event) => arrival.address.is_match(event),
                Next::Lost | Next::Deadline => true,
            };
            let arrivals = self.arrivals.iter();
            let keys: Vec<Key> = arrivals
                .filter_map(|(key, arrival)| concerned(arrival).then_some(*key))
                .collect();
            for key in keys {
                self.look_unless_looking(key);
            }
        }
    }

    pub(super) fn describe_arrivals(&self) -> Vec<String> {
        let line = |arrival: &Arrival| {
            let (label, state) = (&arrival.label, arrival.state);
            format!("{label} for {:?}: {state:?}", arrival.started.elapsed())
        };
        self.arrivals.values().map(line).collect()
    }
}
