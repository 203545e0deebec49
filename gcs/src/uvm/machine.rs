//! The machine itself among the host's deadlines and tasks: its clock and its memory.

use std::time::Instant;

use super::{Deadline, Uvm};
use crate::clock::{source, Clock};
use crate::memory::{self, Watch};
use crate::reactor::TimerKey;

/// The clock and the deadline it has asked for.
#[derive(Debug)]
pub(super) struct Kept {
    clock: Clock,
    timer: Option<TimerKey>,
}

impl Uvm {
    /// Keeps the time from now on.
    pub fn keep_time(&mut self, clock: Clock) {
        self.clock = Some(Kept { clock, timer: None });
        self.clock_wait();
    }

    /// Sets the deadline that the clock asks for, and has others know of a leap.
    fn clock_wait(&mut self) {
        let Some(kept) = &mut self.clock else { return };
        if kept.clock.take_leap() {
            self.tenancies_hurry();
        }
        let Some(kept) = &mut self.clock else { return };
        if let Some(timer) = kept.timer.take() {
            self.timers.cancel(timer);
        }
        kept.timer = kept
            .clock
            .next()
            .map(|at| self.timers.add(at, Deadline::Clock));
    }

    pub(super) fn clock_due(&mut self) {
        let Some(kept) = &mut self.clock else { return };
        if let Some(port) = kept.clock.due(Instant::now()) {
            let dialer = self.dialer.clone();
            self.run(
                "asking the host for the time",
                source::ASK_LIMIT,
                move || source::ask(&dialer, port),
                |uvm, answer| {
                    if let Some(kept) = &mut uvm.clock {
                        kept.clock.heard(answer, Instant::now());
                    }
                    uvm.clock_wait();
                },
            );
        }
        self.clock_wait();
    }

    /// Tells of memory that runs out from now on.
    pub fn watch_memory(&mut self, memory: Watch) {
        self.memory = Some(memory);
        self.memory_due();
    }

    pub(super) fn memory_due(&mut self) {
        self.memory_look();
        self.timers
            .add(Instant::now() + memory::EVERY, Deadline::Memory);
    }

    /// Looks now: a group that is about to go takes its counters along.
    pub(super) fn memory_look(&mut self) {
        if let Some(memory) = &mut self.memory {
            memory.look();
        }
    }

    /// The host was away, and this machine maybe with it: the clock is looked at now.
    pub(super) fn clock_hurry(&mut self) {
        if let Some(kept) = &mut self.clock {
            kept.clock.hurry(Instant::now());
            self.clock_wait();
        }
    }

    pub(super) fn describe_clock(&self) -> String {
        let kept = self.clock.as_ref();
        kept.map_or("left alone".into(), |kept| kept.clock.describe())
    }
}
