//! What the host knows of one guest, under one lock. Threads that read sockets write it; callers
//! wait for it, each with a deadline, and all of them learn of the end at once.

use std::collections::{HashMap, VecDeque};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::end::{End, HostError};
use crate::log::Record;
use crate::trace::{Recorder, SpanId};

/// Log records kept for reports.
const KEPT_RECORDS: usize = 1000;
/// What they may take of memory together, in bytes.
const KEPT_WEIGHT: usize = 16 << 20;

/// An answer as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The type of its frame.
    pub message: u32,
    /// Its JSON, byte for byte.
    pub payload: Vec<u8>,
    /// The payload read as a host reads it: known members by their canonical names, no nulls.
    pub members: Map<String, Value>,
}

impl Answer {
    /// `Result` as the HRESULT it stands for; 0 is success. `u32::MAX` when it has none.
    pub fn code(&self) -> u32 {
        let result = self.members.get("Result").and_then(Value::as_i64);
        // Strict mode has seen that it fits.
        result.map_or(u32::MAX, |code| code as u32)
    }

    /// The payload as text, for a report.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }

    /// `ActivityId`, if the answer has one.
    pub fn activity(&self) -> Option<&str> {
        self.members.get("ActivityId").and_then(Value::as_str)
    }
}

pub(crate) struct Call {
    pub message: u32,
    /// Its span in the timeline.
    pub span: Option<SpanId>,
    pub answer: Option<Answer>,
    /// Nobody will fetch the answer, so it is dropped when it arrives.
    pub forgotten: bool,
}

/// An exit notification as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Notification {
    /// The container that has exited.
    pub container: String,
    /// All of it: `Type`, `Result` and more (protocol 4.13).
    pub members: Map<String, Value>,
    /// When it came.
    pub at: Instant,
}

#[derive(Default)]
pub(crate) struct State {
    pub end: Option<End>,
    pub calls: HashMap<u64, Call>,
    pub next_call: u64,
    /// Containers of this bridge, and the notification each had.
    pub containers: HashMap<String, Option<Notification>>,
    pub streams: HashMap<u32, UnixStream>,
    pub entropy_at: Option<Instant>,
    pub log_at: Option<Instant>,
    pub bridge_at: Option<Instant>,
    pub bridge: Option<Arc<UnixStream>>,
    /// Counts the bridges that this side has dropped.
    pub bridge_number: u32,
    /// The guest was told to power off: the bridge may go away.
    pub leaving: bool,
    /// Violations met with strict mode off.
    pub tolerated: Vec<String>,
    pub records: VecDeque<Record>,
    /// What they weigh together.
    pub kept_weight: usize,
    /// How many records were dropped to make room for others.
    pub dropped_records: u64,
    /// No further record will come.
    pub log_closed: bool,
    /// Records a timeline.
    pub trace: Recorder,
}

/// The last records of the guest's log, from a number on.
#[derive(Debug, Clone, PartialEq)]
pub struct Tail {
    /// In their order.
    pub records: Vec<Record>,
    /// The number of the record that comes next.
    pub next: u64,
    /// How many records from that number on are not kept any more.
    pub missed: u64,
}

impl State {
    pub fn tail(&self, from: u64) -> Tail {
        let missed = self.dropped_records.saturating_sub(from);
        let skipped = from.saturating_sub(self.dropped_records);
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        Tail {
            records: self.records.iter().skip(skipped).cloned().collect(),
            next: self.dropped_records + self.records.len() as u64,
            missed,
        }
    }
}

#[derive(Clone, Default)]
pub(crate) struct Shared(Arc<(Mutex<State>, Condvar)>);

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        // The state is plain data and consistent after every statement, so a panic elsewhere cannot
        // corrupt it.
        self.0 .0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.0 .1.notify_all();
        result
    }

    /// Ends the run unless something else did before.
    pub fn end(&self, end: End) {
        self.update(|state| {
            state.end.get_or_insert(end);
        });
    }

    pub fn keep(&self, record: Record) {
        self.update(|state| {
            state.trace.guest_record(&record);
            state.kept_weight += record.weight();
            state.records.push_back(record);
            // The newest one is kept, whatever it weighs.
            while state.records.len() > KEPT_RECORDS
                || state.records.len() > 1 && state.kept_weight > KEPT_WEIGHT
            {
                let dropped = state
                    .records
                    .pop_front()
                    .map_or(0, |record| record.weight());
                state.kept_weight -= dropped;
                state.dropped_records += 1;
            }
        });
    }

    /// Waits until `ready` returns something. Facts that have arrived count even after the end.
    pub fn wait<T>(
        &self,
        doing: &str,
        limit: Duration,
        mut ready: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T, HostError> {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            if let Some(found) = ready(&mut state) {
                return Ok(found);
            }
            let doing = || doing.to_owned();
            if let Some(end) = state.end.clone() {
                return Err(HostError::Ended {
                    doing: doing(),
                    end,
                });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(HostError::Timeout {
                    doing: doing(),
                    after: limit,
                });
            }
            state = match self.0 .1.wait_timeout(state, left) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Level;
    use std::sync::mpsc;

    fn record(message: String) -> Record {
        Record {
            level: Level::Info,
            time: String::new(),
            message,
            complete: false,
            fields: Map::new(),
        }
    }

    #[test]
    fn a_reader_of_the_log_learns_what_it_missed() {
        let shared = Shared::default();
        for number in 0..KEPT_RECORDS + 5 {
            shared.keep(record(number.to_string()));
        }
        let first = |from: u64| {
            let tail = shared.lock().tail(from);
            assert_eq!(tail.next, KEPT_RECORDS as u64 + 5);
            let first = tail.records.first().map(|r| r.message.clone());
            (first, tail.missed)
        };
        assert_eq!(first(0), (Some("5".into()), 5));
        assert_eq!(first(3), (Some("5".into()), 2));
        assert_eq!(first(7), (Some("7".into()), 0));
        assert_eq!(first(KEPT_RECORDS as u64 + 5), (None, 0));
    }

    #[test]
    fn large_records_leave_sooner() {
        let shared = Shared::default();
        let large = "x".repeat(1 << 20);
        for _ in 0..100 {
            shared.keep(record(large.clone()));
        }
        let state = shared.lock();
        assert_eq!(state.records.len(), 15);
        assert_eq!(state.dropped_records, 85);
        let weighed: usize = state.records.iter().map(Record::weight).sum();
        assert_eq!(state.kept_weight, weighed);
        drop(state);
        // Alone it is kept, though it is too much.
        let numbers = "1,".repeat(KEPT_WEIGHT / 32);
        let text = format!("{{\"msg\":\"m\",\"n\":[{}0]}}", numbers);
        let value = serde_json::from_str(&text).unwrap();
        shared.keep(Record::from_value(value).unwrap());
        assert_eq!(shared.lock().records.len(), 1);
    }

    #[test]
    fn a_log_record_wakes_who_waits_for_it() {
        let shared = Shared::default();
        let (looked, first) = mpsc::channel();
        let waiter = shared.clone();
        let limit = Duration::from_secs(60);
        let begun = Instant::now();
        let waiting = std::thread::spawn(move || {
            waiter.wait("waiting", limit, |state| {
                looked.send(()).unwrap();
                state.records.front().map(|r| r.message.clone())
            })
        });
        // The waiter has found nothing, and holds the lock until it sleeps.
        first.recv().unwrap();
        shared.keep(record("here".into()));
        assert_eq!(waiting.join().unwrap().unwrap(), "here");
        assert!(begun.elapsed() < limit / 2);
    }
}
