//! The connections to the host that the boot needs before the loop runs: entropy and log.
//!
//! They are dialled only in a utility VM, see [`crate::guest`].

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use embedded_hal::delay::DelayNs;
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::sockopt::SocketError;
use nix::sys::socket::{connect, getsockopt, socket, AddressFamily, SockFlag, SockType, VsockAddr};

use crate::guest::Guest;
use crate::settle;

/// The host's context id (vsock(7)).
const HOST: u32 = 2;
/// How long a connect may take that nobody answers. The kernel's own limit is 2 s.
const LIMIT: Duration = Duration::from_secs(5);
/// The transport's driver may still be coming up when PID 1 starts.
const SETTLE_PAUSE_US: u32 = 2_000;
const SETTLE_LIMIT_US: u64 = 2_000_000;

/// A connect that was begun. It can be finished any time later.
#[derive(Debug)]
pub struct Dialling {
    fd: OwnedFd,
    since: Instant,
}

impl Dialling {
    /// The connection, once the host has accepted it; the descriptor is non-blocking.
    ///
    /// # Errors
    /// `ECONNRESET` nobody listens, `ETIMEDOUT` no answer.
    pub fn finish(self) -> io::Result<OwnedFd> {
        // The descriptor is polled at least once, however long the caller was busy.
        if !wait(&self.fd, PollFlags::POLLOUT, self.since + LIMIT)? {
            return Err(Errno::ETIMEDOUT.into());
        }
        match getsockopt(&self.fd, SocketError)? {
            0 => Ok(self.fd),
            errno => Err(Errno::from_raw(errno).into()),
        }
    }
}

/// Begins to connect to a port of the host. Waits for the vsock transport to appear, but not for a
/// listener: these connections are attempted once.
///
/// # Errors
/// `ENODEV` no transport.
pub fn begin(_: Guest, delay: &mut impl DelayNs, port: u32) -> io::Result<Dialling> {
    settle::until(delay, SETTLE_PAUSE_US, SETTLE_LIMIT_US, || {
        match attempt(port) {
            Err(Errno::ENODEV) => ControlFlow::Continue(Errno::ENODEV.into()),
            other => ControlFlow::Break(other.map_err(io::Error::from)),
        }
    })
    .unwrap_or_else(Err)
}

/// [`begin`] and [`Dialling::finish`] at once.
///
/// # Errors
/// As theirs.
pub fn dial(guest: Guest, delay: &mut impl DelayNs, port: u32) -> io::Result<OwnedFd> {
    begin(guest, delay, port)?.finish()
}

fn attempt(port: u32) -> Result<Dialling, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
    let since = Instant::now();
    match connect(fd.as_raw_fd(), &VsockAddr::new(HOST, port)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(Dialling { fd, since }),
        Err(errno) => Err(errno),
    }
}

/// Whether the descriptor becomes ready before the deadline.
///
/// # Errors
/// Those of poll(2).
pub fn wait(fd: &impl AsFd, events: PollFlags, deadline: Instant) -> Result<bool, Errno> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // It is rounded up, because a wait of 0.3 ms must not become a busy loop.
        let left = PollTimeout::try_from(left + Duration::from_millis(1));
        let mut fds = [PollFd::new(fd.as_fd(), events)];
        match poll(&mut fds, left.unwrap_or(PollTimeout::MAX)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// One connection per standard stream that has a port; equal ports share one connection (P-299).
///
/// # Errors
/// The first port that could not be reached.
pub fn streams(
    ports: [Option<u32>; 3],
    mut dial: impl FnMut(u32) -> io::Result<OwnedFd>,
) -> Result<[Option<OwnedFd>; 3], (u32, io::Error)> {
    let mut fds: [Option<OwnedFd>; 3] = [None, None, None];
    for index in 0..ports.len() {
        let Some(port) = ports[index] else { continue };
        let shared = ports[..index]
            .iter()
            .position(|earlier| *earlier == Some(port));
        let fd = match shared.and_then(|earlier| fds[earlier].as_ref()) {
            Some(fd) => fd.try_clone(),
            None => dial(port),
        };
        fds[index] = Some(fd.map_err(|error| (port, error))?);
    }
    Ok(fds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_ports_share_a_connection() {
        let mut dialled = Vec::new();
        let mut dial = |port| {
            dialled.push(port);
            Ok(std::fs::File::open("/dev/null")?.into())
        };
        let fds = streams([None, Some(109), Some(109)], &mut dial).expect("all answer");
        assert!(fds[0].is_none() && fds[1].is_some() && fds[2].is_some());
        streams([Some(1), Some(2), Some(1)], &mut dial).expect("all answer");
        assert_eq!(dialled, [109, 1, 2]);
    }

    #[test]
    fn a_port_that_does_not_answer_is_named() {
        let dial = |port| match port {
            1 => Ok(std::fs::File::open("/dev/null")?.into()),
            _ => Err(io::ErrorKind::ConnectionRefused.into()),
        };
        let (port, error) = streams([Some(1), None, Some(7)], dial).expect_err("7 does not");
        assert_eq!((port, error.kind()), (7, io::ErrorKind::ConnectionRefused));
    }
}
