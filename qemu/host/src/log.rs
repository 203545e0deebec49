//! The log channel (port 109): a stream of JSON objects, checked as the host checks it
//! (protocol 10.4). The first thing that is not a record ends the parsing for good.

use std::io::Read;

use serde_json::{Map, Value};

/// How bad a record is; the names of protocol 10.4. They are not taken from the guest's code, which is
/// judged by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The guest panics.
    Panic,
    /// The program ends.
    Fatal,
    /// Something failed.
    Error,
    /// Something is odd.
    Warning,
    /// What it does.
    Info,
    /// How it does it.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    /// From the worst on.
    pub const ALL: [Self; 7] = [
        Self::Panic,
        Self::Fatal,
        Self::Error,
        Self::Warning,
        Self::Info,
        Self::Debug,
        Self::Trace,
    ];

    /// In any letter case, as the host's parser has it.
    pub fn parse(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let by_name = |level: &Self| level.name() == name;
        match name.as_str() {
            "warn" => Some(Self::Warning),
            _ => Self::ALL.into_iter().find(by_name),
        }
    }

    /// As records have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::Fatal => "fatal",
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// One record of the guest's log.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// How bad it is.
    pub level: Level,
    /// RFC 3339, as it came; empty when the record has none.
    pub time: String,
    /// What it says.
    pub message: String,
    /// It had level, time and message: a host does without, a guest sends them (P-301).
    pub complete: bool,
    /// Everything else.
    pub fields: Map<String, Value>,
}

impl Record {
    /// The record as it might have come.
    pub fn to_value(&self) -> Value {
        let mut members = Map::new();
        if !self.time.is_empty() {
            members.insert("time".into(), self.time.as_str().into());
        }
        members.insert("level".into(), self.level.name().into());
        members.insert("msg".into(), self.message.as_str().into());
        members.extend(self.fields.clone());
        Value::Object(members)
    }

    /// What it takes of memory, about, in bytes: a guest may send small values without end.
    pub(crate) fn weight(&self) -> usize {
        let fields = self.fields.iter();
        let fields = fields.map(|(name, value)| NODE + name.len() + weight(value));
        NODE + self.time.len() + self.message.len() + fields.sum::<usize>()
    }

    /// Reads one JSON value of the stream; the error is what stops a host.
    pub fn from_value(value: Value) -> Result<Self, String> {
        let Value::Object(mut fields) = value else {
            return Err(format!("{value} is not an object"));
        };
        let complete = ["level", "time", "msg"]
            .iter()
            .all(|name| fields.contains_key(*name));
        let level = match fields.shift_remove("level") {
            None => Level::Info,
            Some(Value::String(name)) => {
                Level::parse(&name).ok_or_else(|| format!("{name:?} is not a level"))?
            }
            Some(other) => return Err(format!("{other} is not a level")),
        };
        let time = match fields.shift_remove("time") {
            None => String::new(),
            Some(Value::String(time)) if is_rfc3339(&time) => time,
            Some(other) => return Err(format!("{other} is not a time of RFC 3339")),
        };
        let message = match fields.shift_remove("msg") {
            None => String::new(),
            Some(Value::String(text)) => text,
            Some(other) => other.to_string(),
        };
        Ok(Self {
            level,
            time,
            message,
            complete,
            fields,
        })
    }
}

/// What a value takes without its text.
const NODE: usize = 64;

/// Its depth is bounded by the parser's.
fn weight(value: &Value) -> usize {
    NODE + match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(weight).sum(),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| NODE + name.len() + weight(value))
            .sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

impl std::fmt::Display for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}] {}", self.level.name(), self.message)?;
        for (name, value) in &self.fields {
            match value {
                Value::String(text) => write!(f, " {name}={text:?}")?,
                other => write!(f, " {name}={other}")?,
            }
        }
        Ok(())
    }
}

/// A record longer than this is taken for garbage.
const LONGEST: usize = 1 << 20;

/// Splits a byte stream into records.
#[derive(Default)]
pub struct Decoder {
    pending: Vec<u8>,
}

impl Decoder {
    /// Takes the next bytes; gives the records they complete, and what is wrong after them.
    pub fn feed(&mut self, bytes: &[u8]) -> (Vec<Record>, Result<(), String>) {
        self.pending.extend_from_slice(bytes);
        let mut records = Vec::new();
        let mut done = 0;
        let mut outcome = Ok(());
        let mut values = serde_json::Deserializer::from_slice(&self.pending).into_iter::<Value>();
        while let Some(value) = values.next() {
            match value.map_err(Some).and_then(|v| {
                Record::from_value(v).map_err(|e| {
                    outcome = Err(e);
                    None
                })
            }) {
                Ok(record) => records.push(record),
                // The rest of the record is still on its way.
                Err(Some(e)) if e.is_eof() && self.pending.len() - done <= LONGEST => break,
                Err(Some(e)) => {
                    outcome = Err(format!("it is not JSON ({e})"));
                    break;
                }
                Err(None) => break,
            }
            done = values.byte_offset();
        }
        let outcome = outcome.map_err(|e| {
            let rest = &self.pending[done..self.pending.len().min(done + 2000)];
            format!("{e}; from there: {}", String::from_utf8_lossy(rest).trim())
        });
        self.pending.drain(..done);
        (records, outcome)
    }

    /// Whether the stream may end here.
    pub fn at_border(&self) -> bool {
        self.pending.iter().all(u8::is_ascii_whitespace)
    }
}

/// Reads the channel to its end. `sink` gets each record; the error is the violation.
pub fn read_all(mut from: impl Read, mut sink: impl FnMut(Record)) -> Result<(), String> {
    let mut decoder = Decoder::default();
    let mut buffer = [0; 16 << 10];
    loop {
        let got = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(got) => got,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            // The guest is gone; whoever ended it reports that.
            Err(_) => return Ok(()),
        };
        let (records, outcome) = decoder.feed(&buffer[..got]);
        records.into_iter().for_each(&mut sink);
        outcome?;
    }
}

/// `2006-01-02T15:04:05[.999]Z` or with `+hh:mm`.
fn is_rfc3339(text: &str) -> bool {
    let b = text.as_bytes();
    let two = |at: usize, max: u8| {
        b.get(at..at + 2).is_some_and(|d| {
            d.iter().all(u8::is_ascii_digit) && (d[0] - b'0') * 10 + (d[1] - b'0') <= max
        })
    };
    let sign = |at: usize, c: u8| b.get(at) == Some(&c);
    let date =
        two(0, 99) && two(2, 99) && sign(4, b'-') && two(5, 12) && sign(7, b'-') && two(8, 31);
    let time = sign(10, b'T')
        && two(11, 23)
        && sign(13, b':')
        && two(14, 59)
        && sign(16, b':')
        && two(17, 60);
    if !(date && time) {
        return false;
    }
    let mut at = 19;
    if sign(at, b'.') {
        let digits = b[at + 1..]
            .iter()
            .take_while(|d| d.is_ascii_digit())
            .count();
        if digits == 0 {
            return false;
        }
        at += 1 + digits;
    }
    match b.get(at) {
        Some(b'Z') => at + 1 == b.len(),
        Some(b'+' | b'-') => {
            two(at + 1, 23) && sign(at + 3, b':') && two(at + 4, 59) && at + 6 == b.len()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"level":"info","msg":"a","time":"2026-01-02T03:04:05.000000006Z","n":1}
{"msg":"b"} {"level":"WARN","msg":"c","time":"2026-01-02T03:04:05+01:00"}
"#;

    #[test]
    fn records_come_out_the_same_however_the_stream_is_cut() {
        let mut whole = Decoder::default();
        let (all, outcome) = whole.feed(GOOD.as_bytes());
        assert_eq!(outcome, Ok(()));
        assert_eq!(all.len(), 3);
        assert_eq!((all[1].level, all[2].level), (Level::Info, Level::Warning));
        assert_eq!(all[0].to_string(), "[info] a n=1");
        assert_eq!(Record::from_value(all[0].to_value()).unwrap(), all[0]);
        assert_eq!(
            all.iter().map(|r| r.complete).collect::<Vec<_>>(),
            [true, false, true]
        );
        let mut bytewise = Decoder::default();
        let mut got = Vec::new();
        for byte in GOOD.bytes() {
            let (records, outcome) = bytewise.feed(&[byte]);
            assert_eq!(outcome, Ok(()));
            got.extend(records);
        }
        assert_eq!(got, all);
        assert!(bytewise.at_border());
    }

    #[test]
    fn the_first_bad_thing_ends_the_stream() {
        for (bad, says) in [
            ("panic: oh no\n", "panic: oh no"),
            (r#"{"level":"loud"}"#, "\"loud\" is not a level"),
            (r#"{"level":3}"#, "3 is not a level"),
            (r#"{"time":"yesterday"}"#, "RFC 3339"),
            (r#"{"time":1}"#, "RFC 3339"),
            ("[1]", "not an object"),
            ("{\"a\":1}}", "not JSON"),
        ] {
            let mut decoder = Decoder::default();
            let (records, outcome) = decoder.feed(format!("{{\"msg\":\"ok\"}}\n{bad}").as_bytes());
            assert!(!records.is_empty(), "{bad}");
            let said = outcome.unwrap_err();
            assert!(said.contains(says), "{bad}: {said}");
        }
    }

    #[test]
    fn times_are_checked() {
        for good in ["2026-11-23T19:34:13Z", "2026-11-23T19:34:13.1-07:00"] {
            assert!(is_rfc3339(good), "{good}");
        }
        for bad in [
            "",
            "2026-11-23",
            "2026-11-23 19:34:13Z",
            "2026-13-23T19:34:13Z",
            "2026-11-23T19:34:13",
            "2026-11-23T19:34:13.Z",
            "2026-11-23T19:34:13ZZ",
            "2026-11-23T19:34:13+0100",
        ] {
            assert!(!is_rfc3339(bad), "{bad}");
        }
    }
}
