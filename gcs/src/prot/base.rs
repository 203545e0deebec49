//! The members that every message has (protocol sections 3 and 4).

use super::json::{is_default, same_name, wire, Cursor, Decode, JsonKind};
use super::HResult;

/// The container id that means the utility VM itself.
pub const UVM_ID: &str = "00000000-0000-0000-0000-000000000000";

/// Also the activity id that the shim sends in everything.
pub const NULL_GUID: &str = UVM_ID;

wire! {
    /// First members of every request and of the notification (`prot.MessageBase`).
    pub struct MessageBase {
        pub container_id: String = "ContainerId",
        /// Opaque text, echoed in the response. A host accepts only a GUID or nothing there.
        pub activity_id: String = "ActivityId" unless "is_default",
        pub span_context: Option<SpanContext> = "ocsc" unless "is_default",
        pub trace_context: TraceContext = "otsc" unless "is_default",
    }
}

impl MessageBase {
    /// Trace and span of the host that the request belongs to, as 32 and 16 lower-case hexadecimal
    /// digits. `None` when neither member has usable ones (protocol 3.3, 12.1).
    #[must_use]
    pub fn span(&self) -> Option<(String, String)> {
        let ids = |trace: &str, span: &str| Some((hex(trace, 32)?, hex(span, 16)?));
        let older = self.span_context.as_ref();
        older
            .and_then(|context| ids(&context.trace_id, &context.span_id))
            .or_else(|| {
                // `version-trace-span-flags` (W3C Trace Context, 3.2).
                let mut parts = self.trace_context.traceparent.split('-').skip(1);
                ids(parts.next()?, parts.next()?)
            })
    }
}

/// `text` in lower case if it is that many hexadecimal digits, not all of them 0.
fn hex(text: &str, digits: usize) -> Option<String> {
    let usable = text.len() == digits
        && text.bytes().all(|digit| digit.is_ascii_hexdigit())
        && text.bytes().any(|digit| digit != b'0');
    usable.then(|| text.to_ascii_lowercase())
}

/// Where in the host's trace a request was made, in the form of later hosts. Anything else there is
/// no error (P-045).
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct TraceContext {
    /// `00-<32 hexadecimal digits>-<16>-<flags>`.
    pub traceparent: String,
}

impl Decode for TraceContext {
    fn decode(&mut self, cursor: &mut Cursor<'_>) {
        match cursor.kind() {
            JsonKind::Object => cursor.object(|name, cursor| {
                if same_name(name, "traceparent") && cursor.kind() == JsonKind::String {
                    self.traceparent.decode(cursor);
                } else {
                    cursor.skip();
                }
            }),
            _ => cursor.skip(),
        }
    }
}

wire! {
    /// Where in the host's trace a request was made; for log records only
    /// (`prot.ocspancontext`).
    pub struct SpanContext {
        /// 32 hexadecimal digits.
        pub trace_id: String = "TraceID" unless "is_default",
        /// 16 hexadecimal digits.
        pub span_id: String = "SpanID" unless "is_default",
        /// Bit 0: sampled.
        pub trace_options: u32 = "TraceOptions" unless "is_default",
        /// Base64 of a JSON array of `{"Key", "Value"}`.
        pub tracestate: String = "Tracestate" unless "is_default",
    }
}

wire! {
    /// First members of every response (`prot.MessageResponseBase`).
    pub struct MessageResponseBase {
        pub result: HResult = "Result",
        pub activity_id: String = "ActivityId" unless "is_default",
        pub error_message: String = "ErrorMessage" unless "is_default",
        /// Exactly one on an error, none otherwise.
        pub error_records: Vec<ErrorRecord> = "ErrorRecords" unless "is_default",
    }
}

wire! {
    /// One error and where it comes from (`prot.ErrorRecord`).
    pub struct ErrorRecord {
        pub result: HResult = "Result",
        pub message: String = "Message",
        pub stack_trace: String = "StackTrace" unless "is_default",
        pub module_name: String = "ModuleName",
        pub file_name: String = "FileName",
        /// [`ErrorRecord::NO_LINE`] when unknown.
        pub line: u32 = "Line",
        pub function_name: String = "FunctionName" unless "is_default",
    }
}

impl ErrorRecord {
    /// `ModuleName` of everything this guest reports.
    pub const MODULE: &'static str = "gcs";
    /// `Line` when none is known.
    pub const NO_LINE: u32 = u32::MAX;
}

#[cfg(test)]
mod tests {
    use super::super::json;
    use super::*;

    #[test]
    fn spans_come_from_either_member_and_bad_ones_from_none() {
        let (trace, span) = ("0123456789ABCDEF0123456789abcdef", "00000000000000a1");
        let wanted = Some((trace.to_lowercase(), span.to_owned()));
        let older = format!(r#""ocsc":{{"TraceID":"{trace}","SpanID":"{span}"}}"#);
        let newer = format!(r#""otsc":{{"traceparent":"00-{trace}-{span}-01","x":1}}"#);
        for (members, want) in [
            (older.clone(), wanted.clone()),
            (newer.clone(), wanted.clone()),
            (format!(r#""ocsc":{{"TraceID":"zz"}},{newer}"#), wanted),
            (older.replace("a1", "a"), None),
            (older.replace("a1", "00"), None),
            (r#""otsc":["traceparent"]"#.into(), None),
            (r#""otsc":{"traceparent":7}"#.into(), None),
            (r#""otsc":{"traceparent":"00-ab"}"#.into(), None),
            (r#""otsc":null"#.into(), None),
        ] {
            let text = format!("{{{members}}}");
            let base: MessageBase = json::from_slice(text.as_bytes()).expect(&text);
            assert_eq!(base.span(), want, "{text}");
        }
    }
}
