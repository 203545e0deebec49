//! The last records, bounded in number and in bytes, so that a stack dump or a panic can show
//! what went before.

use std::collections::VecDeque;

use super::record::Record;

/// The records to be sent are numbered from 0 in the order of their creation, and no number is used
/// twice. A record that is only kept here has the number of the next one.
#[derive(Debug)]
pub struct Ring {
    records: VecDeque<NumberedRecord>,
    next: u64,
    bytes: usize,
    max_records: usize,
    max_bytes: usize,
}

#[derive(Debug)]
struct NumberedRecord {
    record: Record,
    number: u64,
    is_sent: bool,
}

impl Ring {
    pub const fn new(max_records: usize, max_bytes: usize) -> Self {
        Self {
            records: VecDeque::new(),
            next: 0,
            bytes: 0,
            max_records,
            max_bytes,
        }
    }

    /// Keeps the record and drops the oldest ones until the bounds hold. The newest always stays.
    /// `is_sent`: the sink gets it too, now or later.
    pub fn push(&mut self, record: Record, is_sent: bool) {
        self.bytes += weight(&record);
        self.records.push_back(NumberedRecord {
            record,
            number: self.next,
            is_sent,
        });
        self.next += u64::from(is_sent);
        while self.records.len() > 1
            && (self.records.len() > self.max_records || self.bytes > self.max_bytes)
        {
            if let Some(old) = self.records.pop_front() {
                self.bytes -= weight(&old.record);
            }
        }
    }

    /// How many records are kept.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Number that the next record to be sent will get.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// All kept records, oldest first.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &Record> {
        self.records.iter().map(|kept| &kept.record)
    }

    /// The records to be sent, numbered `from` and later, and how many of those are gone.
    pub fn since(&self, from: u64) -> (u64, impl Iterator<Item = (u64, &Record)>) {
        let oldest = self.records.front().map_or(self.next, |kept| kept.number);
        let kept = self.records.iter();
        let kept = kept.filter(move |kept| kept.is_sent && kept.number >= from);
        (
            oldest.saturating_sub(from),
            kept.map(|kept| (kept.number, &kept.record)),
        )
    }
}

/// The approximate size of a record: its texts and a constant for the rest.
fn weight(record: &Record) -> usize {
    let fields = record.fields.iter().map(|(name, value)| {
        32 + name.len()
            + match value {
                serde_json::Value::String(text) => text.len(),
                _ => 16,
            }
    });
    80 + record.message.len() + fields.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Level;

    fn record(text: &str) -> Record {
        Record::new(Level::Info, text.into())
    }

    fn texts(ring: &Ring, from: u64) -> (u64, Vec<String>) {
        let (gone, records) = ring.since(from);
        (gone, records.map(|(_, r)| r.message.clone()).collect())
    }

    #[test]
    fn keeps_the_newest_and_counts_the_gone() {
        let mut ring = Ring::new(3, usize::MAX);
        for n in 0..5 {
            ring.push(record(&n.to_string()), true);
        }
        assert_eq!(ring.next(), 5);
        assert_eq!(
            texts(&ring, 0),
            (2, vec!["2".into(), "3".into(), "4".into()])
        );
        assert_eq!(texts(&ring, 4), (0, vec!["4".into()]));
        assert_eq!(texts(&ring, 9), (0, vec![]));
    }

    #[test]
    fn bytes_bound_it_too_but_never_the_newest() {
        let mut ring = Ring::new(100, 1000);
        for _ in 0..50 {
            ring.push(record(&"x".repeat(200)), true);
        }
        assert_eq!(texts(&ring, 0).1.len(), 3);
        ring.push(record(&"y".repeat(5000)), true);
        assert_eq!(texts(&ring, 0).1, vec!["y".repeat(5000)]);
    }

    #[test]
    fn records_that_are_not_sent_are_kept_and_not_counted() {
        let mut ring = Ring::new(4, usize::MAX);
        for n in 0..8 {
            ring.push(record(&n.to_string()), n % 2 == 0);
        }
        assert_eq!(ring.next(), 4);
        assert_eq!(ring.all().count(), 4);
        assert_eq!(texts(&ring, 1), (1, vec!["4".into(), "6".into()]));
        assert_eq!(texts(&ring, 3), (0, vec!["6".into()]));
    }
}
