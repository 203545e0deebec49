//! One step of moving bytes between two non-blocking descriptors: by `splice(2)` where the
//! kernel can, through a bounded buffer where it cannot (terminals).

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{splice, SpliceFFlags};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::unistd::{read, write};

/// The most bytes that one step moves, so that one turn of the loop serves every stream.
pub const STEP: usize = PIPE_SIZE;
/// Size of the pipes between a process and its relay. With the usual 64 KiB the two would take
/// turns four times as often. Pages are only in use while they hold bytes.
pub const PIPE_SIZE: usize = 256 * 1024;

/// How one step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferStep {
    Moved,
    /// Nothing to read now.
    SourceEmpty,
    /// No room to write now.
    SinkFull,
    SourceEnd,
    SourceFailed(Errno),
    SinkFailed(Errno),
}

/// Which end is a pipe. This decides which end an error belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PipeEnd {
    Source,
    Sink,
}

/// The state between two steps.
#[derive(Debug)]
pub struct Transfer {
    way: TransferMethod,
    /// Bytes that arrived at the sink, for the state dump.
    moved: u64,
}

#[derive(Debug)]
enum TransferMethod {
    Splice(PipeEnd),
    Buffer { bytes: Vec<u8>, start: usize },
}

impl TransferMethod {
    const fn buffered() -> Self {
        Self::Buffer {
            bytes: Vec::new(),
            start: 0,
        }
    }
}

impl Transfer {
    pub const fn buffered() -> Self {
        Self {
            way: TransferMethod::buffered(),
            moved: 0,
        }
    }

    pub const fn spliced(pipe: PipeEnd) -> Self {
        Self {
            way: TransferMethod::Splice(pipe),
            moved: 0,
        }
    }

    /// Bytes that arrived at the sink.
    pub const fn moved(&self) -> u64 {
        self.moved
    }

    /// Bytes that were taken from the source and have not arrived yet.
    pub fn held(&self) -> u64 {
        match &self.way {
            TransferMethod::Splice(_) => 0,
            TransferMethod::Buffer { bytes, start } => (bytes.len() - start) as u64,
        }
    }

    /// Moves what can be moved now, [`STEP`] bytes at most.
    pub fn step(&mut self, source: BorrowedFd<'_>, sink: BorrowedFd<'_>) -> TransferStep {
        match &mut self.way {
            TransferMethod::Splice(pipe) => match splice_once(*pipe, source, sink, &mut self.moved)
            {
                Some(step) => step,
                None => {
                    self.way = TransferMethod::buffered();
                    self.step(source, sink)
                }
            },
            TransferMethod::Buffer { bytes, start } => {
                buffer_once(bytes, start, source, sink, &mut self.moved)
            }
        }
    }

    /// Drops what was read but not yet written, then one step's worth of `source`.
    pub fn discard(&mut self, source: BorrowedFd<'_>) -> TransferStep {
        let mut scratch = [0; 4096];
        match read(source, &mut scratch) {
            Ok(0) => TransferStep::SourceEnd,
            Ok(_) => TransferStep::Moved,
            Err(Errno::EAGAIN | Errno::EINTR) => TransferStep::SourceEmpty,
            Err(errno) => TransferStep::SourceFailed(errno),
        }
    }
}

/// `None` when the kernel cannot splice these two.
fn splice_once(
    pipe: PipeEnd,
    source: BorrowedFd<'_>,
    sink: BorrowedFd<'_>,
    moved: &mut u64,
) -> Option<TransferStep> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    Some(match splice(source, None, sink, None, STEP, flags) {
        Ok(0) => TransferStep::SourceEnd,
        Ok(count) => {
            *moved += count as u64;
            TransferStep::Moved
        }
        Err(Errno::EINVAL) => return None,
        // EAGAIN does not say which end is not ready.
        Err(Errno::EAGAIN | Errno::EINTR) if readable(source) => TransferStep::SinkFull,
        Err(Errno::EAGAIN | Errno::EINTR) => TransferStep::SourceEmpty,
        Err(errno) if pipe == PipeEnd::Source || errno == Errno::EPIPE => {
            TransferStep::SinkFailed(errno)
        }
        Err(errno) => TransferStep::SourceFailed(errno),
    })
}

fn readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    // A zero time-out asks without waiting.
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
}

fn buffer_once(
    bytes: &mut Vec<u8>,
    start: &mut usize,
    source: BorrowedFd<'_>,
    sink: BorrowedFd<'_>,
    moved: &mut u64,
) -> TransferStep {
    if *start == bytes.len() {
        bytes.resize(STEP, 0);
        *start = 0;
        let step = match read(source, bytes) {
            Ok(0) => TransferStep::SourceEnd,
            Ok(count) => {
                bytes.truncate(count);
                TransferStep::Moved
            }
            Err(Errno::EAGAIN | Errno::EINTR) => TransferStep::SourceEmpty,
            Err(errno) => TransferStep::SourceFailed(errno),
        };
        if step != TransferStep::Moved {
            bytes.clear();
            return step;
        }
    }
    match write(sink, &bytes[*start..]) {
        Ok(count) => {
            *moved += count as u64;
            *start += count;
            if *start < bytes.len() {
                TransferStep::SinkFull
            } else {
                TransferStep::Moved
            }
        }
        Err(Errno::EAGAIN | Errno::EINTR) => TransferStep::SinkFull,
        Err(errno) => TransferStep::SinkFailed(errno),
    }
}
