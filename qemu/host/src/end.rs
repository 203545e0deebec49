//! Why a run ended, and what a call to the guest can fail with.

use std::time::Duration;

/// The first thing that ended the run; everything that waits fails with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// The guest did what makes a real host drop the bridge.
    #[error("the guest broke the protocol: {0}\n(a real host drops the bridge here)")]
    Violation(String),
    /// The guest closed the bridge and its machine lives on.
    #[error("the guest closed the bridge")]
    BridgeClosed,
    /// Kernel panic or death of PID 1, with the text from the console.
    #[error("the guest panicked:\n{0}")]
    Panic(String),
    /// QEMU ended without a guest panic; the text says how, with its last words.
    #[error("{0}")]
    Exited(String),
    /// This side closed the VM.
    #[error("the VM was stopped")]
    Stopped,
}

#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("{doing}: {end}")]
    Ended { doing: String, end: End },
    #[error("{doing}: no answer within {after:?}")]
    Timeout { doing: String, after: Duration },
    /// The guest answered with a failure; `result` is the HRESULT as it came.
    #[error("{doing}: the guest refused with {:#010x}: {message}", *result as u32)]
    Refused {
        doing: String,
        result: i32,
        message: String,
    },
    /// The answer is well-formed, but a host cannot work with it.
    #[error("{doing}: {detail}")]
    Unusable { doing: String, detail: String },
    #[error("{doing}: {source}")]
    Io {
        doing: String,
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
