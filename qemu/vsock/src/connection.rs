//! One connection: bytes between the guest (packets) and a Unix stream, as a state machine.
//!
//! ```text
//! guest ── receive(header, data) ──▶ [ out: ≤ 256 KiB ] ── write ──▶ Unix stream
//! guest ◀── next_packet(buffer) ──────────────────────────── read ── Unix stream
//! ```
//!
//! The two directions end on their own. Guest → host ends when the guest has said SHUTDOWN(SEND)
//! *and* everything before it was written; then the stream gets SHUT_WR. Host → guest ends when the
//! stream reads 0; then the guest gets SHUTDOWN(SEND). Only when both have ended is the connection
//! over. When the guest ends first (SHUTDOWN of both, or RST), the machine is *orphaned*: it sends
//! no more packets and exists until its buffer is written, so that a slow reader still gets every
//! byte.
//!
//! No call blocks. `out` never exceeds `BUFFER`. No more payload is sent than the guest has credit
//! for. What epoll watches is a function of the state ([`Connection::interest`]).

mod flow;

use std::collections::VecDeque;

use crate::credit::Credit;
use crate::faults::{Action, Direction, Plan};
use crate::packet::{Header, Key, Op, SHUTDOWN_BOTH, SHUTDOWN_RCV, SHUTDOWN_SEND};
use crate::stream::{Interest, Ready, Stream};

/// Why a connection must be reset at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("the guest sent more than the buffer space it was given")]
    Overrun,
    #[error("the guest sent a packet that does not fit the connection's state")]
    OutOfState,
    #[error("the client left before the guest answered")]
    ClientLeft,
    #[error("a fault was injected")]
    Injected,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// We asked the guest; it has not answered. `OK` is owed to the client.
    Asked,
    Open,
    /// The guest has forgotten the connection; only `out` is left to write.
    Orphan,
}

/// The state machine; `S` is the Unix stream or, in tests, a script.
#[derive(Debug)]
pub struct Connection<S> {
    key: Key,
    stream: S,
    phase: Phase,
    faults: Plan,
    /// A REQUEST or RESPONSE to send before anything else.
    opening: Option<Op>,
    credit: Credit,

    // guest → host
    out: VecDeque<u8>,
    guest_sends_no_more: bool,
    /// SHUT_WR was done.
    out_ended: bool,
    /// The host side takes no more bytes.
    host_deaf: bool,

    // host → guest
    readable: bool,
    host_ended: bool,
    guest_deaf: bool,
    hung_up: bool,
    /// SHUTDOWN flags the guest was told.
    told: u32,
}

impl<S: Stream> Connection<S> {
    /// The guest asked (`request`) and `stream` was connected: a RESPONSE is due.
    pub fn accepted(stream: S, request: &Header, faults: Plan) -> Self {
        let mut connection = Self::new(stream, request.key(), Phase::Open, Op::Response, faults);
        connection.credit.hear(request);
        connection
    }

    /// A client asked for a guest port: a REQUEST is due, then we wait for the RESPONSE.
    pub fn requested(stream: S, key: Key, faults: Plan) -> Self {
        Self::new(stream, key, Phase::Asked, Op::Request, faults)
    }

    fn new(stream: S, key: Key, phase: Phase, opening: Op, faults: Plan) -> Self {
        Connection {
            key,
            stream,
            phase,
            faults,
            opening: Some(opening),
            credit: Credit::default(),
            out: VecDeque::new(),
            guest_sends_no_more: false,
            out_ended: false,
            host_deaf: false,
            readable: false,
            host_ended: false,
            guest_deaf: false,
            hung_up: false,
            told: 0,
        }
    }

    pub fn key(&self) -> Key {
        self.key
    }

    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// True while bytes of the guest wait for the host side to read.
    pub fn holds_bytes(&self) -> bool {
        !self.out.is_empty()
    }

    pub fn is_orphan(&self) -> bool {
        self.phase == Phase::Orphan
    }

    /// Nothing is left to do: drop it.
    pub fn is_over(&self) -> bool {
        match self.phase {
            Phase::Orphan => self.out.is_empty(),
            Phase::Open => self.told == SHUTDOWN_BOTH,
            Phase::Asked => false,
        }
    }

    /// Takes a packet of the guest. REQUEST never comes here. RST and a SHUTDOWN of both
    /// directions make an orphan; the muxer answers the latter with RST.
    pub fn receive(&mut self, header: &Header, data: &[u8]) -> Result<(), Broken> {
        self.credit.hear(header);
        match (header.op, self.phase) {
            (Some(Op::Rst), _) => {
                self.orphan();
                Ok(())
            }
            (Some(Op::Response), Phase::Asked) => self.greet(),
            (Some(Op::Rw), Phase::Open) => self.take(data),
            (Some(Op::Shutdown), Phase::Open) => {
                self.guest_sends_no_more |= header.flags & SHUTDOWN_SEND != 0;
                if header.flags & SHUTDOWN_RCV != 0 {
                    self.deafen_guest();
                }
                if self.guest_sends_no_more && self.guest_deaf {
                    self.orphan();
                } else {
                    self.end_out();
                }
                Ok(())
            }
            (Some(Op::CreditRequest), Phase::Open) => {
                self.credit.ask();
                Ok(())
            }
            (Some(Op::CreditUpdate), _) => Ok(()),
            _ => Err(Broken::OutOfState),
        }
    }

    /// Takes the readiness of the stream.
    pub fn ready(&mut self, ready: Ready) -> Result<(), Broken> {
        if ready.hang_up {
            self.hung_up = true;
            if self.phase == Phase::Asked {
                return Err(Broken::ClientLeft);
            }
            // Without our own SHUT_WR a hang-up means that the peer closed: nobody will read.
            if !self.out_ended {
                self.deafen_host();
            }
        }
        if self.reads() {
            self.readable |= ready.input || ready.hang_up;
        }
        if ready.output {
            self.flush();
        }
        self.injected(Direction::GuestToHost)
    }

    /// The next packet for the guest; its payload is in `buffer[..header.len]`.
    pub fn next_packet(&mut self, buffer: &mut [u8]) -> Result<Option<Header>, Broken> {
        if self.phase == Phase::Orphan {
            return Ok(None);
        }
        if let Some(op) = self.opening.take() {
            return Ok(Some(self.packet(op)));
        }
        if self.phase == Phase::Asked {
            return Ok(None);
        }
        if self.reads() && self.readable {
            let room = buffer.len().min(self.credit.room());
            let room = self.faults.cap(Direction::HostToGuest, room);
            if room > 0 {
                if let Some(n) = self.fill(&mut buffer[..room]) {
                    let mut header = self.packet(Op::Rw);
                    header.len = n as u32;
                    return Ok(Some(header));
                }
            } else if self.credit.should_request() {
                self.credit.requested();
                return Ok(Some(self.packet(Op::CreditRequest)));
            }
            self.injected(Direction::HostToGuest)?;
        }
        let flags = self.shutdown_flags();
        if flags != self.told {
            self.told = flags;
            let mut header = self.packet(Op::Shutdown);
            header.flags = flags;
            return Ok(Some(header));
        }
        if self.credit.is_due() {
            return Ok(Some(self.packet(Op::CreditUpdate)));
        }
        Ok(None)
    }

    /// Whether `next_packet` is worth a call.
    pub fn has_packet(&self) -> bool {
        match self.phase {
            Phase::Orphan => false,
            Phase::Asked => self.opening.is_some(),
            Phase::Open => {
                self.opening.is_some()
                    || (self.readable
                        && self.reads()
                        && (self.credit.room() > 0 || self.credit.should_request()))
                    || self.shutdown_flags() != self.told
                    || self.credit.is_due()
            }
        }
    }

    /// What to watch; `None` takes the stream out of epoll, since a hang-up that was already
    /// seen would wake the loop for ever.
    pub fn interest(&self) -> Option<Interest> {
        let interest = Interest {
            input: self.reads() && !self.readable && self.credit.room() > 0,
            output: !self.out.is_empty() && !self.stalled(Direction::GuestToHost),
        };
        (interest.input || interest.output || !self.hung_up).then_some(interest)
    }

    /// The guest is gone: keep only what the host side still has to read.
    pub fn orphan(&mut self) {
        if self.phase == Phase::Asked {
            // The client was promised nothing, so closing the stream is the answer.
            self.out.clear();
        }
        self.phase = Phase::Orphan;
        self.guest_sends_no_more = true;
        self.deafen_guest();
        self.flush();
    }

    fn packet(&mut self, op: Op) -> Header {
        let mut header = Header::to_guest(self.key, op);
        self.credit.tell(&mut header);
        header
    }

    fn shutdown_flags(&self) -> u32 {
        let out_ended = self.out_ended || self.host_deaf;
        let in_ended = self.host_ended || self.guest_deaf;
        let mut flags = 0;
        if self.host_ended {
            flags |= SHUTDOWN_SEND;
        }
        if self.host_deaf {
            flags |= SHUTDOWN_RCV;
        }
        if out_ended && in_ended {
            flags = SHUTDOWN_BOTH;
        }
        flags
    }

    fn stalled(&self, direction: Direction) -> bool {
        self.faults.due(direction) == Some(Action::Stall)
    }

    fn injected(&mut self, direction: Direction) -> Result<(), Broken> {
        match self.faults.due(direction) {
            Some(Action::Reset) => Err(Broken::Injected),
            Some(Action::Drop) => {
                self.host_ended = true;
                self.deafen_host();
                Ok(())
            }
            Some(Action::Stall) | None => Ok(()),
        }
    }

    /// Host → guest still flows.
    fn reads(&self) -> bool {
        self.phase == Phase::Open
            && !self.host_ended
            && !self.guest_deaf
            && !self.stalled(Direction::HostToGuest)
    }

    fn greet(&mut self) -> Result<(), Broken> {
        self.phase = Phase::Open;
        let greeting = format!("OK {}\n", self.key.host_port);
        // The socket is new and empty: a dozen bytes fit, or the client is gone.
        match self.stream.write(greeting.as_bytes()) {
            Ok(n) if n == greeting.len() => Ok(()),
            _ => Err(Broken::ClientLeft),
        }
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
