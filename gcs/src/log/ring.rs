//! The last records, bounded in number and in bytes, so that a stack dump or a panic can show
//! what went before.

use std::collections::VecDeque;

use super::record::Record;

/// Records are numbered from 0 in the order of their making; a number is never used twice.
#[derive(Debug)]
pub struct Ring {
    records: VecDeque<Record>,
    /// Number of the oldest record kept.
    first: u64,
    bytes: usize,
    max_records: usize,
    max_bytes: usize,
}

impl Ring {
    pub const fn new(max_records: usize, max_bytes: usize) -> Self {
        Self {
            records: VecDeque::new(),
            first: 0,
            bytes: 0,
            max_records,
            max_bytes,
        }
    }

    /// Keeps the record and lets the oldest go until the bounds hold; the newest always stays.
    pub fn push(&mut self, record: Record) {
        self.bytes += weight(&record);
        self.records.push_back(record);
        while self.records.len() > 1
            && (self.records.len() > self.max_records || self.bytes > self.max_bytes)
        {
            if let Some(old) = self.records.pop_front() {
                self.bytes -= weight(&old);
                self.first += 1;
            }
        }
    }

    /// How many records are kept.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Number that the next record will get.
    pub fn next(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    /// The kept records numbered `from` and later, and how many of those asked for are gone.
    pub fn since(&self, from: u64) -> (u64, impl DoubleEndedIterator<Item = &Record>) {
        let gone = self.first.saturating_sub(from);
        let skip = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        (gone, self.records.iter().skip(skip))
    }
}

/// What a record costs, roughly: its texts and a share for the rest.
fn weight(record: &Record) -> usize {
    let fields = record.fields.iter().map(|(name, value)| {
        32 + name.len()
            + match value {
                serde_json::Value::String(text) => text.len(),
                _ => 16,
            }
    });
    64 + record.message.len() + fields.sum::<usize>()
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
        (gone, records.map(|r| r.message.clone()).collect())
    }

    #[test]
    fn keeps_the_newest_and_counts_the_gone() {
        let mut ring = Ring::new(3, usize::MAX);
        for n in 0..5 {
            ring.push(record(&n.to_string()));
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
            ring.push(record(&"x".repeat(200)));
        }
        assert_eq!(texts(&ring, 0).1.len(), 3);
        ring.push(record(&"y".repeat(5000)));
        assert_eq!(texts(&ring, 0).1, vec!["y".repeat(5000)]);
    }
}
