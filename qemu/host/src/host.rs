//! The handle on the host side of one guest: its ports, its log, its end.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::bridge;
use crate::end::{End, HostError};
use crate::log::{read_all, Record};
use crate::ports::{Ports, Transport};
use crate::state::{Shared, Tail};
use crate::trace::Recorder;

/// The port at which the guest gets 512 random bytes (protocol 1.1).
pub const ENTROPY_PORT: u32 = 1;
/// The port to which the guest writes its log (protocol 1.1).
pub const LOG_PORT: u32 = 109;
/// The port of the bridge (protocol 1.1).
pub const BRIDGE_PORT: u32 = 0x4000_0000;
/// What the guest gets at the entropy port.
const ENTROPY_BYTES: usize = 512;
/// A guest that takes no bridge bytes for this long is stuck.
const WRITE_LIMIT: Duration = Duration::from_secs(120);

/// Gets each log record of the guest, on the thread that reads them.
pub type LogSink = Box<dyn FnMut(&Record) + Send>;

/// What a host is made of.
pub struct HostConfig {
    /// How the guest's dials arrive.
    pub transport: Transport,
    /// End the run where a real host drops the bridge (protocol 1.7).
    pub strict: bool,
    /// Gets the guest's log.
    pub log_sink: Option<LogSink>,
    /// Refuse dials for the log until [`Host::accept_log`].
    pub late_log: bool,
    /// How long the entropy connection stays open after its bytes; a real host closes it at once.
    pub entropy_hold: Duration,
    /// Notes requests, and what the guest's log says of its work.
    pub trace: Recorder,
}

impl HostConfig {
    /// A strict host without a sink for the guest's log and without a timeline.
    pub fn new(transport: Transport) -> Self {
        Self {
            transport,
            strict: true,
            log_sink: None,
            late_log: false,
            entropy_hold: Duration::ZERO,
            trace: Recorder::default(),
        }
    }
}

/// When the guest's connections came, from the start of the listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connected {
    /// When the listeners were there.
    pub started: Instant,
    /// The entropy was given; `None` for a guest that never asked.
    pub entropy: Option<Duration>,
    /// The log channel was opened; `None` for a guest that never did.
    pub log: Option<Duration>,
    /// The bridge was opened.
    pub bridge: Duration,
}

/// A handle on the host side of one guest.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

struct Inner {
    shared: Shared,
    strict: bool,
    ports: Ports,
    writer: Arc<Mutex<()>>,
    started: Instant,
}

impl Host {
    /// Opens the entropy, log and bridge ports. The guest may dial as soon as this returns.
    pub fn listen(config: HostConfig) -> Result<Self, HostError> {
        let HostConfig {
            transport,
            strict,
            log_sink,
            late_log,
            entropy_hold,
            trace,
        } = config;
        let doing = match &transport {
            Transport::Unix(base) => format!("listening at {}_PORT", base.display()),
            Transport::Vsock => "listening on the kernel's vsock".to_owned(),
        };
        let io = |e| HostError::Io {
            doing: doing.clone(),
            source: e,
        };
        let shared = Shared::default();
        shared.update(|state| state.trace = trace);
        let ports = Ports::new(transport).map_err(io)?;

        let to = shared.clone();
        let taker = move |stream| {
            // It has a thread of its own, because a pause on the accepting thread would delay the
            // other ports.
            reader("entropy", move || give_entropy(&to, stream, entropy_hold));
        };
        ports.open(ENTROPY_PORT, Box::new(taker)).map_err(io)?;

        if !late_log {
            open_log(&ports, &shared, log_sink, strict).map_err(io)?;
        }
        open_bridge(&ports, &shared, strict).map_err(io)?;

        Ok(Self(Arc::new(Inner {
            shared,
            strict,
            ports,
            writer: Arc::default(),
            started: Instant::now(),
        })))
    }

    /// Waits for the bridge. The guest dials for entropy and log independently of it, and does not
    /// when its boot line does not say so.
    pub fn wait_connected(&self, limit: Duration) -> Result<Connected, HostError> {
        let started = self.0.started;
        let since = |at: Instant| at.saturating_duration_since(started);
        self.shared().wait(
            "waiting for the guest to dial the bridge port",
            limit,
            |state| {
                Some(Connected {
                    started,
                    entropy: state.entropy_at.map(since),
                    log: state.log_at.map(since),
                    bridge: since(state.bridge_at?),
                })
            },
        )
    }

    /// Ends the run from outside: QEMU's exit, a panic on the console, the tool's own end.
    pub fn end(&self, end: End) {
        self.shared().end(end);
    }

    /// `end` for a thread that must not keep the host alive.
    pub fn ender(&self) -> impl Fn(End) + Send + Sync + 'static {
        let shared = self.shared().clone();
        move |end| shared.end(end)
    }

    /// Why the run ended, if it did.
    pub fn ended(&self) -> Option<End> {
        self.shared().lock().end.clone()
    }

    /// Waits for the end of the run.
    pub fn wait_end(&self, limit: Duration) -> Result<End, HostError> {
        self.shared()
            .wait("waiting for the end of the VM", limit, |state| {
                state.end.clone()
            })
    }

    /// The last records of the guest's log.
    pub fn log_records(&self) -> Vec<Record> {
        self.shared().lock().records.iter().cloned().collect()
    }

    /// The records of the guest's log from number `from` on; the first of all has the number 0. Waits
    /// for one if there is none yet.
    pub fn wait_log_from(&self, from: u64, limit: Duration) -> Tail {
        let waited = self
            .shared()
            .wait("waiting for log records", limit, |state| {
                Some(state.tail(from)).filter(|tail| !tail.records.is_empty())
            });
        // Nothing came in time, or the log is closed.
        waited.unwrap_or_else(|_| self.shared().lock().tail(from))
    }

    /// Whether the VM has ended and all of its log is here.
    pub fn log_is_over(&self) -> bool {
        let state = self.shared().lock();
        state.end.is_some() && (state.log_closed || state.log_at.is_none())
    }

    /// The containers that were created and whose exit was not reported.
    pub fn containers(&self) -> Vec<String> {
        let state = self.shared().lock();
        let running = state.containers.iter().filter(|(_, end)| end.is_none());
        let mut ids: Vec<String> = running.map(|(id, _)| id.clone()).collect();
        ids.sort();
        ids
    }

    /// Waits for a log record.
    pub fn wait_log(
        &self,
        limit: Duration,
        mut wanted: impl FnMut(&Record) -> bool,
    ) -> Result<Record, HostError> {
        self.shared()
            .wait("waiting for a log record", limit, |state| {
                state.records.iter().find(|record| wanted(record)).cloned()
            })
    }

    /// Breaches met with strict mode off.
    pub fn tolerated(&self) -> Vec<String> {
        self.shared().lock().tolerated.clone()
    }

    /// Notes that the guest may end. From now on a closed bridge is no breach.
    pub fn let_go(&self) {
        self.shared().update(|state| state.leaving = true);
    }

    /// Drops the bridge, as a host does that is restarted while its VM lives on. Requests on
    /// their way stay outstanding: a guest may answer them on the next bridge (protocol 12.1).
    /// The guest's dials are refused until [`Self::accept_bridge`].
    pub fn drop_bridge(&self) {
        let bridge = self.shared().update(|state| {
            state.bridge_number += 1;
            state.bridge.take()
        });
        if let Some(stream) = bridge {
            // It may be gone already, which is the aim.
            drop(stream.shutdown(std::net::Shutdown::Both));
        }
    }

    /// Listens for the next bridge, and waits for the guest to dial it.
    pub fn accept_bridge(&self, limit: Duration) -> Result<(), HostError> {
        open_bridge(&self.0.ports, self.shared(), self.0.strict)
            .map_err(HostError::io("listening on the bridge port again"))?;
        let doing = "waiting for the guest to dial the bridge port again";
        self.shared()
            .wait(doing, limit, |state| state.bridge.is_some().then_some(()))
    }

    /// Listens for the log of a guest whose dials for it were refused so far.
    pub fn accept_log(&self, sink: Option<LogSink>) -> Result<(), HostError> {
        open_log(&self.0.ports, self.shared(), sink, self.0.strict)
            .map_err(HostError::io("listening on the log port"))
    }

    /// The recorder of this guest.
    pub fn trace(&self) -> Recorder {
        self.shared().lock().trace.clone()
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.0.shared
    }

    pub(crate) fn ports(&self) -> &Ports {
        &self.0.ports
    }

    /// The writer of the bridge holds it, so that frames do not mix.
    pub(crate) fn writer(&self) -> &Arc<Mutex<()>> {
        &self.0.writer
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Readers hold the state and not the handle. The end wakes everybody who waits.
        self.shared.end(End::Stopped);
        if let Some(stream) = self.shared.update(|state| state.bridge.take()) {
            drop(stream.shutdown(std::net::Shutdown::Both));
        }
    }
}

/// Listens for one connection of the log.
fn open_log(
    ports: &Ports,
    shared: &Shared,
    sink: Option<LogSink>,
    strict: bool,
) -> std::io::Result<()> {
    let to = shared.clone();
    let taker = move |stream| {
        to.update(|state| state.log_at = Some(Instant::now()));
        reader("log", move || read_log(&to, stream, sink, strict));
    };
    ports.open(LOG_PORT, Box::new(taker))
}

/// Listens for one connection of the bridge.
fn open_bridge(ports: &Ports, shared: &Shared, strict: bool) -> std::io::Result<()> {
    let to = shared.clone();
    let taker = move |stream: UnixStream| {
        let read = stream
            .set_write_timeout(Some(WRITE_LIMIT))
            .and_then(|()| stream.try_clone());
        let Ok(read) = read else {
            return to.end(End::BridgeClosed);
        };
        let number = to.update(|state| {
            state.bridge_at = Some(Instant::now());
            state.bridge = Some(Arc::new(stream));
            state.bridge_number
        });
        reader("bridge", move || bridge::read(&to, read, number, strict));
    };
    ports.open(BRIDGE_PORT, Box::new(taker))
}

fn reader(name: &str, run: impl FnOnce() + Send + 'static) {
    // Detached: it ends with its stream, which ends with the VM.
    if let Err(e) = std::thread::Builder::new().name(name.into()).spawn(run) {
        log::error!("no thread for the {name} channel: {e}");
    }
}

fn give_entropy(shared: &Shared, mut stream: UnixStream, hold: Duration) {
    let mut bytes = [0; ENTROPY_BYTES];
    let given = std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        // A socket buffer takes that much at once.
        .and_then(|()| std::io::Write::write_all(&mut stream, &bytes));
    if let Err(e) = given {
        log::warn!("the entropy channel failed: {e}");
    }
    std::thread::sleep(hold);
    // Before the connection closes: the guest waits for its end.
    shared.update(|state| state.entropy_at = Some(Instant::now()));
}

fn read_log(shared: &Shared, stream: UnixStream, mut sink: Option<LogSink>, strict: bool) {
    let outcome = read_all(stream, |record| {
        if let Some(sink) = &mut sink {
            sink(&record);
        }
        shared.keep(record);
    });
    shared.update(|state| state.log_closed = true);
    if let Err(bad) = outcome {
        let violation = format!("the log channel (port 109) carries what is not a record: {bad}");
        if strict {
            shared.end(End::Violation(violation));
        } else {
            shared.update(|state| state.tolerated.push(violation));
        }
    }
}
