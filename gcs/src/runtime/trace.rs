//! The engine's own account of an error, from whichever of its processes saw it.
//!
//! Its errors cross its process borders as short texts ("failed to prepare rootfs"); what
//! and where is only traced. The trace goes to a memfd that all of them share.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::sync::Arc;

use nix::sys::memfd::{memfd_create, MFdFlags};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::error::Failure;

/// What a failure quotes of it, in bytes.
const QUOTE: usize = 4096;

/// Texts the engine puts before an error on its way up, outermost first.
const WRAPPERS: [&str; 3] = [
    "failed to create container: ",
    "exec process failed with error ",
    "error in executing process : ",
];

/// Beginnings of traced lines that only repeat an error on its way up.
const ECHOES: [&str; 5] = [
    "failed to wait for init ready",
    "failed to wait for intermediate",
    "failed to run container process",
    "failed to run intermediate process",
    "failed to initialize container process",
];

#[derive(Clone)]
pub(super) struct Trace(Arc<Option<File>>);

impl Trace {
    /// From here on errors are noted. Without a memfd, failures are merely less telling.
    pub fn install() -> Self {
        let file = memfd_create("trace", MFdFlags::MFD_CLOEXEC)
            .map(File::from)
            .ok();
        let trace = Self(Arc::new(file));
        if tracing::subscriber::set_global_default(trace.clone()).is_err() {
            log::warn!("the engine's errors already go elsewhere");
        }
        trace
    }

    /// `error` with its causes and what the engine traced on the way.
    pub fn failure(&self, error: &dyn std::error::Error) -> Failure {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let more = error.to_string();
            if !text.contains(&more) {
                text = format!("{text}: {more}");
            }
            cause = error.source();
        }
        for wrapper in WRAPPERS {
            if let Some(inner) = text.strip_prefix(wrapper) {
                text = inner.to_owned();
            }
        }
        let traced = self.details(&text);
        if !traced.is_empty() {
            text = format!("{text} ({traced})");
        }
        Failure::unspecified(text)
    }

    /// What was traced beyond `known`, nearest to the cause first.
    fn details(&self, known: &str) -> String {
        let Some(mut file) = self.0.as_ref().as_ref() else {
            return String::new();
        };
        let mut text = Vec::new();
        if file.rewind().is_err() || file.read_to_end(&mut text).is_err() {
            return String::new();
        }
        text.truncate(QUOTE);
        let text = String::from_utf8_lossy(&text);
        let more: Vec<&str> = text
            .lines()
            .filter(|line| !line.contains(known) && !ECHOES.iter().any(|e| line.starts_with(e)))
            .take(2)
            .collect();
        more.join("; ")
    }
}

impl Subscriber for Trace {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let text = format!("{}{}\n", line.message, line.fields).replace('\0', " ");
        if let Some(mut file) = self.0.as_ref().as_ref() {
            // The offset is shared by all processes that have the file from the fork.
            drop(file.write_all(text.as_bytes()));
        }
    }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let done = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
        done.unwrap_or_default(); // writing to a String does not fail
    }
}
