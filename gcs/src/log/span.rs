//! Work with a beginning and an end, told in one record at its end: what a timeline is made of.
//!
//! Members, beside those of the request: `span` (what kind of work), `start_us` (the machine's
//! uptime at its beginning) and `took_us`, all of one clock with the `boot:` record.

use std::time::Duration;

use super::time::{micros, uptime};
use super::{emit, Level, Record};

/// Work under way.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    began: Duration,
}

impl Span {
    pub fn begin() -> Self {
        Self { began: uptime() }
    }

    /// Tells it at level debug, about the request that is current now.
    pub fn end(self, kind: &str, what: &str, add: impl FnOnce(&mut Record)) {
        if !log::log_enabled!(log::Level::Debug) {
            return;
        }
        let mut record = Record::new(Level::Debug, what.to_owned());
        record.field("span", kind);
        record.field("start_us", micros(self.began));
        // Of rounded times, so that work within other work also is within it when told.
        let took = micros(uptime()).saturating_sub(micros(self.began));
        record.field("took_us", took);
        add(&mut record);
        emit(record);
    }

    /// Time since its beginning.
    pub fn elapsed(self) -> Duration {
        uptime().saturating_sub(self.began)
    }
}
