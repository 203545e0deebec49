//! Random bytes from the host for the kernel's pool, before anything needs them (P-292). A
//! machine without them still works, only its first keys wait for other sources.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::unistd::read;

use crate::vsock::Dialling;
use crate::{sys, vsock};

/// The host writes 512 bytes and closes. A host that keeps the connection open must not delay the
/// boot longer than this.
const LIMIT: Duration = Duration::from_secs(3);
/// The most bytes that are fed at a time (protocol 10.1).
const PIECE: usize = 4096;

/// Reads the connection to `port` to its end into `/dev/random`. Logs the result.
///
/// # Errors
/// As it was logged.
pub fn fetch(port: u32, dialling: io::Result<Dialling>) -> Result<(), String> {
    let result = dialling.and_then(Dialling::finish).and_then(|connection| {
        let random = OpenOptions::new().write(true).open("/dev/random")?;
        drain(&connection, Instant::now() + LIMIT, |piece| {
            sys::add_entropy(random.as_fd(), piece)
        })
    });
    match result {
        Ok(bytes) => {
            log::debug!(bytes = bytes; "entropy from the host");
            Ok(())
        }
        Err(error) => {
            let text = format!("no entropy from the host: {error}; going on without it");
            log::warn!(port = port; "{text}");
            Err(text)
        }
    }
}

/// Gives every piece that arrives to `feed` until the end of the stream. Returns the number of
/// bytes.
///
/// # Errors
/// `TimedOut` at the deadline, else those of the connection or of `feed`.
fn drain(
    connection: &OwnedFd,
    deadline: Instant,
    mut feed: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<usize> {
    let mut buffer = [0; PIECE];
    let mut total = 0;
    while Instant::now() < deadline && vsock::wait(connection, PollFlags::POLLIN, deadline)? {
        match read(connection, &mut buffer) {
            Ok(0) => return Ok(total),
            Ok(got) => {
                feed(&buffer[..got])?;
                total += got;
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        format!("the stream did not end in time, {total} bytes came"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[test]
    fn everything_to_the_end_in_bounded_pieces() {
        let (ours, mut theirs) = UnixStream::pair().expect("a socket pair");
        let sent: Vec<u8> = (0..10_000_u32).map(|n| n as u8).collect();
        theirs.write_all(&sent).expect("room");
        drop(theirs);
        let mut got = Vec::new();
        let total = drain(&ours.into(), soon(), |piece| {
            assert!(piece.len() <= PIECE);
            got.extend_from_slice(piece);
            Ok(())
        });
        assert_eq!((total.ok(), got), (Some(sent.len()), sent));
    }

    #[test]
    fn a_stream_without_end_is_left_at_the_deadline() {
        let (ours, mut theirs) = UnixStream::pair().expect("a socket pair");
        theirs.write_all(b"abc").expect("room");
        let mut fed = 0;
        let error = drain(
            &ours.into(),
            Instant::now() + Duration::from_millis(50),
            |piece| {
                fed += piece.len();
                Ok(())
            },
        )
        .expect_err("it does not end");
        assert_eq!((error.kind(), fed), (io::ErrorKind::TimedOut, 3));
    }

    #[test]
    fn a_pool_that_refuses_is_an_error() {
        let (ours, mut theirs) = UnixStream::pair().expect("a socket pair");
        theirs.write_all(b"abc").expect("room");
        let refuse = |_: &[u8]| Err(io::ErrorKind::PermissionDenied.into());
        let error = drain(&ours.into(), soon(), refuse).expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }
}
