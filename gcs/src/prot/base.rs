//! The members that every message has (protocol sections 3 and 4).

use super::json::{is_default, wire};
use super::HResult;

/// The container id that means the utility VM itself.
pub const UVM_ID: &str = "00000000-0000-0000-0000-000000000000";

/// Also the activity id that the shim sends in everything.
pub const NULL_GUID: &str = UVM_ID;

wire! {
    /// First members of every request and of the notification (`prot.MessageBase`).
    pub struct MessageBase {
        pub container_id: String = "ContainerId",
        /// Opaque text, echoed in the response; a host takes only a GUID or nothing.
        pub activity_id: String = "ActivityId" unless "is_default",
        pub span_context: Option<SpanContext> = "ocsc" unless "is_default",
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
