//! The guest's log: the backend of the `log` facade.
//!
//! ```text
//! log::info!(cid = id; "…") → Record → ring (always, from the first instruction)
//!                                    → sink: host's log connection, stderr or a file
//!                                    → /dev/kmsg: everything while there is no sink, else errors
//! ```
//!
//! Each record has the ids of the request that it is about ([`Scope`]). Records of children come
//! through the kernel log ([`crate::machine::kmsg`]) and have them too.
//!
//! Only whole lines of the chosen format reach the sink (P-301). A forked child never writes to it
//! (P-302). Nothing waits for a record to be written. The state belongs to the one thread; other
//! threads, which only tests have, have their own.

mod level;
mod record;
mod ring;
mod scope;
mod scrub;
mod sink;
mod span;
mod time;

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::rc::Rc;

pub use level::{Format, Level};
pub use record::{Origin, Record};
pub use scope::{Entered, Scope};
pub use sink::Sink;
pub use span::Span;
pub use time::{micros, rfc3339, uptime};

use crate::prot::{MessageId, SequenceId};
use ring::Ring;

/// The tag at the beginning of this process's lines in the kernel log. The kmsg reader leaves out
/// the lines of its own process and takes those of others: children of tasks,
/// PID 1 beside a shell.
pub(crate) fn tag() -> String {
    format!("gcs[{}]", std::process::id())
}

const KMSG: &str = "/dev/kmsg";
const RING_RECORDS: usize = 512;
const RING_BYTES: usize = 128 << 10;

struct Backend;

struct LogState {
    /// The pid of the process that may write to the sink. A forked child has another one.
    owner: u32,
    level: Level,
    format: Format,
    scrubs: bool,
    ring: Ring,
    /// The number of the first record that no sink has got yet.
    unsent: u64,
    sink: Option<Sink>,
    kmsg: Option<File>,
    /// Whether this process is a child, whose lines PID 1 reads in the kernel log.
    is_child: bool,
    /// Whether the caller flushes the sink, once for many records.
    batched: bool,
    /// Whether the security policy keeps records inside the VM.
    muted: bool,
}

impl LogState {
    fn new() -> Self {
        Self {
            owner: std::process::id(),
            level: Level::Debug,
            format: Format::Text,
            scrubs: false,
            ring: Ring::new(RING_RECORDS, RING_BYTES),
            unsent: 0,
            sink: None,
            kmsg: None,
            is_child: false,
            batched: false,
            muted: false,
        }
    }

    fn take(&mut self, record: Record) {
        if std::process::id() != self.owner {
            // This is the child of a task. Its lines would mix with those of the sink's owner, and
            // the descriptor may be closed or reused. The kernel log is safe, and PID 1 reads the
            // line there.
            if self.kmsg.is_some() && record.level <= self.level && !self.muted {
                write_kmsg(None, &record, true);
            }
            return;
        }
        let wanted = record.level <= self.level && !self.muted;
        let number = self.ring.next();
        let sent = self.sink.is_some();
        if let Some(sink) = self.sink.as_mut().filter(|_| wanted) {
            note_dropped(sink, self.format);
            sink.push(number, &record.line(self.format));
        }
        // While there is no sink the console gets everything, and later only errors.
        let grave = !sent || record.level <= Level::Error;
        if record.origin == Origin::Ours && wanted && grave {
            if let Some(kmsg) = &mut self.kmsg {
                write_kmsg(Some(kmsg), &record, self.is_child);
            }
        }
        self.ring.push(record, wanted);
        if sent {
            self.unsent = self.ring.next();
            if !self.batched {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        let Some(sink) = &mut self.sink else { return };
        let flushed = sink.flush().and_then(|()| {
            // The number of lost lines is reported as soon as there is room, and not only with the
            // next record.
            note_dropped(sink, self.format);
            sink.flush()
        });
        if let Err(error) = flushed {
            // The next reader gets what this one did not.
            self.unsent = sink.unsent().unwrap_or(self.ring.next());
            self.sink = None;
            let mut record = Record::new(Level::Error, "the log connection is lost".into());
            record.scope = Scope::default();
            record.field("error", error.to_string());
            self.take(record);
        }
    }

    fn attach(&mut self, mut sink: Sink) {
        let (gone, records) = self.ring.since(self.unsent);
        if gone > 0 {
            sink.push(self.unsent, &dropped(gone).line(self.format));
        }
        for (number, record) in records.filter(|(_, record)| record.level <= self.level) {
            sink.push(number, &record.line(self.format));
        }
        self.unsent = self.ring.next();
        self.sink = Some(sink);
        self.flush();
    }
}

fn dropped(count: u64) -> Record {
    let mut record = Record::new(Level::Warning, "log records were dropped".into());
    record.scope = Scope::default();
    record.field("dropped", count);
    record
}

fn note_dropped(sink: &mut Sink, format: Format) {
    const NOTE_ROOM: usize = 8 << 10;
    if let Some((count, first)) = sink.take_dropped(NOTE_ROOM) {
        sink.push(first, &dropped(count).line(format));
    }
}

/// One write per line, so that lines of several writers never interleave. Writing to the kernel log
/// never waits for a reader, and a line that it refuses is lost.
fn write_kmsg(kept: Option<&mut File>, record: &Record, for_pid_1: bool) {
    let line = if for_pid_1 {
        record.kmsg_json(&tag())
    } else {
        record.kmsg(&tag())
    };
    if let Some(file) = kept {
        file.write_all(line.as_bytes()).ok();
    } else if let Ok(mut file) = OpenOptions::new().write(true).open(KMSG) {
        file.write_all(line.as_bytes()).ok();
    }
}

thread_local! {
    static STATE: RefCell<LogState> = RefCell::new(LogState::new());
}

/// A record that is made while another one is being written, for example in a formatter, is
/// dropped. The log must never cause a panic.
fn with_state<R>(f: impl FnOnce(&mut LogState) -> R) -> Option<R> {
    STATE
        .try_with(|state| state.try_borrow_mut().ok().map(|mut state| f(&mut state)))
        .ok()
        .flatten()
}

impl log::Log for Backend {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            emit(Record::from_facade(record));
        }
    }

    fn flush(&self) {
        flush();
    }
}

/// Starts the log. From here on records are kept in the ring. When another backend is installed
/// already, it stays.
pub fn init() {
    static BACKEND: Backend = Backend;
    if log::set_logger(&BACKEND).is_ok() {
        log::set_max_level(Level::Debug.filter());
    }
    with_state(|state| state.owner = std::process::id());
}

/// Sets which records go to the sink, and in which form. The ring keeps at least `Info`, so that a
/// panic can show what led to it, whatever level the host asked for.
pub fn configure(level: Level, format: Format) {
    with_state(|state| {
        state.level = level;
        state.format = format;
    });
    log::set_max_level(level.max(Level::Info).filter());
}

/// Sets whether the values of environments and annotations are kept out of the log.
pub fn scrub(scrubs: bool) {
    with_state(|state| state.scrubs = scrubs);
}

/// Sends the log of this process to PID 1 through the kernel log, at level warning.
pub fn inherit() {
    configure(Level::Warning, Format::Json);
    with_state(|state| state.is_child = true);
}

/// Records a request as it was received, if records of level trace are enabled.
pub fn request(message: MessageId, sequence: SequenceId, payload: &[u8]) {
    if log::log_enabled!(log::Level::Trace) {
        let scrubs = with_state(|state| state.scrubs).unwrap_or(true);
        let payload = scrub::document(payload, scrubs);
        log::trace!(payload = payload.as_str(); "request {message} {sequence}");
    }
}

/// Opens the kernel log for writing and puts there what was recorded before it existed.
///
/// # Errors
/// When `/dev/kmsg` cannot be opened; records then stay in the ring until there is a sink.
pub fn open_kmsg() -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(KMSG)?;
    with_state(|state| {
        for (_, record) in state.ring.since(state.unsent).1 {
            if record.origin == Origin::Ours && record.level <= state.level {
                write_kmsg(Some(&mut file), record, state.is_child);
            }
        }
        state.kmsg = Some(file);
    });
    Ok(())
}

/// Sends the log to `fd` from now on, beginning with the records that no sink has got yet. A sink
/// that fails later is dropped, and the ring and the kernel log go on.
///
/// # Errors
/// When the descriptor cannot be looked at.
pub fn attach(fd: OwnedFd) -> std::io::Result<()> {
    let sink = Sink::new(fd)?;
    with_state(|state| state.attach(sink));
    Ok(())
}

/// The sink's descriptor, for the loop to watch while [`wants_write`] says so. Changes when a
/// sink is lost or attached.
pub fn pollable() -> Option<Rc<OwnedFd>> {
    with_state(|state| state.sink.as_ref().map(Sink::descriptor)).flatten()
}

/// Whether lines wait for the sink to take them.
pub fn wants_write() -> bool {
    with_state(|state| state.sink.as_ref().is_some_and(Sink::wants_write)).unwrap_or(false)
}

/// Leaves the [`flush`] to the caller. The service's loop does it at the end of each turn, so that
/// answers leave before the lines about them, and the lines in one write.
pub fn batch(batched: bool) {
    with_state(|state| state.batched = batched);
    flush();
}

/// While muted, records go only to the ring and are never sent, because the security policy denies
/// log output.
pub fn mute(muted: bool) {
    with_state(|state| state.muted = muted);
}

/// Writes what the sink accepts now. Never waits.
pub fn flush() {
    with_state(LogState::flush);
}

/// Logs a finished record, whatever the facade's filter says.
pub fn emit(record: Record) {
    with_state(|state| state.take(record));
}

/// Logs why the service ends, at every `-loglevel` except `panic`.
pub fn fatal(message: std::fmt::Arguments<'_>) {
    emit(Record::new(Level::Fatal, message.to_string()));
}

/// The newest records as text lines, oldest first, in at most `max_bytes`.
pub fn recent(max_bytes: usize) -> String {
    let lines = with_state(|state| {
        let mut room = max_bytes;
        let mut lines: Vec<String> = state
            .ring
            .all()
            .rev()
            .map(|record| record.line(Format::Text))
            .take_while(|line| {
                let fits = line.len() <= room;
                room = room.saturating_sub(line.len());
                fits
            })
            .collect();
        lines.reverse();
        lines.concat()
    });
    lines.unwrap_or_default()
}

/// How many records are kept.
#[must_use]
pub fn kept() -> usize {
    with_state(|state| state.ring.len()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
