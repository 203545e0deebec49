//! What happened when, on the host and in the guest, as one timeline file (`uvm run --trace`).
//!
//! ```text
//! Recorder::span, Host::send ─→ spans of the host  ┐
//! log records with `span`, `boot:` ─→ of the guest ┴─ clock: guest time as host time
//!                                     ─→ chrome: JSON that Perfetto and chrome://tracing open
//! ```
//!
//! **The file** is the JSON object form of Chrome's trace event format. `traceEvents` has
//! complete events (`ph` = `X`, `ts` and `dur` in µs from the recorder's start); process 1 is the
//! host, 2 the guest; arrows (`s`, `f`) lead from a request of the host to that of the guest.
//! `args.id` is unique, `args.parent` names the span around it; of a request `args.id` is the
//! `SpanID` that it carried as `ocsc`, so lines of the guest's log with the same `spanID` are
//! about it. `args.unfinished` marks what had no end when the file was written.
//! `otherData.clock` says how guest times were translated: see [`clock`].
//!
//! The file is valid JSON from the start on, also after a run that has failed or was interrupted. A
//! span is within its parent or has none.

mod chrome;
mod clock;
mod guest;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{json, Map, Value};

use crate::log::Record;

/// The recorder that [`finish`] has to write.
static TO_FILE: Mutex<Option<Recorder>> = Mutex::new(None);

/// Names a span of this host: the `SpanID` of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpanId(u64);

impl std::fmt::Display for SpanId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Work of the host.
#[derive(Debug, Clone)]
struct HostSpan {
    name: String,
    /// A stage of the tool, or a request to the guest.
    is_request: bool,
    start: Duration,
    end: Option<Duration>,
    parent: Option<SpanId>,
    args: Map<String, Value>,
}

#[derive(Debug, Default)]
struct Collected {
    spans: BTreeMap<SpanId, HostSpan>,
    /// Stages in progress, outermost first.
    stages: Vec<SpanId>,
    guest: guest::Collected,
}

#[derive(Debug)]
struct Inner {
    origin: Instant,
    trace: u128,
    file: Option<PathBuf>,
    collected: Mutex<Collected>,
}

/// Records one run. Clones share the record; the default one records nothing.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Option<Arc<Inner>>);

impl Recorder {
    /// A recorder that keeps its record in memory.
    pub fn new() -> Self {
        Self::with(None)
    }

    fn with(file: Option<PathBuf>) -> Self {
        Self(Some(Arc::new(Inner {
            origin: Instant::now(),
            trace: uuid::Uuid::new_v4().as_u128(),
            file,
            collected: Mutex::default(),
        })))
    }

    /// A recorder whose record [`finish`] writes to a file. Until then the file is a valid, empty
    /// timeline.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn to_file(path: &Path) -> std::io::Result<Self> {
        let recorder = Self::with(Some(path.to_owned()));
        recorder.write()?;
        *TO_FILE.lock().unwrap_or_else(PoisonError::into_inner) = Some(recorder.clone());
        Ok(recorder)
    }

    fn now(inner: &Inner) -> Duration {
        inner.origin.elapsed()
    }

    fn lock(inner: &Inner) -> MutexGuard<'_, Collected> {
        // Plain data, whole after every statement.
        inner
            .collected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, name: &str, is_request: bool) -> Option<SpanId> {
        let inner = self.0.as_ref()?;
        let mut collected = Self::lock(inner);
        // Random, so that spans of several runs can be told apart.
        let id = loop {
            let id = SpanId(uuid::Uuid::new_v4().as_u64_pair().1);
            if !collected.spans.contains_key(&id) {
                break id;
            }
        };
        let span = HostSpan {
            name: name.to_owned(),
            is_request,
            start: Self::now(inner),
            end: None,
            parent: collected.stages.last().copied(),
            args: Map::new(),
        };
        collected.spans.insert(id, span);
        if !is_request {
            collected.stages.push(id);
        }
        Some(id)
    }

    fn end(&self, id: SpanId, args: Map<String, Value>) {
        let Some(inner) = &self.0 else { return };
        let mut collected = Self::lock(inner);
        collected.stages.retain(|stage| *stage != id);
        let now = Self::now(inner);
        if let Some(span) = collected.spans.get_mut(&id) {
            span.end.get_or_insert(now);
            span.args.extend(args);
        }
    }

    /// A stage of the tool's work, until the guard is dropped. Stages nest.
    pub fn stage(&self, name: &str) -> Stage {
        Stage {
            recorder: self.clone(),
            id: self.begin(name, false),
        }
    }

    /// A request that is about to be written. `None` when nothing is recorded.
    pub(crate) fn request(&self, name: &str) -> Option<SpanId> {
        self.begin(name, true)
    }

    /// Its position in the trace, as the member `ocsc` has it (protocol 3.3).
    pub(crate) fn context(&self, id: SpanId) -> Value {
        let trace = self.0.as_ref().map_or(0, |inner| inner.trace);
        json!({"TraceID": format!("{trace:032x}"), "SpanID": id.to_string(), "TraceOptions": 1})
    }

    /// The answer to it was read.
    pub(crate) fn answered(&self, id: SpanId, number: u64, result: i64) {
        let mut args = Map::new();
        args.insert("message-id".into(), number.into());
        if result != 0 {
            // As the protocol writes its codes.
            let code = u32::try_from(result & 0xffff_ffff).unwrap_or(u32::MAX);
            args.insert("result".into(), format!("0x{code:08x}").into());
        }
        self.end(id, args);
    }

    /// A record of the guest's log.
    pub(crate) fn guest_record(&self, record: &Record) {
        if let Some(inner) = &self.0 {
            Self::lock(inner).guest.take(record);
        }
    }

    /// The timeline as it is now.
    pub fn timeline(&self) -> Value {
        match &self.0 {
            None => chrome::document(Vec::new(), json!({})),
            Some(inner) => {
                let collected = Self::lock(inner);
                chrome::timeline(&collected, Self::now(inner), inner.trace)
            }
        }
    }

    /// Writes the file, whole or not at all.
    fn write(&self) -> std::io::Result<()> {
        let Some(path) = self.0.as_ref().and_then(|inner| inner.file.as_ref()) else {
            return Ok(());
        };
        let text = self.timeline().to_string();
        // A device or pipe cannot be replaced.
        if path.exists() && !path.is_file() {
            return std::fs::write(path, text);
        }
        let mut temporary = path.clone().into_os_string();
        temporary.push(format!(".{}", std::process::id()));
        std::fs::write(&temporary, text)?;
        std::fs::rename(&temporary, path)
    }
}

/// Writes the file of the run, if one was asked for; to be called before the tool ends, however
/// it ends.
pub fn finish() {
    let recorder = TO_FILE
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    if let Some(Err(e)) = recorder.map(|recorder| recorder.write()) {
        eprintln!("uvm: the trace file cannot be written: {e}");
    }
}

/// Ends its span when it is dropped.
#[must_use]
#[derive(Debug)]
pub struct Stage {
    recorder: Recorder,
    id: Option<SpanId>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.recorder.end(id, Map::new());
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
