//! The service: the loop that turns readiness, deadlines and ended children into changes of the
//! [`Uvm`], until power-off is asked for. A bridge that is lost is dialled again. The service ends
//! only when its bridge was stdin and stdout (`-use-inouterr`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::bridge::connection::{BridgeRead, Connection, Directions};
use crate::machine::clock::Clock;
use crate::machine::containers_limit::ContainersLimit;
use crate::machine::kmsg;
use crate::machine::memory;
use crate::prot::MessageId;
use crate::reactor::{Interest, Registration};
use crate::stage::{self, Stage};
use crate::sys::{channel::set_nonblocking, process};
use crate::transport::{connect_within, Dialer, BRIDGE_PORT};
use crate::uvm::{Readiness, Uvm};

pub use crate::uvm::{End, Settings};

/// What the service needs to begin.
pub struct Setup {
    /// How ports of the host are reached.
    pub dialer: Dialer,
    /// An open bridge instead of a dialled one: incoming and outgoing (`-use-inouterr`).
    pub bridge: Option<(OwnedFd, OwnedFd)>,
    /// Sets up what is needed only once a version is agreed on, so that the host does not wait for
    /// it. Called once, before any other request than NegotiateProtocol is handled.
    pub prepare: Prepare,
    pub settings: Settings,
}

/// See [`Setup::prepare`].
pub type Prepare = Box<dyn FnOnce() -> Watches>;

/// What the service watches while it serves. All of it is optional.
#[derive(Debug, Default)]
pub struct Watches {
    /// Messages of the kernel that become log records.
    pub kmsg: Option<kmsg::Reader>,
    /// Tells when memory runs out.
    pub memory: Option<memory::Watch>,
    /// Keeps what containers may use in step with the machine's memory.
    pub limit: Option<ContainersLimit>,
    /// Keeps the time in step with the host's.
    pub clock: Option<Clock>,
}

/// Kernel messages taken in one turn.
const KMSG_PER_TURN: usize = 32;
/// How long the last answers may take to leave when the service ends.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long the bridge may take to be dialled, retries included.
const DIAL_LIMIT: Duration = Duration::from_secs(120);

/// Serves the host until the end. Blocks all signals of the process and reaps all its children.
///
/// # Errors
/// The bridge could not be dialled, or the kernel refused the loop's own descriptors.
pub fn run(setup: Setup) -> io::Result<End> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    process::become_subreaper()?;
    let uvm = Uvm::new(setup.dialer.clone(), setup.settings)?;
    let replaceable = setup.bridge.is_none();
    let bridge = match setup.bridge {
        Some((incoming, outgoing)) => {
            for fd in [&incoming, &outgoing] {
                set_nonblocking(fd.as_fd(), true)?;
            }
            Connection::new(incoming, outgoing)
        }
        // Before the bridge is connected there is nothing else to do, so this dial may wait.
        None => stage::run(Stage::Bridge, || {
            let limit = Instant::now() + DIAL_LIMIT;
            both_ways(connect_within(&setup.dialer, BRIDGE_PORT, limit)?)
        })?,
    };
    stage::tell(stage::Event::Begins(Stage::Negotiation));
    Service {
        uvm,
        bridge: Some(bridge),
        replaceable,
        signals,
        log: None,
        prepare: Some(setup.prepare),
        kmsg: None,
    }
    .serve()
}

fn both_ways(socket: OwnedFd) -> io::Result<Connection> {
    let outgoing = socket.try_clone()?;
    Ok(Connection::new(socket, outgoing))
}

struct Service {
    uvm: Uvm,
    /// `None` while it is dialled again.
    bridge: Option<Connection>,
    /// Whether the bridge was dialled, so that it can be dialled again.
    replaceable: bool,
    signals: SignalFd,
    /// The log's descriptor that is being watched. The log may change it.
    log: Option<(Rc<OwnedFd>, Registration)>,
    /// `None` once it was called.
    prepare: Option<Prepare>,
    kmsg: Option<kmsg::Reader>,
}

impl Service {
    fn serve(mut self) -> io::Result<End> {
        let poller = &mut self.uvm.poller;
        // These live as long as the loop: nothing ends their registrations.
        let mut forever = Registration::default();
        poller.watch(
            &mut forever,
            self.signals.as_fd(),
            Interest::READ,
            Readiness::Children,
        )?;
        crate::log::batch(true);
        loop {
            self.watch_bridge()?;
            self.watch_log()?;
            self.uvm.tend_log();
            let until = self.uvm.next_deadline();
            for what in self.uvm.poller.wait(until)? {
                self.handle(what);
            }
            self.guarded("deadlines", |uvm| uvm.on_time(Instant::now()));
            self.take_frames();
            self.uvm.outbox.answer_lost();
            self.take_new_bridge();
            self.write_bridge();
            if self.uvm.is_negotiated() {
                self.prepare();
            }
            crate::log::flush();
            if let Some(end) = self.uvm.end {
                self.farewell();
                crate::log::batch(false);
                return Ok(end);
            }
        }
    }

    /// Requests are not read while there is enough to do, or the host does not take its answers.
    fn watch_bridge(&mut self) -> io::Result<()> {
        let wanted = Interest {
            read: !self.uvm.outbox.is_congested(),
            write: !self.uvm.outbox.is_empty(),
        };
        let ready = Directions {
            incoming: Readiness::Bridge,
            outgoing: Readiness::BridgeOut,
        };
        match &mut self.bridge {
            Some(bridge) => bridge.watch(&mut self.uvm.poller, wanted, ready),
            None => Ok(()),
        }
    }

    fn read_bridge(&mut self) {
        let ended = |bridge: &mut Connection| bridge.read() == BridgeRead::Ended;
        if self.bridge.as_mut().is_some_and(ended) {
            self.bridge_lost(End::BridgeLost);
        }
    }

    /// Handles the requests that were read, up to what may be worked on at once.
    fn take_frames(&mut self) {
        while self.uvm.end.is_none() && !self.uvm.outbox.is_congested() {
            match self.bridge.as_mut().map(Connection::next_frame) {
                Some(Ok(Some(frame))) => {
                    if frame.id != MessageId::NEGOTIATE_PROTOCOL {
                        self.prepare();
                    }
                    let what = format!("request {} {}", frame.id, frame.sequence);
                    self.guarded(&what, |uvm| uvm.on_frame(&frame));
                    // A request that was dropped is not at work any more.
                    self.uvm.outbox.answer_lost();
                }
                Some(Err(error)) => {
                    log::error!("the bridge cannot go on: {error}");
                    return self.bridge_lost(End::BadFraming);
                }
                Some(Ok(None)) | None => return,
            }
        }
    }

    /// Calls [`Setup::prepare`], the first time.
    fn prepare(&mut self) {
        let Some(prepare) = self.prepare.take() else {
            return;
        };
        let Ok(watches) = catch_unwind(AssertUnwindSafe(prepare)) else {
            return log::error!("setting the machine up panicked; going on");
        };
        self.kmsg = watches.kmsg.filter(|kmsg| {
            let poller = &mut self.uvm.poller;
            // Nothing ends this registration: it lives as long as the reader.
            let mut forever = Registration::default();
            let watched = poller.watch(&mut forever, kmsg.as_fd(), Interest::READ, Readiness::Kmsg);
            if let Err(error) = &watched {
                log::warn!("the kernel's messages are not read: {error}");
            }
            watched.is_ok()
        });
        self.guarded("the clock and the memory", |uvm| {
            if let Some(clock) = watches.clock {
                uvm.keep_time(clock);
            }
            if let Some(memory) = watches.memory {
                uvm.watch_memory(memory, watches.limit);
            }
        });
        stage::report();
    }

    fn write_bridge(&mut self) {
        let outbox = &mut self.uvm.outbox;
        let written = self.bridge.as_ref().map(|b| outbox.flush(b.outgoing()));
        if let Some(Err(errno)) = written {
            log::error!("writing to the bridge: {errno}");
            self.bridge_lost(End::BridgeLost);
        }
    }

    /// `end` is how the service ends when there can be no other bridge.
    fn bridge_lost(&mut self, end: End) {
        if !self.replaceable {
            self.uvm.end.get_or_insert(end);
            return;
        }
        if let Some(bridge) = self.bridge.take() {
            log::warn!("the bridge is lost; it is dialled again");
            if let Err(error) = bridge.close(&mut self.uvm.poller) {
                log::error!("closing the bridge: {error}");
            }
            self.uvm.bridge_lost();
        }
    }

    fn take_new_bridge(&mut self) {
        match self.uvm.take_bridge().map(both_ways) {
            Some(Ok(bridge)) => self.bridge = Some(bridge),
            Some(Err(error)) => {
                log::error!("the new bridge cannot be used: {error}");
                self.uvm.bridge_lost();
            }
            None => {}
        }
    }

    /// The log is written as it comes; what its reader did not take waits for readiness.
    fn watch_log(&mut self) -> io::Result<()> {
        let wanted = crate::log::pollable().filter(|_| crate::log::wants_write());
        let same = |a: &Rc<OwnedFd>, b: &Rc<OwnedFd>| Rc::ptr_eq(a, b);
        if let Some((fd, registration)) = &mut self.log {
            if wanted.as_ref().is_some_and(|w| same(w, fd)) {
                return Ok(());
            }
            self.uvm.poller.forget(registration, fd.as_fd())?;
            self.log = None;
        }
        if let Some(fd) = wanted {
            let mut registration = Registration::default();
            let want = Interest::WRITE;
            self.uvm
                .poller
                .watch(&mut registration, fd.as_fd(), want, Readiness::Log)?;
            self.log = Some((fd, registration));
        }
        Ok(())
    }

    fn read_kmsg(&mut self) {
        let Some(kmsg) = &mut self.kmsg else { return };
        if let Err(error) = kmsg.relay(KMSG_PER_TURN) {
            log::warn!("reading the kernel's messages: {error}");
            // The descriptor is dropped and has no copy, so its registration goes with it.
            self.kmsg = None;
        }
    }

    fn handle(&mut self, what: Readiness) {
        match what {
            Readiness::Children => self.reap(),
            Readiness::Bridge => self.read_bridge(),
            Readiness::Log => crate::log::flush(),
            Readiness::Kmsg => self.read_kmsg(),
            // The flush at the end of the turn sends what waits.
            Readiness::BridgeOut => {}
            what => self.guarded("an event", |uvm| uvm.on_ready(what)),
        }
    }

    fn reap(&mut self) {
        // The signal means only that there is something to reap.
        while let Ok(Some(_)) = self.signals.read_signal() {}
        loop {
            match process::reap_one() {
                Ok(Some((pid, status))) => {
                    self.guarded("an exit", |uvm| uvm.on_exit(pid, status));
                }
                Ok(None) => return,
                Err(errno) => return log::error!("reaping: {errno}"),
            }
        }
    }

    /// A defect in one handler must not end PID 1 (P-312): what it panicked over is logged, and
    /// the request it left is answered as lost.
    fn guarded(&mut self, what: &str, work: impl FnOnce(&mut Uvm)) {
        if catch_unwind(AssertUnwindSafe(|| work(&mut self.uvm))).is_err() {
            log::error!("handling {what} panicked; going on");
        }
    }

    /// Gives the last answers some time to be sent. A closed or stuck bridge ends the wait.
    fn farewell(&mut self) {
        use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
        let Some(bridge) = &self.bridge else { return };
        let until = Instant::now() + FAREWELL;
        while !self.uvm.outbox.is_empty() && Instant::now() < until {
            if self.uvm.outbox.flush(bridge.outgoing()).is_err() {
                return;
            }
            let mut fds = [PollFd::new(bridge.outgoing(), PollFlags::POLLOUT)];
            let left = until.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            poll(&mut fds, left).ok();
        }
    }
}
