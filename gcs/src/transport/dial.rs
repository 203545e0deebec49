//! The dial policy of protocol section 1.1 as a state machine. Ports are dialled in the given
//! order, one after another (P-150). After `ETIMEDOUT` a port is tried again after a pause, ten
//! times at most; any other error ends the dial at once (P-016).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

use super::{connect_outcome, Connecting, Dialer};

const ATTEMPTS: u32 = 10;
/// Pause after a connect that timed out.
pub const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// A connect has failed when it is neither refused nor accepted for this long. The kernel's own
/// limit for vsock is two seconds; other sockets have none.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Why a port could not be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("connecting to port {port} of the host: {errno} (is something listening there?)")]
pub struct DialFailure {
    pub port: u32,
    pub errno: Errno,
}

enum DialState {
    /// The connect is to be begun, at once or at the given time.
    Idle(Option<Instant>),
    Connecting {
        fd: OwnedFd,
        until: Instant,
    },
}

/// A dial of several ports in progress. Dropping it closes what was opened.
pub struct Dial {
    dialer: Dialer,
    ports: Vec<u32>,
    open: Vec<OwnedFd>,
    attempt: u32,
    state: DialState,
}

/// What a dial needs next.
pub enum DialStep<'a> {
    /// Call again when the descriptor is writable, or at the time given.
    Writable(&'a OwnedFd, Instant),
    /// Call again at this time.
    Pause(Instant),
    /// All connections, in the order of the ports.
    Done(Vec<OwnedFd>),
    Failed(DialFailure),
}

impl Dial {
    pub fn new(dialer: Dialer, ports: Vec<u32>) -> Self {
        Self {
            dialer,
            ports,
            open: Vec::new(),
            attempt: 1,
            state: DialState::Idle(None),
        }
    }

    /// Goes as far as it can without waiting. `ready`: the descriptor was reported writable.
    pub fn advance(&mut self, ready: bool, now: Instant) -> DialStep<'_> {
        let mut ready = ready;
        loop {
            let Some(&port) = self.ports.get(self.open.len()) else {
                return DialStep::Done(std::mem::take(&mut self.open));
            };
            let outcome = match std::mem::replace(&mut self.state, DialState::Idle(None)) {
                DialState::Idle(Some(at)) if now < at => {
                    self.state = DialState::Idle(Some(at));
                    return DialStep::Pause(at);
                }
                DialState::Idle(_) => match self.dialer.connect(port) {
                    Ok(Connecting::Done(fd)) => Ok(fd),
                    Ok(Connecting::Pending(fd)) => {
                        self.state = DialState::Connecting {
                            fd,
                            until: now + CONNECT_LIMIT,
                        };
                        ready = false;
                        continue;
                    }
                    Err(errno) => Err(errno),
                },
                DialState::Connecting { fd, .. } if ready => connect_outcome(&fd).map(|()| fd),
                DialState::Connecting { until, .. } if now >= until => Err(Errno::ETIMEDOUT),
                waiting @ DialState::Connecting { .. } => {
                    self.state = waiting;
                    let DialState::Connecting { fd, until } = &self.state else {
                        unreachable!("the state was just put back")
                    };
                    return DialStep::Writable(fd, *until);
                }
            };
            ready = false;
            match outcome {
                Ok(fd) => {
                    self.open.push(fd);
                    self.attempt = 1;
                }
                Err(Errno::ETIMEDOUT) if self.attempt < ATTEMPTS => {
                    self.attempt += 1;
                    self.state = DialState::Idle(Some(now + RETRY_PAUSE));
                }
                Err(errno) => return DialStep::Failed(DialFailure { port, errno }),
            }
        }
    }

    /// The descriptor whose readiness is awaited.
    pub fn pending(&self) -> Option<&OwnedFd> {
        match &self.state {
            DialState::Connecting { fd, .. } => Some(fd),
            DialState::Idle(_) => None,
        }
    }
}

/// Connects to one port and waits for it. This is for a task, or for the time before the loop runs.
///
/// # Errors
/// The port cannot be reached, or not within `limit`.
pub fn connect_within(dialer: &Dialer, port: u32, limit: Instant) -> io::Result<OwnedFd> {
    let mut dial = Dial::new(dialer.clone(), vec![port]);
    let mut ready = false;
    loop {
        let until = |at: Instant| {
            let left = at.min(limit).saturating_duration_since(Instant::now());
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        };
        match dial.advance(ready, Instant::now()) {
            DialStep::Done(mut fds) => return Ok(fds.remove(0)),
            DialStep::Failed(failure) => return Err(failure.into()),
            _ if Instant::now() >= limit => return Err(io::ErrorKind::TimedOut.into()),
            DialStep::Writable(fd, at) => {
                let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
                ready = poll(&mut fds, until(at))? > 0;
            }
            DialStep::Pause(at) => {
                poll(&mut [], until(at))?;
                ready = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn ports_are_dialled_in_order_and_one_without_listener_fails_the_dial() {
        let dir = tempfile::tempdir().unwrap();
        let prefix = dir.path().join("v");
        let dialer = Dialer::Unix {
            prefix: prefix.clone(),
        };
        let listen = |port| UnixListener::bind(format!("{}_{port}", prefix.display())).unwrap();
        let listeners = [listen(7), listen(5)];
        match Dial::new(dialer.clone(), vec![7, 5]).advance(false, Instant::now()) {
            DialStep::Done(fds) => assert_eq!(fds.len(), 2),
            _ => panic!("both ports have a listener"),
        }
        for listener in &listeners {
            listener.accept().unwrap();
        }
        match Dial::new(dialer, vec![7, 6]).advance(false, Instant::now()) {
            DialStep::Failed(failure) => {
                assert_eq!(
                    failure,
                    DialFailure {
                        port: 6,
                        errno: Errno::ENOENT
                    }
                );
            }
            _ => panic!("nobody listens on port 6"),
        }
        // The connection opened before the failure is closed again (P-152).
        use std::io::Read;
        let mut stream = listeners[0].accept().unwrap().0;
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
}
