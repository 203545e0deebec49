//! One log record and the three lines it can become: JSON for the host, text for a terminal,
//! a kernel log line for the console.

use std::fmt::Write as _;
use std::time::SystemTime;

use serde_json::{Map, Number, Value};

use super::level::{Format, Level};
use super::time::rfc3339;

/// Longest message or text field kept, in bytes; more is cut and marked.
const TEXT_MAX: usize = 8 << 10;
/// The kernel refuses longer writes to `/dev/kmsg` (`LOG_LINE_MAX`), prefix included.
const KMSG_MAX: usize = 900;

/// Where a record comes from; kernel messages never go back to the kernel.
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
    pub origin: Origin,
}

impl Record {
    pub fn new(level: Level, message: String) -> Self {
        Self {
            time: SystemTime::now(),
            level,
            message: cut(message),
            fields: Vec::new(),
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
        self.fields.push((name, value));
    }

    /// The whole line with its end.
    pub fn line(&self, format: Format) -> String {
        match format {
            Format::Json => self.json(),
            Format::Text => self.text(),
        }
    }

    fn json(&self) -> String {
        let mut object = Map::new();
        object.insert("level".into(), self.level.name().into());
        object.insert("msg".into(), self.message.as_str().into());
        object.insert("time".into(), rfc3339(self.time).into());
        for (name, value) in &self.fields {
            object.insert(name.clone(), value.clone());
        }
        let mut line = Value::Object(object).to_string();
        line.push('\n');
        line
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
        /// Facility "daemon" of syslog(3), so that readers tell us from the kernel.
        const DAEMON: u8 = 3 << 3;
        let mut line = format!("<{}>{tag}: ", DAEMON | self.level.priority());
        line.push_str(&self.message);
        self.append_fields(&mut line);
        let mut line = line.replace(['\n', '\r'], " ");
        truncate(&mut line, KMSG_MAX);
        line.push('\n');
        line
    }

    fn append_fields(&self, line: &mut String) {
        for (name, value) in &self.fields {
            // Writing to a string does not fail.
            write!(line, " {name}={value}").ok();
        }
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
fn truncate(text: &mut String, max: usize) {
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
