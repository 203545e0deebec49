//! What a request fails with: a code for the host's decisions and a text for its people.

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
}

impl Failure {
    pub fn new(code: HResult, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// A failure without a more telling code (`0x80004005`, P-055).
    pub fn unspecified(message: impl Into<String>) -> Self {
        Self::new(HResult::FAIL, message)
    }

    /// The same failure with the outer operation put before its text.
    #[must_use]
    pub fn during(mut self, doing: impl std::fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }
}
