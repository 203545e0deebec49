//! Why a run ended, and what a call to the guest can fail with.

use std::time::Duration;

/// The first thing that ended the run; everything that waits fails with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// The guest did what makes a real host drop the bridge.
    #[error("the guest broke the protocol: {0}\n(a real host drops the bridge here)")]
    Violation(String),
    /// The guest closed the bridge, and its VM goes on.
    #[error("the guest closed the bridge")]
    BridgeClosed,
    /// Kernel panic or death of PID 1, with the text from the console.
    #[error("the guest panicked:\n{0}")]
    Panic(String),
    /// QEMU ended without a guest panic; the text says how, and what QEMU said last.
    #[error("{0}")]
    Exited(String),
    /// This side closed the VM.
    #[error("the VM was stopped")]
    Stopped,
}

/// Why a call failed. Each says what was being done.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The run ended before the answer came.
    #[error("{doing}: {end}")]
    Ended {
        /// What was being done.
        doing: String,
        /// Why the run ended.
        end: End,
    },
    /// The answer may still come.
    #[error("{doing}: no answer within {after:?}")]
    Timeout {
        /// What was being done.
        doing: String,
        /// The limit that was given.
        after: Duration,
    },
    /// The guest answered with a failure.
    #[error("{doing}: the guest refused with {:#010x}: {message}", *result as u32)]
    Refused {
        /// What was asked for.
        doing: String,
        /// The HRESULT as it came (protocol 3.1).
        result: i32,
        /// `ErrorMessage`, or the text of the first error record.
        message: String,
        /// `FunctionName` of the first error record. Of a program that could not be executed the
        /// guest says `execve: ENOENT`, with the errno (protocol 3).
        function: Option<String>,
    },
    /// The answer is well-formed, but a host cannot work with it.
    #[error("{doing}: {detail}")]
    Unusable {
        /// What was asked for.
        doing: String,
        /// What is wrong with the answer.
        detail: String,
    },
    /// A system call of this side failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the kernel said.
        source: std::io::Error,
    },
}

impl HostError {
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }

    /// The HRESULT of a refusal.
    pub fn refused(&self) -> Option<i32> {
        match self {
            Self::Refused { result, .. } => Some(*result),
            _ => None,
        }
    }
}
