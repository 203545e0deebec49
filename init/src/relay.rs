//! The wrapper as `vsockexec -r` (protocol 16.1): a program whose output reaches a port of the host
//! even when the connection is lost. The wrapper stays the program's parent and carries its bytes.
//!
//! Bytes that a dead connection had accepted are lost, and none is sent twice.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{send, MsgFlags};
use nix::unistd::Pid;

use crate::args::Outputs;
use crate::{child, sys};

/// Milliseconds between two dials.
const PAUSE: u16 = 100;
/// What a pipe holds. As much may wait here too.
const PIECE: usize = 64 << 10;

/// Starts the program with its outputs on a pipe, and carries them to connections until the program
/// and all who have its outputs have ended. Returns the program's status, or 128 + the signal.
///
/// # Errors
/// There is no pipe or no process.
pub fn run(
    argv: &[CString],
    outputs: Outputs,
    dial: impl FnMut() -> io::Result<OwnedFd>,
) -> io::Result<i32> {
    let (from, to) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let program = start(argv, outputs, &to)?;
    drop(to);
    carry(&from, dial)?;
    Ok(child::reap_until(program))
}

fn start(argv: &[CString], outputs: Outputs, to: &OwnedFd) -> io::Result<Pid> {
    sys::fork(|| {
        let moved = match outputs {
            Outputs::Stdout => nix::unistd::dup2_stdout(to),
            Outputs::Stderr => nix::unistd::dup2_stderr(to),
            Outputs::Both => {
                nix::unistd::dup2_stdout(to).and_then(|()| nix::unistd::dup2_stderr(to))
            }
        };
        let errno = moved.err().unwrap_or_else(|| child::execute(argv));
        let program = argv.first().map(|name| name.to_string_lossy());
        log::error!("starting {}: {errno}", program.unwrap_or_default());
        child::NOT_FOUND
    })
}

/// Carries bytes from the pipe to its end. While there is no connection, one is dialled every
/// [`PAUSE`] whatever the reason, and the pipe fills.
///
/// # Errors
/// The pipe cannot be read.
fn carry(from: &OwnedFd, mut dial: impl FnMut() -> io::Result<OwnedFd>) -> io::Result<()> {
    let mut connection: Option<OwnedFd> = None;
    let mut buffer = vec![0; PIECE];
    // What of the buffer was read and not accepted by a connection.
    let mut waiting = 0..0;
    loop {
        connection = connection.or_else(|| dial().ok());
        if let Some(fd) = connection.as_ref().filter(|_| !waiting.is_empty()) {
            match send(
                fd.as_raw_fd(),
                &buffer[waiting.clone()],
                MsgFlags::MSG_NOSIGNAL,
            ) {
                Ok(sent) => waiting.start += sent,
                Err(Errno::EINTR) => {}
                Err(_) => connection = None,
            }
            continue;
        }
        if !ready(from, connection.as_ref(), waiting.is_empty())? {
            continue;
        }
        if connection.as_ref().is_some_and(is_lost) {
            // The host's new process waits for a connection, not for the next byte.
            connection = None;
        } else if waiting.is_empty() {
            match nix::unistd::read(from, &mut buffer) {
                Ok(0) => return Ok(()),
                Ok(got) => waiting = 0..got,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Waits for bytes, for the loss of the connection, or for the time to dial.
fn ready(from: &OwnedFd, connection: Option<&OwnedFd>, takes: bool) -> io::Result<bool> {
    let wanted = if takes {
        PollFlags::POLLIN
    } else {
        PollFlags::empty()
    };
    let mut fds = Vec::with_capacity(2);
    if takes {
        fds.push(PollFd::new(from.as_fd(), wanted));
    }
    fds.extend(connection.map(|fd| PollFd::new(fd.as_fd(), PollFlags::empty())));
    let limit = connection.map_or(PollTimeout::from(PAUSE), |_| PollTimeout::NONE);
    match poll(&mut fds, limit) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether both directions of the connection are over. A host that only says that it sends nothing
/// still reads.
fn is_lost(connection: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(connection.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|lost| lost > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::thread;

    /// The other ends of what is dialled, in order; a `None` is a port where nobody listens.
    fn dialler(
        ends: Vec<Option<UnixStream>>,
    ) -> (
        impl FnMut() -> io::Result<OwnedFd>,
        std::sync::Arc<std::sync::atomic::AtomicUsize>,
    ) {
        let count = std::sync::Arc::<std::sync::atomic::AtomicUsize>::default();
        let counted = count.clone();
        let mut ends = ends.into_iter();
        let dial = move || {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            match ends.next().flatten() {
                Some(end) => Ok(end.into()),
                None => Err(io::ErrorKind::ConnectionRefused.into()),
            }
        };
        (dial, count)
    }

    fn pipe() -> (OwnedFd, std::fs::File) {
        let (from, to) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        (from, to.into())
    }

    #[test]
    fn bytes_wait_for_a_listener() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        let (dial, _) = dialler(vec![None, None, Some(ours)]);
        let (from, mut to) = pipe();
        to.write_all(b"early").expect("room");
        drop(to);
        carry(&from, dial).expect("the pipe can be read");
        let mut got = String::new();
        theirs.read_to_string(&mut got).expect("text");
        assert_eq!(got, "early");
    }

    #[test]
    fn nothing_to_say_and_nobody_to_hear_it_is_the_end() {
        let (dial, _) = dialler(vec![]);
        let (from, to) = pipe();
        drop(to);
        carry(&from, dial).expect("the pipe can be read");
    }

    #[test]
    #[allow(
        clippy::disallowed_methods,
        reason = "the relay waits for the host, which is this test"
    )]
    fn a_lost_connection_is_dialled_again_before_the_next_byte() {
        let (first, mut host) = UnixStream::pair().expect("a pair");
        let (second, mut next) = UnixStream::pair().expect("a pair");
        let (dial, count) = dialler(vec![Some(first), None, Some(second)]);
        let (from, mut to) = pipe();
        let relay = thread::spawn(move || carry(&from, dial));
        to.write_all(b"one").expect("room");
        let mut got = [0; 3];
        host.read_exact(&mut got).expect("three bytes");
        assert_eq!(&got, b"one");
        drop(host);
        while count.load(std::sync::atomic::Ordering::SeqCst) < 3 {
            thread::yield_now();
        }
        to.write_all(b"two").expect("room");
        drop(to);
        let mut rest = String::new();
        next.read_to_string(&mut rest).expect("text");
        assert_eq!(rest, "two");
        relay
            .join()
            .expect("no panic")
            .expect("the pipe can be read");
    }

    #[test]
    fn status_signal_and_absence_are_passed_on() {
        let _children = sys::CHILDREN.lock();
        let run = |script: &[&str]| {
            let argv: Vec<CString> = script
                .iter()
                .map(|word| CString::new(*word).expect("no NUL"))
                .collect();
            let (ours, mut theirs) = UnixStream::pair().expect("a pair");
            let (dial, _) = dialler(vec![Some(ours)]);
            let status = run(&argv, Outputs::Both, dial).expect("a process");
            let mut said = String::new();
            theirs.read_to_string(&mut said).expect("text");
            (status, said)
        };
        let both = "echo out; echo err >&2; exit 7";
        assert_eq!(run(&["sh", "-c", both]), (7, "out\nerr\n".into()));
        assert_eq!(run(&["sh", "-c", "kill -9 $$"]), (137, String::new()));
        assert_eq!(run(&["no-such-program"]).0, child::NOT_FOUND);
    }
}
