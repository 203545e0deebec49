//! Keeps the clock in step with the host's (protocol 10.7, P-306).
//!
//! ```text
//! PTP device (Hyper-V, KVM) ─┐
//! port of the host, by flag ─┴→ source: a look ─→ discipline: pure ─→ slew or step, log
//! ```
//!
//! A small offset is corrected slowly, and a large one (after the host slept or the VM was paused)
//! at once. A missing clock is no fault. It is logged once and looked for from time to time,
//! because devices come late and go.

mod discipline;
pub mod source;

use std::fs::File;
use std::time::{Duration, Instant};

use crate::error::Failure;
use crate::sys::clock;
use discipline::{Correction, Discipline, Fault, News, Sample};

/// What keeps the clock.
#[derive(Debug)]
pub struct Clock {
    source: TimeSource,
    discipline: Discipline,
    /// When there is something to do. `None` while the host is being asked.
    next: Option<Instant>,
    /// Whether the clock was set forward since the last [`Clock::take_leap`].
    leapt: bool,
}

#[derive(Debug)]
enum TimeSource {
    /// A device is yet to be found.
    Searching,
    Device(File),
    Port(u32),
}

impl Clock {
    /// `port`: ask the host there instead of a device. Nothing is looked at yet.
    pub fn new(port: Option<u32>) -> Self {
        Self {
            source: port.map_or(TimeSource::Searching, TimeSource::Port),
            discipline: Discipline::default(),
            next: Some(Instant::now()),
            leapt: false,
        }
    }

    /// When [`Clock::due`] is to be called.
    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Time may have passed without this machine, so the next sample is due now. A sample that is
    /// in progress is not taken twice.
    pub fn hurry(&mut self, now: Instant) {
        if let Some(next) = &mut self.next {
            *next = now.min(*next);
        }
    }

    /// Does what is due. `Some`: the caller asks the host at this port and passes the answer to
    /// [`Clock::heard`].
    pub fn due(&mut self, now: Instant) -> Option<u32> {
        self.next.take_if(|at| *at <= now)?;
        if let TimeSource::Searching = self.source {
            match self.search() {
                Ok(found) => self.source = found,
                Err(fault) => {
                    self.judge(Err(fault), now);
                    return None;
                }
            }
        }
        match &mut self.source {
            // A device was just found, or its absence logged.
            TimeSource::Searching => {}
            TimeSource::Device(device) => {
                let look = source::look(device);
                if let Err(Fault::Gone(_)) = look {
                    // Another device may appear, or the same one again.
                    self.source = TimeSource::Searching;
                }
                self.judge(look, now);
            }
            TimeSource::Port(port) => return Some(*port),
        }
        None
    }

    fn search(&self) -> Result<TimeSource, Fault> {
        let none = "there is no PTP clock of the hypervisor";
        let device = source::device().ok_or_else(|| Fault::Gone(none.into()))?;
        let file = source::open(&device)
            .map_err(|error| Fault::Gone(format!("opening the PTP clock {device}: {error}")))?;
        log::info!("the time is kept in step with {device}");
        Ok(TimeSource::Device(file))
    }

    /// What the host answered.
    pub fn heard(&mut self, answer: Result<source::Answer, Failure>, now: Instant) {
        self.judge(source::heard(answer), now);
    }

    fn judge(&mut self, look: Result<Sample, Fault>, now: Instant) {
        let verdict = self.discipline.take(look);
        self.next = Some(now + verdict.pause);
        match verdict.news {
            Some(News::Trouble(fault)) => {
                log::warn!("the time is not kept in step with the host's: {fault}");
            }
            Some(News::Well) => log::info!("the time is kept in step with the host's again"),
            None => {}
        }
        let Some(correction) = verdict.correction else {
            return;
        };
        let done = match correction {
            Correction::Slew { micros } => clock::slew(micros),
            Correction::Step { nanos } => clock::step(nanos / 1000),
        };
        match (done, correction) {
            (Err(errno), _) => log::error!("correcting the clock: {errno}"),
            (Ok(()), Correction::Slew { .. }) => {}
            (Ok(()), Correction::Step { nanos }) => {
                self.leapt |= nanos > 0;
                let off = Duration::from_nanos(nanos.unsigned_abs());
                let side = if nanos > 0 { "behind" } else { "ahead" };
                log::info!(nanos = nanos; "the clock was set to the host's: it was {off:.1?} {side}");
            }
        }
    }

    /// Whether the clock was set forward since the last call. Then time may have passed in which
    /// this machine did not run.
    pub fn take_leap(&mut self) -> bool {
        std::mem::take(&mut self.leapt)
    }

    /// One line for the state dump.
    pub fn describe(&self) -> String {
        format!("{:?} {}", self.source, self.discipline.describe())
    }
}

#[cfg(test)]
mod tests {
    use super::discipline::EVERY;
    use super::*;

    #[test]
    fn without_a_clock_it_is_looked_for_ever_more_rarely() {
        if source::device().is_some() {
            println!("SKIPPED: without_a_clock: this machine has a PTP clock");
            return;
        }
        let mut clock = Clock::new(None);
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert_eq!(clock.due(now), None);
            let next = clock.next().expect("another look");
            pauses.push((next - now).as_secs());
            // Not before its time.
            assert_eq!(clock.due(now), None);
            assert_eq!(clock.next(), Some(next));
            now = next;
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60, 60]);
        clock.hurry(now - EVERY);
        assert_eq!(clock.next(), Some(now - EVERY));
    }

    #[test]
    fn a_port_is_asked_once_at_a_time() {
        let mut clock = Clock::new(Some(9));
        let now = Instant::now();
        assert_eq!(clock.due(now), Some(9));
        clock.hurry(now);
        assert_eq!(clock.next(), None);
        assert_eq!(clock.due(now + EVERY), None);
        clock.heard(Err(Failure::unspecified("no")), now);
        assert_eq!(clock.next(), Some(now + EVERY));
    }
}
