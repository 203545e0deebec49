//! One log record and the three lines it can become: JSON for the host, text for a terminal,
//! a kernel log line for the console.

use std::fmt::Write as _;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Number, Value};

use super::level::{Format, Level};
use super::scope::{IdValue, Scope};
use super::time::rfc3339;

/// Longest message or text field kept, in bytes; more is cut and marked.
const TEXT_MAX: usize = 8 << 10;
/// The kernel refuses longer writes to `/dev/kmsg` (`LOG_LINE_MAX`), prefix included.
const KMSG_MAX: usize = 900;

/// Where a record comes from. Messages of the kernel are never written back to its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Ours,
    Kernel,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub time: SystemTime,
    pub level: Level,
    pub message: String,
    /// Free members of the JSON line; never named `level`, `msg` or `time`.
    pub fields: Vec<(String, Value)>,
    /// The request that it is about. Its ids are members too, unless a field has the same name.
    pub scope: Scope,
    pub origin: Origin,
}

impl Record {
    pub fn new(level: Level, message: String) -> Self {
        Self {
            time: SystemTime::now(),
            level,
            message: cut(message),
            fields: Vec::new(),
            scope: Scope::current(),
            origin: Origin::Ours,
        }
    }

    pub(super) fn from_facade(record: &log::Record<'_>) -> Self {
        let mut own = Self::new(record.level().into(), record.args().to_string());
        // The visitor never fails, so there is no error to look at.
        record.key_values().visit(&mut own).ok();
        own
    }

    /// Adds a field. A name the record itself needs gets a prefix, as logrus does.
    pub fn field(&mut self, name: &str, value: impl Into<Value>) {
        let name = match name {
            "level" | "msg" | "time" => format!("fields.{name}"),
            _ => name.to_owned(),
        };
        let value = match value.into() {
            Value::String(text) => Value::String(cut(text)),
            other => other,
        };
        match self.fields.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.fields.push((name, value)),
        }
    }

    /// The whole line with its end.
    pub fn line(&self, format: Format) -> String {
        match format {
            Format::Json => self.json(),
            Format::Text => self.text(),
        }
    }

    fn json(&self) -> String {
        let mut line = JsonLine::begin(String::new());
        line.member("level", self.level.name());
        line.member("msg", &self.message);
        line.member("time", &rfc3339(self.time));
        self.write_fields(&mut line);
        line.end()
    }

    fn write_fields(&self, line: &mut JsonLine) {
        for (name, value) in self.scope_fields() {
            line.member(name, &value);
        }
        for (name, value) in &self.fields {
            line.member(name, value);
        }
    }

    /// The members of the request, except for those that a field of the record stands for.
    fn scope_fields(&self) -> impl Iterator<Item = (&'static str, IdValue<'_>)> {
        let own = |name: &str| self.fields.iter().any(|(field, _)| field == name);
        self.scope.fields().filter(move |(name, _)| !own(name))
    }

    fn text(&self) -> String {
        let mut line = format!(
            "time=\"{}\" level={} msg={}",
            rfc3339(self.time),
            self.level.name(),
            Value::from(self.message.as_str())
        );
        self.append_fields(&mut line);
        line.push('\n');
        line
    }

    /// `<priority>tag: message fields`, one line, short enough for the kernel to take.
    pub(crate) fn kmsg(&self, tag: &str) -> String {
        let mut line = self.kmsg_head(tag);
        line.push_str(&self.message);
        self.append_fields(&mut line);
        let mut line = line.replace(['\n', '\r'], " ");
        truncate(&mut line, KMSG_MAX);
        line.push('\n');
        line
    }

    /// The same with message and fields as JSON, for PID 1 to read back ([`crate::machine::kmsg`]). The end
    /// of a message that does not fit is cut off. Fields that leave too little room for the message
    /// are left out, except for those of the request.
    pub(crate) fn kmsg_json(&self, tag: &str) -> String {
        /// The room that the message has at least.
        const MESSAGE: usize = 200;
        let mut record = self.clone();
        truncate(&mut record.message, KMSG_MAX);
        let mut message = std::mem::take(&mut record.message);
        if record.json_for_pid_1(tag).len() > KMSG_MAX - MESSAGE {
            record.fields.clear();
        }
        loop {
            record.message.clone_from(&message);
            let line = record.json_for_pid_1(tag);
            let over = line.len().saturating_sub(KMSG_MAX);
            if over == 0 || message.is_empty() {
                return line;
            }
            // A byte of the message is one to six of the line.
            let keep = message.len().saturating_sub(over.div_ceil(6));
            truncate(&mut message, keep);
        }
    }

    fn json_for_pid_1(&self, tag: &str) -> String {
        let mut line = JsonLine::begin(self.kmsg_head(tag));
        line.member("msg", &self.message);
        self.write_fields(&mut line);
        line.end()
    }

    fn kmsg_head(&self, tag: &str) -> String {
        /// Facility "daemon" of syslog(3), which distinguishes these lines from the kernel's.
        const DAEMON: u8 = 3 << 3;
        format!("<{}>{tag}: ", DAEMON | self.level.priority())
    }

    fn append_fields(&self, line: &mut String) {
        // Writing to a string does not fail.
        for (name, value) in self.scope_fields() {
            write!(line, " {name}={value}").ok();
        }
        for (name, value) in &self.fields {
            write!(line, " {name}={value}").ok();
        }
    }
}

/// A JSON object on a line, written member by member: a tree of it would cost more than all else
/// that a record takes.
struct JsonLine {
    bytes: Vec<u8>,
    is_empty: bool,
}

impl JsonLine {
    /// Begins the object after `head`.
    fn begin(head: String) -> Self {
        /// The length of most lines.
        const USUAL: usize = 384;
        let mut bytes = head.into_bytes();
        bytes.reserve(USUAL);
        bytes.push(b'{');
        Self {
            bytes,
            is_empty: true,
        }
    }

    /// The caller sees to it that each name stands once.
    fn member(&mut self, name: &str, value: &(impl Serialize + ?Sized)) {
        if !std::mem::take(&mut self.is_empty) {
            self.bytes.push(b',');
        }
        self.value(name);
        self.bytes.push(b':');
        self.value(value);
    }

    fn value(&mut self, value: &(impl Serialize + ?Sized)) {
        serde_json::to_writer(&mut self.bytes, value)
            .expect("texts and JSON values can be written, and a vector takes all bytes");
    }

    fn end(mut self) -> String {
        self.bytes.extend(b"}\n");
        String::from_utf8(self.bytes).expect("JSON is text")
    }
}

impl<'kvs> log::kv::VisitSource<'kvs> for Record {
    fn visit_pair(
        &mut self,
        key: log::kv::Key<'kvs>,
        value: log::kv::Value<'kvs>,
    ) -> Result<(), log::kv::Error> {
        let json = if let Some(flag) = value.to_bool() {
            Value::Bool(flag)
        } else if let Some(number) = value.to_u64() {
            Value::Number(number.into())
        } else if let Some(number) = value.to_i64() {
            Value::Number(number.into())
        } else if let Some(number) = value.to_f64().and_then(Number::from_f64) {
            Value::Number(number)
        } else {
            Value::String(value.to_string())
        };
        self.field(key.as_str(), json);
        Ok(())
    }
}

/// Shortens to at most `max` bytes, at the border of a character.
pub(super) fn truncate(text: &mut String, max: usize) {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

fn cut(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        truncate(&mut text, TEXT_MAX);
        text.push_str("[cut]");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn sample() -> Record {
        let mut record = Record::new(Level::Warning, "two\nlines \"quoted\"".into());
        record.time = UNIX_EPOCH + Duration::from_nanos(5);
        record.field("cid", "c1");
        record.field("msg", 7);
        record
    }

    #[test]
    fn json_has_the_three_members_first_and_keeps_reserved_names_free() {
        assert_eq!(
            sample().line(Format::Json),
            "{\"level\":\"warning\",\"msg\":\"two\\nlines \\\"quoted\\\"\",\
             \"time\":\"1970-01-01T00:00:00.000000005Z\",\"cid\":\"c1\",\"fields.msg\":7}\n"
        );
    }

    #[test]
    fn text_and_kernel_lines_are_one_line() {
        assert_eq!(
            sample().line(Format::Text),
            "time=\"1970-01-01T00:00:00.000000005Z\" level=warning \
             msg=\"two\\nlines \\\"quoted\\\"\" cid=\"c1\" fields.msg=7\n"
        );
        assert_eq!(
            sample().kmsg("gcs"),
            "<28>gcs: two lines \"quoted\" cid=\"c1\" fields.msg=7\n"
        );
    }

    #[test]
    fn the_request_is_in_every_form_and_a_field_of_its_own_wins() {
        let base = crate::prot::MessageBase {
            container_id: "c2".into(),
            activity_id: "a1".into(),
            ..Default::default()
        };
        let scope = Scope::of(crate::prot::MessageId::START, 7, &base);
        let record = {
            let _about = scope.enter();
            sample()
        };
        let json: Value = serde_json::from_str(&record.line(Format::Json)).expect("JSON");
        assert_eq!(json["message-type"], "ComputeSystemStartV1");
        assert_eq!(json["message-id"], 7);
        assert_eq!(json["activityID"], "a1");
        assert_eq!(json["cid"], "c1");
        assert!(json.get("traceID").is_none());
        for line in [record.line(Format::Text), record.kmsg("gcs")] {
            assert!(
                line.contains(" message-id=7 activityID=\"a1\" cid=\"c1\""),
                "{line}"
            );
        }
        assert_eq!(sample().scope, Scope::default());
    }

    #[test]
    fn lines_for_pid_1_are_json_of_a_length_that_the_kernel_takes() {
        let mut record = sample();
        let line = record.kmsg_json("gcs[7]");
        assert_eq!(
            line,
            "<28>gcs[7]: {\"msg\":\"two\\nlines \\\"quoted\\\"\",\"cid\":\"c1\",\"fields.msg\":7}\n"
        );
        record.message = "\u{1}é\"".repeat(1000);
        record.field("long", "x".repeat(500));
        for wanted in ["x", "cid"] {
            let line = record.kmsg_json("gcs[7]");
            assert!(line.len() <= KMSG_MAX, "{}", line.len());
            let json = line.strip_prefix("<28>gcs[7]: ").expect("the head");
            let json: Value = serde_json::from_str(json).expect("JSON");
            assert!(record
                .message
                .starts_with(json["msg"].as_str().expect("a text")));
            assert_eq!(json.get("long").is_some(), wanted == "x");
            record.field("longer", "x".repeat(700));
        }
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let record = Record::new(Level::Info, "é".repeat(TEXT_MAX));
        assert!(record.message.ends_with("é[cut]"));
        assert!(record.message.len() <= TEXT_MAX + 5);
        assert!(record.kmsg("gcs").len() <= KMSG_MAX + 1);
    }

    #[test]
    fn facade_fields_keep_their_types() {
        let kvs: &[(&str, log::kv::Value<'_>)] = &[
            ("flag", true.into()),
            ("count", 7_u64.into()),
            ("minus", (-7_i64).into()),
            ("part", 0.5_f64.into()),
            ("name", "x".into()),
        ];
        let record = Record::from_facade(
            &log::Record::builder()
                .args(format_args!("m"))
                .key_values(&kvs)
                .build(),
        );
        let line = record.line(Format::Json);
        assert!(
            line.ends_with("\"flag\":true,\"count\":7,\"minus\":-7,\"part\":0.5,\"name\":\"x\"}\n"),
            "{line}"
        );
    }
}
