//! Deadlines in order of time.

use std::collections::BTreeMap;
use std::time::Instant;

/// Names one deadline; never repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerKey {
    at: Instant,
    serial: u64,
}

/// Pending deadlines, each with what it is for.
pub struct Timers<T> {
    pending: BTreeMap<TimerKey, T>,
    next_serial: u64,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self {
            pending: BTreeMap::new(),
            next_serial: 0,
        }
    }
}

impl<T> Timers<T> {
    pub fn add(&mut self, at: Instant, what: T) -> TimerKey {
        let key = TimerKey {
            at,
            serial: self.next_serial,
        };
        self.next_serial += 1;
        self.pending.insert(key, what);
        key
    }

    /// Cancels a deadline. `None` when it has fired already.
    pub fn cancel(&mut self, key: TimerKey) -> Option<T> {
        self.pending.remove(&key)
    }

    pub fn next(&self) -> Option<Instant> {
        self.pending.first_key_value().map(|(key, _)| key.at)
    }

    /// The earliest deadline that has come, removed.
    pub fn pop_due(&mut self, now: Instant) -> Option<T> {
        let entry = self.pending.first_entry()?;
        (entry.key().at <= now).then(|| entry.remove())
    }

    /// All of them in the order of their time, for the state dump.
    pub fn iter(&self) -> impl Iterator<Item = (Instant, &T)> {
        self.pending.iter().map(|(key, what)| (key.at, what))
    }

    pub fn len(&self) -> usize {
        self.pending.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn deadlines_come_in_order_once_and_can_be_taken_back() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::default();
        timers.add(at(20), "late");
        timers.add(at(10), "first");
        timers.add(at(10), "second");
        let gone = timers.add(at(5), "gone");
        assert_eq!(timers.cancel(gone), Some("gone"));
        assert_eq!(timers.cancel(gone), None);
        assert_eq!(timers.next(), Some(at(10)));
        assert_eq!(timers.pop_due(at(9)), None);
        assert_eq!(timers.pop_due(at(10)), Some("first"));
        assert_eq!(timers.pop_due(at(10)), Some("second"));
        assert_eq!(timers.pop_due(at(10)), None);
        assert_eq!(timers.pop_due(at(99)), Some("late"));
        assert!(timers.is_empty());
    }
}
