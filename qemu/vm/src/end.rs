//! Why a VM ended, and what starting or asking it can fail with.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::qmp::QmpError;

/// The program that runs the VM.
pub const QEMU: &str = "qemu-system-x86_64";

/// Why a VM ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VmEnd {
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

#[derive(Debug, thiserror::Error)]
pub enum VmError {
    #[error("{QEMU} is not installed (Debian: apt-get install qemu-system-x86)")]
    NoQemu,
    #[error("the {what} {path} cannot be read: {source}")]
    NoFile {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("starting QEMU: {doing}: {source}")]
    Start { doing: String, source: io::Error },
    #[error("{end}")]
    Ended { end: VmEnd },
    #[error("the VM did not stop within {0:?}")]
    Stuck(Duration),
    #[error(transparent)]
    Qmp(#[from] QmpError),
}

impl VmError {
    /// For `map_err`: `doing` is the step of the start that failed.
    pub(crate) fn start(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Start { doing, source }
    }
}
