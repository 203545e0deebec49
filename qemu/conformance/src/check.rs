//! The result of a scenario: nothing when all is well, otherwise what was expected and what was
//! seen.

use std::fmt::{Debug, Display};

use uvm_host::{Answer, HostError};

/// What ends a scenario early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    Fail {
        expected: String,
        seen: String,
    },
    /// This machine or this guest lacks what the scenario needs.
    NotRun {
        reason: String,
    },
}

pub type Checked<T = ()> = Result<T, Stop>;

/// Any error on the way was expected to be a success.
impl<E: std::error::Error> From<E> for Stop {
    fn from(error: E) -> Self {
        fail("success", error)
    }
}

pub fn fail(expected: impl Display, seen: impl Display) -> Stop {
    Stop::Fail {
        expected: expected.to_string(),
        seen: seen.to_string(),
    }
}

pub fn not_run(reason: impl Display) -> Stop {
    Stop::NotRun {
        reason: reason.to_string(),
    }
}

/// `what` names the thing that is compared.
pub fn same<E: Debug, S: Debug + PartialEq<E>>(what: &str, expected: E, seen: S) -> Checked {
    match seen == expected {
        true => Ok(()),
        false => Err(fail(
            format!("{what} {expected:?}"),
            format!("{what} {seen:?}"),
        )),
    }
}

pub fn that(holds: bool, expected: impl Display, seen: impl Display) -> Checked {
    match holds {
        true => Ok(()),
        false => Err(fail(expected, seen)),
    }
}

/// What a scenario asks of an answer.
pub trait AnswerIs {
    /// It must have this code.
    fn is(&self, code: u32) -> Checked;
}

impl AnswerIs for Answer {
    fn is(&self, code: u32) -> Checked {
        that(
            self.code() == code,
            format!("an answer with Result {code:#010x}"),
            self.text(),
        )
    }
}

/// `text` must contain `part`.
pub fn contains(what: &str, part: &str, text: &str) -> Checked {
    that(text.contains(part), format!("{part:?} in {what}"), text)
}

/// The request must have been refused with this code. Returns the guest's text.
pub fn refused<T>(outcome: Result<T, HostError>, code: u32) -> Checked<String> {
    let expected = format!("a refusal with {code:#010x}");
    match outcome {
        Ok(_) => Err(fail(expected, "success")),
        Err(HostError::Refused {
            result, message, ..
        }) if result.cast_unsigned() == code => Ok(message),
        Err(other) => Err(fail(expected, other)),
    }
}

/// Says what was expected instead of plain success.
pub trait Expected<T> {
    fn expected(self, what: impl Display) -> Checked<T>;
}

impl<T, E: std::error::Error> Expected<T> for Result<T, E> {
    fn expected(self, what: impl Display) -> Checked<T> {
        self.map_err(|e| fail(what, e))
    }
}

impl<T> Expected<T> for Option<T> {
    fn expected(self, what: impl Display) -> Checked<T> {
        self.ok_or_else(|| fail(what, "nothing"))
    }
}

/// The codes of `Result` (protocol 3.1).
pub mod codes {
    pub const NOT_IMPLEMENTED: u32 = 0x8000_4001;
    pub const FAIL: u32 = 0x8000_4005;
    pub const ELEMENT_NOT_FOUND: u32 = 0x8007_0490;
    pub const INVALID_ARGUMENT: u32 = 0x8007_0057;
    pub const TIMEOUT: u32 = 0xc037_0109;
    pub const UNSUPPORTED_VERSION: u32 = 0xc037_010c;
    pub const INVALID_JSON: u32 = 0xc037_010d;
    pub const NOT_FOUND: u32 = 0xc037_010e;
    pub const ALREADY_EXISTS: u32 = 0xc037_010f;
    pub const INVALID_STATE: u32 = 0x8037_0105;
}
