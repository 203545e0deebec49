//! One standard stream of a process, as a state machine over two descriptors.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{shutdown, Shutdown};

use super::transfer::{PipeEnd, Transfer, TransferStep};
use crate::reactor::Interest;
use crate::sys::fds;

/// The two descriptors of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The connection to the host.
    Connection,
    /// The pipe or terminal of the process.
    Process,
}

/// A stream between the host and a process.
pub trait Stream {
    /// What is awaited of one side, derived from the state.
    fn interest(&self, side: Side) -> Interest;
    /// The descriptor of one side, while it is open.
    fn fd(&self, side: Side) -> Option<BorrowedFd<'_>>;
    /// Does one step after readiness was reported. Returns a descriptor that is not needed any
    /// more. The caller ends its registration and then closes it.
    #[must_use]
    fn advance(&mut self) -> Option<(Side, OwnedFd)>;
    /// The process was reaped.
    fn finish(&mut self);
    /// The process has ended a while ago. Only what is there now is still moved: another process
    /// that has the stream open could keep it so for ever. Returns the descriptor to read from, to
    /// nothing, so that such a process does not get a signal for it.
    fn cut(&mut self) -> Option<OwnedFd> {
        None
    }
    /// Looks again at a terminal that nobody had open. Returns whether there is one.
    fn look_again(&mut self) -> bool {
        false
    }
    /// Whether everything has arrived that has to.
    fn is_done(&self) -> bool;
    /// The state and the bytes moved, for the state dump.
    fn describe(&self) -> String;
}

/// Stdin: host to process.
#[derive(Debug)]
pub struct Input {
    connection: OwnedFd,
    /// `None` once the process cannot or need not get more.
    process: Option<OwnedFd>,
    transfer: Transfer,
    terminal: bool,
    state: InputState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InputState {
    /// Bytes move. Waits for the named side.
    Flow(Side),
    /// The process has closed its end. What the host still sends is dropped, so that the host can
    /// finish.
    Discard,
    /// The host has closed its end. The connection stays open until the process ends.
    Ended,
    Done,
}

impl Input {
    /// `process` is the write end of the process's stdin pipe, or its terminal.
    pub fn new(connection: OwnedFd, process: OwnedFd, terminal: bool) -> Self {
        let transfer = if terminal {
            Transfer::buffered()
        } else {
            Transfer::spliced(PipeEnd::Sink)
        };
        let state = InputState::Flow(Side::Connection);
        Self {
            connection,
            process: Some(process),
            transfer,
            terminal,
            state,
        }
    }
}

impl Stream for Input {
    fn interest(&self, side: Side) -> Interest {
        match (side, self.state) {
            (Side::Connection, InputState::Flow(Side::Connection) | InputState::Discard) => {
                Interest::READ
            }
            (Side::Process, InputState::Flow(Side::Process)) => Interest::WRITE,
            _ => Interest::NONE,
        }
    }

    fn fd(&self, side: Side) -> Option<BorrowedFd<'_>> {
        match side {
            Side::Connection => Some(self.connection.as_fd()),
            Side::Process => self.process.as_ref().map(AsFd::as_fd),
        }
    }

    fn advance(&mut self) -> Option<(Side, OwnedFd)> {
        match (self.state, &self.process) {
            (InputState::Flow(_), Some(process)) => {
                match self.transfer.step(self.connection.as_fd(), process.as_fd()) {
                    TransferStep::Moved | TransferStep::SourceEmpty => {
                        self.state = InputState::Flow(Side::Connection);
                        None
                    }
                    TransferStep::SinkFull => {
                        self.state = InputState::Flow(Side::Process);
                        None
                    }
                    // A terminal does not learn of the end of file, because no ^D is made up.
                    TransferStep::SourceEnd | TransferStep::SourceFailed(_) => {
                        self.state = InputState::Ended;
                        if self.terminal {
                            None
                        } else {
                            self.process.take().map(|fd| (Side::Process, fd))
                        }
                    }
                    TransferStep::SinkFailed(_) => {
                        self.state = InputState::Discard;
                        self.process.take().map(|fd| (Side::Process, fd))
                    }
                }
            }
            (InputState::Discard, _) => {
                match self.transfer.discard(self.connection.as_fd()) {
                    TransferStep::SourceEnd | TransferStep::SourceFailed(_) => {
                        self.state = InputState::Ended
                    }
                    _ => {}
                }
                None
            }
            _ => None,
        }
    }

    /// The process has ended. Tells the host that nobody reads any more.
    fn finish(&mut self) {
        // Fails when the host closed already.
        shutdown(self.connection.as_raw_fd(), Shutdown::Read).ok();
        self.state = InputState::Done;
    }

    fn is_done(&self) -> bool {
        self.state == InputState::Done
    }

    fn describe(&self) -> String {
        format!("{:?}:{}B", self.state, self.transfer.moved())
    }
}

/// Stdout or stderr: process to host.
#[derive(Debug)]
pub struct Output {
    process: OwnedFd,
    /// `None` when the stream was not asked for or its connection is broken. Output is then
    /// dropped.
    connection: Option<OwnedFd>,
    transfer: Transfer,
    terminal: bool,
    exited: bool,
    /// Set by a cut: how many bytes all in all are moved before the end.
    last: Option<u64>,
    state: OutputState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OutputState {
    /// Bytes move. Waits for the named side.
    Flow(Side),
    /// Nobody has the terminal open. A process may open it again, of which epoll gives no event.
    HungUp,
    /// All bytes are written. The host closes its end after it has read them.
    HalfClosed,
    Done,
}

impl Output {
    /// `process` is the read end of the process's pipe, or its terminal.
    pub fn new(process: OwnedFd, connection: Option<OwnedFd>, terminal: bool) -> Self {
        let transfer = if terminal {
            Transfer::buffered()
        } else {
            Transfer::spliced(PipeEnd::Source)
        };
        let state = OutputState::Flow(Side::Process);
        Self {
            process,
            connection,
            transfer,
            terminal,
            exited: false,
            last: None,
            state,
        }
    }

    /// Whether all has been moved that a cut has left.
    fn is_cut_here(&self) -> bool {
        let last = self.last.filter(|_| self.connection.is_some());
        last.is_some_and(|last| self.transfer.moved() >= last)
    }

    fn end_of_output(&mut self) {
        self.state = match &self.connection {
            // A terminal's stream has no closing handshake.
            Some(connection) if !self.terminal => {
                match shutdown(connection.as_raw_fd(), Shutdown::Write) {
                    Ok(()) => OutputState::HalfClosed,
                    Err(_) => OutputState::Done,
                }
            }
            _ => OutputState::Done,
        };
    }
}

impl Stream for Output {
    fn interest(&self, side: Side) -> Interest {
        match (side, self.state) {
            (Side::Process, OutputState::Flow(Side::Process)) => Interest::READ,
            (Side::Connection, OutputState::Flow(Side::Connection)) => Interest::WRITE,
            (Side::Connection, OutputState::HalfClosed) => Interest::READ,
            _ => Interest::NONE,
        }
    }

    fn fd(&self, side: Side) -> Option<BorrowedFd<'_>> {
        match side {
            Side::Connection => self.connection.as_ref().map(AsFd::as_fd),
            Side::Process => Some(self.process.as_fd()),
        }
    }

    fn advance(&mut self) -> Option<(Side, OwnedFd)> {
        match self.state {
            OutputState::Flow(_) => {
                let step = match &self.connection {
                    Some(connection) => {
                        self.transfer.step(self.process.as_fd(), connection.as_fd())
                    }
                    None => self.transfer.discard(self.process.as_fd()),
                };
                match step {
                    TransferStep::Moved | TransferStep::SourceEmpty if self.is_cut_here() => {
                        self.end_of_output();
                        None
                    }
                    TransferStep::Moved | TransferStep::SourceEmpty => {
                        self.state = OutputState::Flow(Side::Process);
                        None
                    }
                    TransferStep::SinkFull => {
                        self.state = OutputState::Flow(Side::Connection);
                        None
                    }
                    TransferStep::SourceFailed(Errno::EIO) if self.terminal && !self.exited => {
                        self.state = OutputState::HungUp;
                        None
                    }
                    TransferStep::SourceEnd | TransferStep::SourceFailed(_) => {
                        self.end_of_output();
                        None
                    }
                    TransferStep::SinkFailed(errno) => {
                        log::warn!("a stdio connection broke, further output is dropped: {errno}");
                        self.state = match self.last {
                            Some(_) => OutputState::Done,
                            None => OutputState::Flow(Side::Process),
                        };
                        self.connection.take().map(|fd| (Side::Connection, fd))
                    }
                }
            }
            OutputState::HalfClosed => {
                // End of file is expected; data or an error changes nothing.
                self.state = OutputState::Done;
                None
            }
            OutputState::HungUp | OutputState::Done => None,
        }
    }

    /// The process was reaped. A pipe ends by itself when its last writer is gone.
    fn finish(&mut self) {
        self.exited = true;
        if self.state == OutputState::HungUp {
            self.state = OutputState::Flow(Side::Process);
        }
    }

    fn cut(&mut self) -> Option<OwnedFd> {
        if !matches!(self.state, OutputState::Flow(_)) {
            return None;
        }
        let rest = fds::readable(self.process.as_fd()).unwrap_or(0) + self.transfer.held();
        self.last = Some(self.transfer.moved() + rest);
        if rest == 0 || self.connection.is_none() {
            self.end_of_output();
        }
        self.process.try_clone().ok()
    }

    fn look_again(&mut self) -> bool {
        let hung_up = self.state == OutputState::HungUp;
        if hung_up {
            self.state = OutputState::Flow(Side::Process);
        }
        hung_up
    }

    fn is_done(&self) -> bool {
        self.state == OutputState::Done
    }

    fn describe(&self) -> String {
        format!("{:?}:{}B", self.state, self.transfer.moved())
    }
}
