//! What a request fails with: a code for the host's decisions and a text for its people.

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::prot::HResult;

/// The failure of one request; becomes `Result`, `ErrorMessage` and the one `ErrorRecords`
/// entry of the reply (`prot.MessageResponseBase`, P-052). Crosses process borders as JSON,
/// because work that may block runs in children.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub code: HResult,
    /// What was being done, to which thing, and why it failed. Never quotes a payload.
    pub message: String,
    /// The errno of `execve(2)` when a program was to be executed and that is what failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) execve: Option<i32>,
}

impl Failure {
    pub fn new(code: HResult, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            execve: None,
        }
    }

    /// A failure without a more telling code (`0x80004005`, P-055).
    pub fn unspecified(message: impl Into<String>) -> Self {
        Self::new(HResult::FAIL, message)
    }

    /// The same failure, which says that a program was not executed, and why: `ENOENT` when there
    /// is none of its name.
    #[must_use]
    pub fn of_execve(mut self, errno: Errno) -> Self {
        self.execve = Some(errno as i32);
        self
    }

    /// The function that failed and its errno, as `execve: ENOENT`; for a program that was not
    /// executed only (`FunctionName` of `prot.ErrorRecord`).
    #[must_use]
    pub fn function(&self) -> Option<String> {
        let errno = Errno::from_raw(self.execve?);
        Some(format!("execve: {errno:?}"))
    }

    /// The same failure with the outer operation put before its text.
    #[must_use]
    pub fn during(mut self, doing: impl std::fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }
}
