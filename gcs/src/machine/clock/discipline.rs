//! The discipline of the clock: samples of the host's clock in, corrections and log records out. It
//! is pure, so that tests can try it against any clock.
//!
//! A sample is acted on at once, however old the last one is, because a VM does not know that it
//! was paused. A failed sample changes nothing. A fault is logged once when it begins, and once
//! when it is over.

use std::time::Duration;

/// The time between two samples, within which the clock is right again after a pause of the VM.
pub const EVERY: Duration = Duration::from_secs(2);
/// The longest time between two samples after failed ones.
const RAREST: Duration = Duration::from_secs(60);
/// A larger offset is corrected at once, as chrony does with `makestep 0.1`. Nanoseconds.
const STEP: u64 = 100_000_000;
/// The times that the host's clock can show: from the year 2000 to 2200, in seconds since 1970.
const SANE: std::ops::Range<i64> = 946_684_800..7_258_118_400;
const SECOND: i64 = 1_000_000_000;

/// One look at the host's clock. Nanoseconds since 1970, which an `i64` holds until 2262.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    host: i64,
    before: i64,
    after: i64,
}

impl Sample {
    /// `host` is the host's time in seconds and nanoseconds. `before` and `after` are the guest's
    /// time around the sample, in nanoseconds.
    ///
    /// # Errors
    /// No working clock shows this time.
    pub fn new(host: (i64, i64), before: i64, after: i64) -> Result<Self, Fault> {
        let (seconds, nanos) = host;
        if !SANE.contains(&seconds) || !(0..SECOND).contains(&nanos) {
            return Err(Fault::Nonsense);
        }
        Ok(Self {
            host: seconds * SECOND + nanos,
            before,
            after,
        })
    }

    /// How to correct the difference of the clocks.
    fn correction(self) -> Option<Correction> {
        // The host's clock was read at some moment in between.
        let most = self.host.saturating_sub(self.before);
        let least = self.host.saturating_sub(self.after);
        if least <= 0 && most >= 0 {
            return None;
        }
        let nanos = least.midpoint(most);
        let sure = least.unsigned_abs().min(most.unsigned_abs());
        Some(match sure > STEP {
            true => Correction::Step { nanos },
            false => Correction::Slew {
                micros: nanos / 1000,
            },
        })
    }
}

/// Why a sample has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// There is no clock, or it cannot be read: with the reason.
    Gone(String),
    /// It shows an impossible time.
    Nonsense,
    /// It shows the same time as before.
    Stalled,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gone(why) => f.write_str(why),
            Self::Nonsense => f.write_str("the host's clock shows no time that can be"),
            Self::Stalled => f.write_str("the host's clock stands still"),
        }
    }
}

/// How an offset is corrected. The numbers say by how much the guest's clock is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Correction {
    Slew { micros: i64 },
    Step { nanos: i64 },
}

/// What is worth a record in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    Trouble(Fault),
    /// The fault is over.
    Well,
}

/// What a sample results in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub correction: Option<Correction>,
    pub news: Option<News>,
    /// Until the next look.
    pub pause: Duration,
}

/// The state between samples.
#[derive(Debug, Default)]
pub struct Discipline {
    /// What the host's clock showed last.
    last: Option<i64>,
    /// How many samples have failed since the last good one, and the fault that was logged.
    trouble: Option<(u32, Fault)>,
}

impl Discipline {
    pub fn take(&mut self, look: Result<Sample, Fault>) -> Verdict {
        let look = look.and_then(|sample| match self.last == Some(sample.host) {
            true => Err(Fault::Stalled),
            false => Ok(sample),
        });
        match look {
            Ok(sample) => {
                self.last = Some(sample.host);
                Verdict {
                    correction: sample.correction(),
                    news: self.trouble.take().map(|_| News::Well),
                    pause: EVERY,
                }
            }
            Err(fault) => {
                let (before, told) = match self.trouble.take() {
                    Some((count, told)) => (count, Some(told)),
                    None => (0, None),
                };
                let is_news = told.is_none_or(|told| told != fault);
                self.trouble = Some((before.saturating_add(1), fault.clone()));
                Verdict {
                    correction: None,
                    news: is_news.then_some(News::Trouble(fault)),
                    pause: (EVERY * (1 << before.min(8))).min(RAREST),
                }
            }
        }
    }

    /// For the state dump.
    pub fn describe(&self) -> String {
        match &self.trouble {
            None => "in step with the host's".into(),
            Some((count, fault)) => format!("not in step for {count} looks: {fault}"),
        }
    }
}

#[cfg(test)]
#[path = "discipline_tests.rs"]
mod tests;
