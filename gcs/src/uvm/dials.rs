//! Dials under way.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use super::{note_poll_error, Deadline, Key, Source, Uvm};
use crate::log::Scope;
use crate::reactor::{Interest, Registration, TimerKey};
use crate::transport::{Dial, DialFailure, DialStep};

type Then = Box<dyn FnOnce(&mut Uvm, Result<Vec<OwnedFd>, DialFailure>)>;

pub struct PendingDial {
    dial: Dial,
    registration: Registration,
    timer: Option<TimerKey>,
    scope: Scope,
    then: Then,
}

impl Uvm {
    /// Connects to `ports` one after another, then goes on with the connections in their order.
    pub fn dial<F>(&mut self, ports: Vec<u32>, then: F)
    where
        F: FnOnce(&mut Self, Result<Vec<OwnedFd>, DialFailure>) + 'static,
    {
        let key = self.key();
        let pending = PendingDial {
            dial: Dial::new(self.dialer.clone(), ports),
            registration: Registration::default(),
            timer: None,
            scope: Scope::current(),
            then: Box::new(then),
        };
        self.dial_advance(key, pending, false);
    }

    pub(super) fn dial_ready(&mut self, key: Key) {
        if let Some(pending) = self.dials.remove(&key) {
            self.dial_advance(key, pending, true);
        }
    }

    pub(super) fn dial_due(&mut self, key: Key) {
        if let Some(mut pending) = self.dials.remove(&key) {
            pending.timer = None;
            self.dial_advance(key, pending, false);
        }
    }

    fn dial_advance(&mut self, key: Key, mut pending: PendingDial, ready: bool) {
        let _about = pending.scope.enter();
        if let Some(timer) = pending.timer.take() {
            self.timers.cancel(timer);
        }
        if let Some(fd) = pending.dial.pending() {
            let forgotten = self.poller.forget(&mut pending.registration, fd.as_fd());
            note_poll_error("a dial", forgotten);
        }
        match pending.dial.advance(ready, Instant::now()) {
            DialStep::Done(connections) => return (pending.then)(self, Ok(connections)),
            DialStep::Failed(failure) => return (pending.then)(self, Err(failure)),
            DialStep::Pause(at) => pending.timer = Some(self.timers.add(at, Deadline::Dial(key))),
            DialStep::Writable(fd, until) => {
                pending.timer = Some(self.timers.add(until, Deadline::Dial(key)));
                let watched = self.poller.watch(
                    &mut pending.registration,
                    fd.as_fd(),
                    Interest::WRITE,
                    Source::Dial(key),
                );
                note_poll_error("a dial", watched);
            }
        }
        self.dials.insert(key, pending);
    }
}
