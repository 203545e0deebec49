//! The connection to the host: bytes to frames on the way in.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::frame::{Decoder, Frame, FrameError, MAX_FROM_HOST};
use crate::reactor::{Interest, Poller, Registration};

/// Bytes read in one turn, so that a busy host does not keep the loop from its other sources.
const READ_PER_TURN: usize = 64 * 1024;

/// Both directions of the bridge: one socket, or two pipes (`-use-inouterr`).
pub struct Connection {
    incoming: OwnedFd,
    outgoing: OwnedFd,
    incoming_registration: Registration,
    outgoing_registration: Registration,
    decoder: Decoder,
    buffer: Vec<u8>,
}

/// What the loop calls the two directions.
#[derive(Debug, Clone, Copy)]
pub struct Directions<S> {
    pub incoming: S,
    pub outgoing: S,
}

/// What reading found besides frames.
#[derive(Debug, PartialEq, Eq)]
pub enum BridgeRead {
    Open,
    /// The host closed the bridge, or it broke.
    Ended,
}

impl Connection {
    /// The descriptors must not block.
    pub fn new(incoming: OwnedFd, outgoing: OwnedFd) -> Self {
        Self {
            incoming,
            outgoing,
            incoming_registration: Registration::default(),
            outgoing_registration: Registration::default(),
            decoder: Decoder::new(MAX_FROM_HOST),
            buffer: vec![0; READ_PER_TURN],
        }
    }

    pub fn outgoing(&self) -> BorrowedFd<'_> {
        self.outgoing.as_fd()
    }

    /// Tells the loop which directions are awaited; `ready` names them in its events.
    pub fn watch<S: Copy>(
        &mut self,
        poller: &mut Poller<S>,
        Interest { read, write }: Interest,
        ready: Directions<S>,
    ) -> io::Result<()> {
        let read = Interest { read, write: false };
        let write = Interest { read: false, write };
        let (incoming, outgoing) = (self.incoming.as_fd(), self.outgoing.as_fd());
        poller.watch(
            &mut self.incoming_registration,
            incoming,
            read,
            ready.incoming,
        )?;
        poller.watch(
            &mut self.outgoing_registration,
            outgoing,
            write,
            ready.outgoing,
        )
    }

    /// Reads once; the frames are then at [`Self::next_frame`].
    pub fn read(&mut self) -> BridgeRead {
        match nix::unistd::read(&self.incoming, &mut self.buffer) {
            Ok(0) => BridgeRead::Ended,
            Ok(count) => {
                self.decoder.feed(&self.buffer[..count]);
                BridgeRead::Open
            }
            Err(Errno::EAGAIN | Errno::EINTR) => BridgeRead::Open,
            Err(errno) => {
                log::error!("reading the bridge: {errno}");
                BridgeRead::Ended
            }
        }
    }

    /// The next whole frame of what was read.
    ///
    /// # Errors
    /// The host sent a size that no frame has: nothing after it can be understood.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        self.decoder.next()
    }

    /// Ends both directions.
    pub fn close<S: Copy>(mut self, poller: &mut Poller<S>) -> io::Result<()> {
        let incoming = poller.forget(&mut self.incoming_registration, self.incoming.as_fd());
        let outgoing = poller.forget(&mut self.outgoing_registration, self.outgoing.as_fd());
        incoming.and(outgoing)
    }
}
