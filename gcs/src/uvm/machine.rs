//! The clock and the memory of the machine: their deadlines and tasks.

use std::time::Instant;

use super::pending::WorkKey;
use super::Uvm;
use crate::machine::clock::{source, Clock};
use crate::machine::containers_limit::ContainersLimit;
use crate::machine::memory::{self, Watch};

/// The clock and the memory, each only if the flags ask for it.
#[derive(Default)]
pub struct Machine {
    clock: Option<Clock>,
    /// The deadline that the clock has asked for.
    clock_due: Option<WorkKey>,
    memory: Option<Watch>,
    limit: Option<ContainersLimit>,
}

impl Machine {
    /// Looks at the memory now, because the counters of a cgroup go away with it.
    pub fn look_at_memory(&mut self) {
        if let Some(memory) = &mut self.memory {
            memory.look();
        }
    }

    /// The limit of all containers, if the service keeps it.
    pub fn limit_mut(&mut self) -> Option<&mut ContainersLimit> {
        self.limit.as_mut()
    }

    pub fn describe_clock(&self) -> String {
        let clock = self.clock.as_ref();
        clock.map_or("left alone".into(), Clock::describe)
    }
}

impl Uvm {
    /// Keeps the time from now on.
    pub fn keep_time(&mut self, clock: Clock) {
        self.machine.clock = Some(clock);
        self.clock_wait();
    }

    /// Sets the deadline that the clock asks for. A leap of the clock is passed on to the leases.
    fn clock_wait(&mut self) {
        let Some(clock) = &mut self.machine.clock else {
            return;
        };
        let (leapt, next) = (clock.take_leap(), clock.next());
        if let Some(earlier) = self.machine.clock_due.take() {
            self.cancel(earlier);
        }
        if leapt {
            self.leases_hurry();
        }
        self.machine.clock_due =
            next.map(|at| self.at(at, "look at the host's clock", Self::clock_due));
    }

    fn clock_due(&mut self) {
        let Some(clock) = &mut self.machine.clock else {
            return;
        };
        if let Some(port) = clock.due(Instant::now()) {
            let dialer = self.dialer.clone();
            self.run(
                "asking the host for the time",
                source::ASK_LIMIT,
                move || source::ask(&dialer, port),
                |uvm, answer| {
                    if let Some(clock) = &mut uvm.machine.clock {
                        clock.heard(answer, Instant::now());
                    }
                    uvm.clock_wait();
                },
            );
        }
        self.clock_wait();
    }

    /// The host was away, and this machine may have been paused with it. So the clock is looked at
    /// now.
    pub(super) fn clock_hurry(&mut self) {
        if let Some(clock) = &mut self.machine.clock {
            clock.hurry(Instant::now());
            self.clock_wait();
        }
    }

    /// Logs from now on when memory runs out, and keeps the limit of all containers in step with the
    /// machine's memory.
    pub fn watch_memory(&mut self, memory: Watch, limit: Option<ContainersLimit>) {
        self.machine.memory = Some(memory);
        self.machine.limit = limit;
        self.memory_wait();
    }

    fn memory_due(&mut self) {
        self.machine.look_at_memory();
        self.look_at_ram();
        self.memory_wait();
    }

    fn memory_wait(&mut self) {
        let at = Instant::now() + memory::EVERY;
        self.at(at, "look at the memory of the groups", Self::memory_due);
    }
}
