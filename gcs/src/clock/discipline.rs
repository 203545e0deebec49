//! The discipline of the clock: looks at the host's clock in, corrections and news for the log
//! out. Pure, so that it can be tried against any clock.
//!
//! Holds: a look is acted on at once, however long ago the last one was (a VM that was paused
//! does not know it); a look that says nothing changes nothing; trouble is news once, when it
//! begins, and once more when it is over.

use std::time::Duration;

/// Between two looks: what a pause of the VM left behind is made up for within it.
pub const EVERY: Duration = Duration::from_secs(2);
/// After looks that said nothing they become rarer, up to this.
const RAREST: Duration = Duration::from_secs(60);
/// `makestep 0.1`: what is more is made up for at once. Nanoseconds.
const STEP: u64 = 100_000_000;
/// Where the host's clock can stand: from the year 2000 to 2200, seconds since 1970.
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
    /// `host`: seconds and nanoseconds that it said. `before` and `after`: our clock, in
    /// nanoseconds, around the look.
    ///
    /// # Errors
    /// No clock that goes says that.
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

    /// How to make up for what the clocks differ by.
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

/// Why a look said nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// There is no clock, or it cannot be read: with the reason.
    Gone(String),
    /// It shows no time that can be.
    Nonsense,
    /// It shows the very time that it showed before.
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

/// How an offset is made up for; the numbers say by how much our clock is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Correction {
    Slew { micros: i64 },
    Step { nanos: i64 },
}

/// What is worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    Trouble(Fault),
    /// The trouble is over.
    Well,
}

/// What a look comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub correction: Option<Correction>,
    pub news: Option<News>,
    /// Until the next look.
    pub pause: Duration,
}

/// What has to be kept from look to look.
#[derive(Debug, Default)]
pub struct Discipline {
    /// What the host's clock showed last.
    last: Option<i64>,
    /// Looks that said nothing, since the last that did, and what was told about them.
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
