//! Routes packets of the guest to connections, and readiness of Unix streams to packets.
//!
//! The virtqueue side calls `receive` for each packet of the guest and `next_packet` for each
//! free buffer of the guest; between them `poll` takes what epoll has and `settle` puts epoll in
//! line with the connections' states. One packet per turn and connection, so none starves.

use std::collections::VecDeque;
use std::os::fd::{AsFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{poll, PollFd, PollFlags};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::connection::{Broken, Connection};
use crate::faults::Faults;
use crate::listener::{dial, host_socket, BoundSocket, Dial, Hello};
use crate::packet::{Header, Key, Op, HOST_CID, SHUTDOWN_BOTH, TYPE_STREAM};
use crate::stream::{Interest, Poller, Ready};
use crate::table::{State, Table};

const LISTENER: u64 = 0;
const RETRY_TIMER: u64 = 1;
/// How often, and for how long, a full listener queue of the host is tried again.
const RETRY_EVERY: Duration = Duration::from_millis(2);
const RETRY_FOR: Duration = Duration::from_secs(10);
/// Answers to packets without a connection that may wait; the guest's own fault beyond.
const MAX_STRAYS: usize = 4096;
/// Clients accepted per wake-up, so that a flood of them does not starve the streams.
const ACCEPTS: usize = 64;

/// All connections of one guest.
pub struct Muxer {
    cid: u64,
    uds: PathBuf,
    faults: Faults,
    listener: BoundSocket,
    poller: Poller,
    timer: TimerFd,
    table: Table,
    strays: VecDeque<Header>,
    /// Requests whose host listener has no room yet, with the end of our patience.
    busy: Vec<(Header, Instant)>,
}

impl Muxer {
    /// Listens on `uds` for clients.
    pub fn new(cid: u64, uds: &Path, faults: Faults) -> std::io::Result<Muxer> {
        let listener = BoundSocket::bind(uds)?;
        let poller = Poller::new()?;
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        poller.watch(listener.listener(), LISTENER, None, Some(Interest::INPUT))?;
        poller.watch(&timer, RETRY_TIMER, None, Some(Interest::INPUT))?;
        Ok(Muxer {
            cid,
            uds: uds.to_owned(),
            faults,
            listener,
            poller,
            timer,
            table: Table::new(),
            strays: VecDeque::new(),
            busy: Vec::new(),
        })
    }

    /// Readable when `poll` has something to do.
    pub fn epoll_fd(&self) -> RawFd {
        self.poller.raw()
    }

    pub fn cid(&self) -> u64 {
        self.cid
    }

    /// Faults for connections made from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// Streams in any state.
    pub fn streams(&self) -> usize {
        self.table.len()
    }

    /// Forgets every connection (the guest was reset); buffered bytes still reach the host.
    pub fn reset(&mut self) {
        self.strays.clear();
        self.busy.clear();
        self.table.expect_nothing();
        for id in self.table.ids() {
            if self.table.live(id).is_some() {
                self.orphan(id);
            }
        }
    }

    /// Takes a packet of the guest; `data` is its payload.
    pub fn receive(&mut self, header: &Header, data: &[u8]) {
        let known = header.kind == TYPE_STREAM && header.dst_cid == HOST_CID;
        if !known || header.src_cid != self.cid {
            return self.stray(header);
        }
        let found = self.table.find(header.key());
        if header.op == Some(Op::Request) {
            // Only a guest that forgot the old connection asks for the same ports again.
            if let Some(old) = found {
                self.orphan(old);
            }
            self.table.got_reset(header.key());
            let patience = Instant::now() + RETRY_FOR;
            return self.open(*header, patience);
        }
        let Some(id) = found else {
            return self.receive_unknown(header);
        };
        let Some(connection) = self.table.live(id) else {
            return;
        };
        let outcome = connection.receive(header, data);
        let orphaned = connection.is_orphan();
        match outcome {
            Err(why) => self.break_off(id, why),
            Ok(()) if orphaned => {
                self.table.release(id);
                if header.op != Some(Op::Rst) {
                    self.stray(header);
                }
                self.update(id);
            }
            Ok(()) => self.update(id),
        }
    }

    /// Takes a packet of the guest that belongs to no connection (any more).
    fn receive_unknown(&mut self, header: &Header) {
        let key = header.key();
        self.busy.retain(|(request, _)| request.key() != key);
        let lets_go = match header.op {
            Some(Op::Rst) => true,
            Some(Op::Shutdown) => header.flags & SHUTDOWN_BOTH == SHUTDOWN_BOTH,
            _ => false,
        };
        let crossed_our_shutdown = self.table.expects_reset(key) && !lets_go;
        if !crossed_our_shutdown {
            self.table.got_reset(key);
            self.stray(header);
        }
    }

    /// Whether `next_packet` may have one.
    pub fn has_packet(&self) -> bool {
        !self.strays.is_empty() || self.table.has_senders()
    }

    /// The next packet for the guest, its payload in `buffer[..header.len]`.
    pub fn next_packet(&mut self, buffer: &mut [u8]) -> Option<Header> {
        let mut header = loop {
            if let Some(stray) = self.strays.pop_front() {
                break stray;
            }
            let id = self.table.dequeue()?;
            let Some(connection) = self.table.live(id) else {
                continue;
            };
            match connection.next_packet(buffer) {
                Ok(packet) => {
                    self.update(id);
                    if let Some(packet) = packet {
                        break packet;
                    }
                }
                Err(why) => self.break_off(id, why),
            }
        };
        header.dst_cid = self.cid;
        Some(header)
    }

    /// Takes everything epoll has, without waiting.
    pub fn poll(&mut self) {
        let events = match self.poller.ready() {
            Ok(events) => events,
            Err(e) => return log::error!("vsock: epoll_wait: {e}"),
        };
        for (id, ready) in events {
            match id {
                LISTENER => self.accept(),
                RETRY_TIMER => self.retry(),
                id => self.stream_ready(id, ready),
            }
        }
    }

    /// Makes epoll watch what the connections' states ask for.
    pub fn settle(&mut self) {
        for id in self.table.take_touched() {
            let Some(entry) = self.table.get(id) else {
                continue;
            };
            let (fd, wanted) = match &entry.state {
                State::Hello(hello) => (hello.stream().as_fd(), Some(Interest::INPUT)),
                State::Live(connection) => (connection.stream().as_fd(), connection.interest()),
            };
            if wanted == entry.watched {
                continue;
            }
            match self.poller.watch(fd, id, entry.watched, wanted) {
                Ok(()) => entry.watched = wanted,
                Err(e) => log::error!("vsock: cannot watch a stream: {e}"),
            }
        }
    }

    /// Writes out what the host side has not read yet, for at most `patience`, and for at most
    /// `hurry` from when `asked` says that somebody waits for the end.
    pub fn drain(&mut self, patience: Duration, hurry: Duration, asked: impl Fn() -> bool) {
        self.reset();
        let mut deadline = Instant::now() + patience;
        let mut hurried = false;
        loop {
            self.settle();
            if !hurried && asked() {
                hurried = true;
                deadline = deadline.min(Instant::now() + hurry);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let waiting = self.table.ids().into_iter();
            let waiting = waiting
                .filter(|id| self.table.live(*id).is_some_and(|c| c.holds_bytes()))
                .count();
            if waiting == 0 {
                return;
            }
            if left.is_zero() {
                return log::warn!("vsock: {waiting} streams were not read to their end");
            }
            let mut fds = [PollFd::new(self.poller.as_fd(), PollFlags::POLLIN)];
            let wait = left.min(Duration::from_millis(100)).as_millis() as u16;
            if let Err(e) = poll(&mut fds, wait.max(1)) {
                log::debug!("vsock: poll: {e}");
            }
            self.poll();
        }
    }

    /// Connects a guest's request to the host socket of its port.
    fn open(&mut self, request: Header, patience: Instant) {
        let port = request.dst_port;
        if self.faults.ignores(port) {
            return;
        }
        if self.table.is_full() || self.faults.refuses(port) {
            return self.stray(&request);
        }
        match dial(&host_socket(&self.uds, port)) {
            Dial::Connected(stream) => {
                let connection = Connection::accepted(stream, &request, self.faults.plan(port));
                let id = self.table.insert(State::Live(connection));
                self.update(id);
            }
            Dial::Busy if Instant::now() < patience => {
                self.busy.push((request, patience));
                self.arm_retry();
            }
            Dial::Busy => self.stray(&request),
            Dial::Refused(e) => {
                log::debug!("vsock: nobody listens for port {port}: {e}");
                self.stray(&request);
            }
        }
    }

    fn arm_retry(&mut self) {
        let once = Expiration::OneShot(RETRY_EVERY.into());
        if let Err(e) = self.timer.set(once, TimerSetTimeFlags::empty()) {
            log::error!("vsock: cannot arm a timer: {e}");
        }
    }

    fn retry(&mut self) {
        // Takes the expiration; EAGAIN says that somebody else did.
        if let Err(e) = self.timer.wait() {
            log::debug!("vsock: timer: {e}");
        }
        for (request, patience) in std::mem::take(&mut self.busy) {
            self.open(request, patience);
        }
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS {
            let Ok((stream, _)) = self.listener.listener().accept() else {
                return;
            };
            if self.table.is_full() {
                log::warn!("vsock: too many streams, a client is turned away");
            } else if let Err(e) = stream.set_nonblocking(true) {
                log::error!("vsock: cannot make a stream non-blocking: {e}");
            } else {
                self.table.insert(State::Hello(Hello::new(stream)));
            }
        }
    }

    fn stream_ready(&mut self, id: u64, ready: Ready) {
        let outcome = match self.table.get(id).map(|entry| &mut entry.state) {
            None => return,
            Some(State::Hello(_)) => return self.hello(id),
            Some(State::Live(connection)) => connection.ready(ready),
        };
        match outcome {
            Ok(()) => self.update(id),
            Err(why) => self.break_off(id, why),
        }
    }

    /// Reads on in a client's `CONNECT` line.
    fn hello(&mut self, id: u64) {
        let Some(State::Hello(hello)) = self.table.get(id).map(|entry| &mut entry.state) else {
            return;
        };
        match hello.advance() {
            Ok(None) => {}
            Ok(Some(port)) if !self.faults.refuses(port) => {
                let key = self.table.free_key(port);
                let plan = self.faults.plan(port);
                let make = |stream: UnixStream| Connection::requested(stream, key, plan);
                self.table.promote(id, make);
                self.update(id);
            }
            Ok(Some(_)) => drop(self.table.remove(id)),
            Err(e) => {
                log::warn!("vsock: a client of {}: {e}", self.uds.display());
                self.table.remove(id);
            }
        }
    }

    /// Queues, watches or ends `id` as its state now says.
    fn update(&mut self, id: u64) {
        let Some(connection) = self.table.live(id) else {
            return;
        };
        if connection.is_over() {
            if !connection.is_orphan() {
                let key = connection.key();
                self.table.expect_reset(key);
            }
            self.table.remove(id);
        } else {
            if connection.has_packet() {
                self.table.enqueue(id);
            }
            self.table.touch(id);
        }
    }

    /// The guest is done with `id`, the host side perhaps not.
    fn orphan(&mut self, id: u64) {
        self.table.release(id);
        if let Some(connection) = self.table.live(id) {
            connection.orphan();
        }
        self.update(id);
    }

    /// Ends `id` on both sides at once.
    fn break_off(&mut self, id: u64, why: Broken) {
        if let Some(connection) = self.table.live(id) {
            let key = connection.key();
            log::debug!("vsock: {key:?} reset: {why}");
            self.reply(TYPE_STREAM, key);
        }
        self.table.remove(id);
    }

    /// Answers a packet that has no connection (any more) with RST, as the standard asks.
    fn stray(&mut self, header: &Header) {
        if header.op != Some(Op::Rst) {
            self.reply(header.kind, header.key());
        }
    }

    fn reply(&mut self, kind: u16, key: Key) {
        if self.strays.len() < MAX_STRAYS {
            let mut reset = Header::to_guest(key, Op::Rst);
            reset.kind = kind;
            self.strays.push_back(reset);
        }
    }
}

#[cfg(test)]
#[path = "muxer_tests.rs"]
mod tests;
