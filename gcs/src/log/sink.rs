//! Where log lines go: a descriptor that nothing waits for, with a bounded queue before it.
//!
//! Lines go out whole or not at all, because the host stops reading at the first thing that is not
//! JSON (P-301). A reader that stalls costs records and never time. When it reads again, a record
//! says how many were lost.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{send, MsgFlags};
use nix::sys::stat::{fstat, SFlag};
use nix::unistd::write;

/// The most bytes that wait for a slow reader.
const PENDING_MAX: usize = 256 << 10;
/// A pipe that polls writable takes this much without blocking (pipe(7), `PIPE_BUF`).
const PIECE: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SinkKind {
    /// Written with `MSG_DONTWAIT`; the descriptor's own flags do not matter.
    Socket,
    /// Pipe or terminal, possibly shared with others, so its flags are left alone.
    Stream,
    /// Never blocks for long and cannot be polled.
    File,
}

#[derive(Debug)]
pub struct Sink {
    fd: Rc<OwnedFd>,
    kind: SinkKind,
    pending: VecDeque<u8>,
    /// The lines in `pending`, the first one perhaps in part.
    lines: VecDeque<QueuedLine>,
    /// How many lines had no room since the last report, and the number of the first one.
    dropped: Option<(u64, u64)>,
}

#[derive(Debug, Clone, Copy)]
struct QueuedLine {
    /// The number of its record, or of the first record that it stands for.
    number: u64,
    /// Bytes not yet written.
    left: usize,
}

impl Sink {
    /// # Errors
    /// When the descriptor cannot be looked at.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let mode = SFlag::from_bits_truncate(fstat(&fd)?.st_mode) & SFlag::S_IFMT;
        let kind = match mode {
            SFlag::S_IFSOCK => SinkKind::Socket,
            SFlag::S_IFREG | SFlag::S_IFBLK => SinkKind::File,
            _ => SinkKind::Stream,
        };
        Ok(Self {
            fd: Rc::new(fd),
            kind,
            pending: VecDeque::new(),
            lines: VecDeque::new(),
            dropped: None,
        })
    }

    /// The descriptor, for a poller to hold as long as it watches it.
    pub fn descriptor(&self) -> Rc<OwnedFd> {
        Rc::clone(&self.fd)
    }

    pub fn wants_write(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Number of the first record that the reader has not got whole, if there is one.
    pub fn unsent(&self) -> Option<u64> {
        let waiting = self.lines.front().map(|line| line.number);
        waiting.or(self.dropped.map(|(_, first)| first))
    }

    /// How many lines were dropped since the last [`Sink::take_dropped`] that found room, and the
    /// number of the first one.
    pub fn take_dropped(&mut self, room: usize) -> Option<(u64, u64)> {
        let fits = self.pending.len() + room <= PENDING_MAX;
        self.dropped.take_if(|_| fits)
    }

    /// Queues the whole line of the record with that number, or counts it when the queue is full.
    pub fn push(&mut self, number: u64, line: &str) {
        if self.pending.len() + line.len() > PENDING_MAX {
            let (count, _) = self.dropped.get_or_insert((0, number));
            *count += 1;
        } else {
            self.pending.extend(line.as_bytes());
            let left = line.len();
            self.lines.push_back(QueuedLine { number, left });
        }
    }

    /// Writes what can be written now.
    ///
    /// # Errors
    /// The reader is gone; the sink is of no further use.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.pending.is_empty() {
            match self.write_piece() {
                Ok(0) | Err(Errno::EAGAIN) => break,
                Ok(written) => {
                    self.pending.drain(..written);
                    self.settle(written);
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if self.pending.is_empty() {
            // The memory of a burst must not stay in use for ever.
            self.pending.shrink_to(PIECE);
            self.lines.shrink_to(PIECE / size_of::<QueuedLine>());
        }
        Ok(())
    }

    fn settle(&mut self, mut written: usize) {
        while let Some(line) = self.lines.front_mut() {
            if line.left > written {
                line.left -= written;
                return;
            }
            written -= line.left;
            self.lines.pop_front();
        }
    }

    fn write_piece(&self) -> Result<usize, Errno> {
        let (piece, _) = self.pending.as_slices();
        match self.kind {
            SinkKind::Socket => send(
                self.fd.as_raw_fd(),
                piece,
                MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
            ),
            SinkKind::File => write(&*self.fd, piece),
            SinkKind::Stream => {
                let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut fds, PollTimeout::ZERO)? == 0 {
                    return Err(Errno::EAGAIN);
                }
                write(&*self.fd, &piece[..piece.len().min(PIECE)])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_stalled_reader_gets_whole_lines_and_the_count_of_the_rest() {
        let (ours, mut theirs) = UnixStream::pair().expect("a socket pair");
        let mut sink = Sink::new(ours.into()).expect("a socket");
        let line = format!("{}\n", "x".repeat(999));
        for number in 0..2000 {
            sink.push(number, &line);
            sink.flush().expect("the reader is there");
        }
        assert!(sink.wants_write());
        assert_eq!(sink.take_dropped(PENDING_MAX), None, "no room yet");
        theirs.set_nonblocking(true).expect("a flag");
        let mut seen = Vec::new();
        while sink.wants_write() {
            theirs.read_to_end(&mut seen).err();
            sink.flush().expect("the reader is there");
        }
        theirs.read_to_end(&mut seen).err();
        assert_eq!(seen.len() % line.len(), 0);
        let whole = (seen.len() / line.len()) as u64;
        assert_eq!(sink.unsent(), Some(whole));
        assert_eq!(sink.take_dropped(0), Some((2000 - whole, whole)));
        assert_eq!((sink.take_dropped(0), sink.unsent()), (None, None));
    }

    #[test]
    fn a_line_is_unsent_until_its_last_byte() {
        let (ours, mut theirs) = UnixStream::pair().expect("a socket pair");
        nix::sys::socket::setsockopt(&ours, nix::sys::socket::sockopt::SndBuf, &4096)
            .expect("a smaller buffer");
        let mut sink = Sink::new(ours.into()).expect("a socket");
        for number in 10..60 {
            sink.push(number, &format!("{}\n", "z".repeat(499)));
        }
        theirs.set_nonblocking(true).expect("a flag");
        let mut seen = Vec::new();
        while sink.wants_write() {
            sink.flush().expect("the reader is there");
            theirs.read_to_end(&mut seen).err();
            let whole = (seen.len() / 500) as u64;
            assert_eq!(sink.unsent(), (whole < 50).then_some(10 + whole));
        }
    }

    #[test]
    fn a_gone_reader_is_an_error_and_no_signal() {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        drop(theirs);
        let mut sink = Sink::new(ours.into()).expect("a socket");
        sink.push(0, "x\n");
        sink.flush().expect_err("nobody reads");
    }

    #[test]
    fn a_full_blocking_pipe_does_not_block_us() {
        let (reader, writer) = nix::unistd::pipe().expect("a pipe");
        let mut sink = Sink::new(writer).expect("a pipe end");
        for _ in 0..100 {
            sink.push(0, &"y".repeat(1999));
            sink.flush().expect("the reader is there");
        }
        assert!(sink.wants_write());
        drop(reader);
    }
}
