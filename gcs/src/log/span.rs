//! Work with a beginning and an end, which is logged as one record at its end. Timelines are made
//! of these records.
//!
//! Besides the members of the request a record has `span` (the kind of work), `start_us` (the
//! machine's uptime at its beginning) and `took_us`, by the clock of the `boot:` record.

use std::time::Duration;

use super::time::{micros, uptime};
use super::{emit, Level, Record};

/// Work in progress.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    began: Duration,
}

impl Span {
    pub fn begin() -> Self {
        Self { began: uptime() }
    }

    /// Logs it at level debug, for the request that is current now.
    pub fn end(self, kind: &str, what: &str, add: impl FnOnce(&mut Record)) {
        if !log::log_enabled!(log::Level::Debug) {
            return;
        }
        let mut record = Record::new(Level::Debug, what.to_owned());
        record.field("span", kind);
        record.field("start_us", micros(self.began));
        // The times are rounded first, so that work inside other work is inside it in the records
        // too.
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
