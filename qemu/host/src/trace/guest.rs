//! Work of the guest, from its log: records with the member `span` (a request, or a task beneath
//! one) and the `boot:` record. Times are µs of the guest's uptime.

use serde_json::{Map, Value};

use crate::log::Record;

/// Members of a record that give time and kind, and are no arguments of the span.
const TIMES: [&str; 3] = ["span", "start_us", "took_us"];

#[derive(Debug, Clone, PartialEq)]
pub struct GuestSpan {
    pub name: String,
    pub kind: Kind,
    pub start: u64,
    pub end: u64,
    /// `spanID`: the request of the host.
    pub host_span: Option<String>,
    pub args: Map<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Request,
    /// Of the request with the same `spanID`, or of none.
    Task,
    /// From the kernel's start to PID 1, and the steps of PID 1.
    Boot,
}

#[derive(Debug, Default)]
pub struct Collected {
    pub spans: Vec<GuestSpan>,
}

impl Collected {
    pub fn take(&mut self, record: &Record) {
        self.spans.extend(span(record));
        if record.message.starts_with("boot: ") {
            self.spans.extend(boot(&record.fields));
        }
    }
}

fn span(record: &Record) -> Option<GuestSpan> {
    let kind = match record.fields.get("span")?.as_str()? {
        "request" => Kind::Request,
        _ => Kind::Task,
    };
    let number = |name: &str| record.fields.get(name)?.as_u64();
    let start = number("start_us")?;
    let args = record.fields.iter();
    let args = args.filter(|(name, _)| !TIMES.contains(&name.as_str()));
    Some(GuestSpan {
        name: record.message.clone(),
        kind,
        start,
        end: start.checked_add(number("took_us")?)?,
        host_span: record
            .fields
            .get("spanID")
            .and_then(Value::as_str)
            .map(str::to_owned),
        args: args.map(|(n, v)| (n.clone(), v.clone())).collect(),
    })
}

/// The stages of the boot: each step ends where its member says, and begins with the one before.
fn boot(fields: &Map<String, Value>) -> Vec<GuestSpan> {
    let stage = |name: &str, start, end| GuestSpan {
        name: name.to_owned(),
        kind: Kind::Boot,
        start,
        end,
        host_span: None,
        args: Map::new(),
    };
    let Some(main) = fields.get("uptime_us").and_then(Value::as_u64) else {
        return Vec::new();
    };
    let mut steps: Vec<(&str, u64)> = fields
        .iter()
        .filter(|(name, _)| *name != "uptime_us")
        .filter_map(|(name, at)| Some((name.strip_suffix("_us")?, at.as_u64()?)))
        .collect();
    steps.sort_by_key(|(_, at)| *at);
    let mut spans = vec![stage("kernel", 0, main)];
    let mut last = 0;
    for (step, at) in steps {
        spans.push(stage(&format!("PID 1: {step}"), main + last, main + at));
        last = at;
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Level;
    use serde_json::json;

    fn record(message: &str, fields: Value) -> Record {
        let Value::Object(fields) = fields else {
            panic!("an object")
        };
        Record {
            level: Level::Debug,
            time: String::new(),
            message: message.into(),
            complete: true,
            fields,
        }
    }

    #[test]
    fn spans_are_read_and_what_lacks_a_time_is_left_out() {
        let mut collected = Collected::default();
        let whole =
            json!({"span": "task", "start_us": 5, "took_us": 7, "spanID": "a1", "cid": "c"});
        collected.take(&record("mounting", whole));
        for bad in [
            json!({"span": "task", "start_us": 5}),
            json!({"span": 1, "start_us": 5, "took_us": 7}),
            json!({"span": "task", "start_us": -5, "took_us": 7}),
            json!({"span": "task", "start_us": u64::MAX, "took_us": 7}),
            json!({}),
        ] {
            collected.take(&record("bad", bad));
        }
        let [span] = &collected.spans[..] else {
            panic!("{collected:?}")
        };
        assert_eq!((span.start, span.end, span.kind), (5, 12, Kind::Task));
        assert_eq!(span.host_span.as_deref(), Some("a1"));
        assert_eq!(span.args.keys().collect::<Vec<_>>(), ["spanID", "cid"]);
    }

    #[test]
    fn stages_of_the_boot_follow_each_other() {
        let mut collected = Collected::default();
        let fields = json!({"uptime_us": 100, "mounts_us": 20, "bridge_us": 50, "log_us": 30});
        collected.take(&record("boot: mounts 20 us, ...", fields));
        let stages: Vec<_> = collected
            .spans
            .iter()
            .map(|s| (s.name.as_str(), s.start, s.end))
            .collect();
        assert_eq!(
            stages,
            [
                ("kernel", 0, 100),
                ("PID 1: mounts", 100, 120),
                ("PID 1: log", 120, 130),
                ("PID 1: bridge", 130, 150)
            ]
        );
    }
}
