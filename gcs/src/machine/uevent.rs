//! Kernel events about devices (`NETLINK_KOBJECT_UEVENT`, netlink(7)): a device that is not
//! there yet is waited for by its event, never by polling.
//!
//! The order that loses nothing: look, subscribe, look *again*, then wait. A device that
//! arrives between the first look and the subscription is seen by the second.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{
    bind, recvmsg, socket, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType,
};

use crate::error::Failure;

/// The multicast group the kernel itself sends to; udev daemons use another.
const KERNEL_GROUP: u32 = 1;
/// The kernel allows 2 KiB of variables and a path in front (`UEVENT_BUFFER_SIZE`).
const LARGEST: usize = 8 * 1024;

/// One event: what happened to which device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uevent {
    /// `add`, `remove`, `change`, `move`, `online`, `offline`, `bind`, `unbind`.
    pub action: String,
    /// The device below `/sys`, with a leading slash.
    pub devpath: String,
    /// `block`, `net`, `scsi`, `vmbus`, ...; empty when the kernel sent none.
    pub subsystem: String,
}

impl Uevent {
    /// Decodes one datagram: `ACTION@DEVPATH` and then `KEY=VALUE`, each ended by a NUL.
    /// None for what is not a kernel event.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut variables = datagram.split(|byte| *byte == 0);
        let head = variables.next()?;
        let at = head.iter().position(|byte| *byte == b'@')?;
        let subsystem = variables
            .find_map(|variable| variable.strip_prefix(b"SUBSYSTEM="))
            .unwrap_or_default();
        Some(Self {
            action: text(&head[..at]),
            devpath: text(&head[at + 1..]),
            subsystem: text(subsystem),
        })
    }
}

/// Which events are worth another look.
pub trait Matcher {
    fn is_match(&self, event: &Uevent) -> bool;
}

/// A device that the host has attached and that the kernel may not have made yet.
pub trait Device: Matcher {
    /// Whether the kernel has made it. It may not be ready. Does not block.
    fn is_announced(&self) -> bool;
    /// The failure that it has not appeared after this wait. `None` when it is there. May block.
    fn missing(&self, waited: Duration) -> Option<Failure>;
}

/// How a wait for the next event has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    Event(Uevent),
    /// Events were lost (the socket's buffer ran over): anything may have happened.
    Lost,
    Deadline,
}

/// A subscription; events that happen after its creation are not missed.
pub trait EventSource {
    fn next(&mut self, deadline: Instant) -> io::Result<Next>;
}

/// The subscription to the kernel's own events.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    pub fn subscribe() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkKObjectUEvent,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
        Ok(Self(socket))
    }

    /// What is there now, without waiting; none when nothing is.
    pub fn receive(&self) -> io::Result<Option<Next>> {
        let mut buffer = [0; LARGEST];
        loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let message = recvmsg::<NetlinkAddr>(
                self.0.as_raw_fd(),
                &mut parts,
                None,
                MsgFlags::MSG_DONTWAIT,
            );
            let (bytes, from_kernel) = match message {
                Ok(message) if message.flags.contains(MsgFlags::MSG_TRUNC) => {
                    return Ok(Some(Next::Lost));
                }
                // Any privileged process can send to the group; only port 0 is the kernel.
                Ok(message) => (
                    message.bytes,
                    message.address.is_some_and(|from| from.pid() == 0),
                ),
                Err(Errno::ENOBUFS) => return Ok(Some(Next::Lost)),
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            if let Some(event) = Uevent::parse(&buffer[..bytes]).filter(|_| from_kernel) {
                return Ok(Some(Next::Event(event)));
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl EventSource for Socket {
    fn next(&mut self, deadline: Instant) -> io::Result<Next> {
        loop {
            if let Some(next) = self.receive()? {
                return Ok(next);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Next::Deadline);
            }
            // Rounded up, so that the last wait does not turn into a busy loop.
            let timeout = u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX);
            let mut ready = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, PollTimeout::from(timeout)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Looks until `look` finds something or the deadline passes (then none). `subscribe` is only
/// called when the first look finds nothing.
///
/// # Errors
/// What `look` fails with, and device events that cannot be had.
pub fn wait_for<T, S: EventSource>(
    subscribe: impl FnOnce() -> io::Result<S>,
    matcher: &impl Matcher,
    deadline: Instant,
    mut look: impl FnMut() -> Result<Option<T>, Failure>,
) -> Result<Option<T>, Failure> {
    let no_events =
        |error: io::Error| Failure::unspecified(format!("cannot wait for device events: {error}"));
    if let Some(found) = look()? {
        return Ok(Some(found));
    }
    let mut events = subscribe().map_err(no_events)?;
    loop {
        if let Some(found) = look()? {
            return Ok(Some(found));
        }
        loop {
            match events.next(deadline).map_err(no_events)? {
                Next::Event(event) if !matcher.is_match(&event) => {}
                Next::Event(_) | Next::Lost => break,
                Next::Deadline => return look(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Disks;

    impl Matcher for Disks {
        fn is_match(&self, event: &Uevent) -> bool {
            event.subsystem == "block"
        }
    }

    struct Script(Vec<Next>);

    impl EventSource for Script {
        fn next(&mut self, _: Instant) -> io::Result<Next> {
            Ok(if self.0.is_empty() {
                Next::Deadline
            } else {
                self.0.remove(0)
            })
        }
    }

    fn event(subsystem: &str) -> Next {
        Next::Event(Uevent {
            action: "add".into(),
            devpath: "/devices/x".into(),
            subsystem: subsystem.into(),
        })
    }

    #[test]
    fn kernel_datagrams_are_decoded() {
        let datagram = b"add@/devices/a/host2/0:0:0:1/block/sda\0ACTION=add\0\
            DEVPATH=/devices/a/host2/0:0:0:1/block/sda\0SUBSYSTEM=block\0MAJOR=8\0SEQNUM=9\0";
        let event = Uevent::parse(datagram).unwrap();
        assert_eq!(event.action, "add");
        assert_eq!(event.devpath, "/devices/a/host2/0:0:0:1/block/sda");
        assert_eq!(event.subsystem, "block");
        // A daemon's own format, and rubbish.
        assert_eq!(Uevent::parse(b"libudev\0\xfe\xed\xca\xfe"), None);
        assert_eq!(Uevent::parse(b""), None);
    }

    #[test]
    fn looks_before_and_after_the_subscription_and_after_each_match() {
        // (events, look that succeeds, looks expected)
        let table: [(&[Next], usize, Option<usize>); 5] = [
            (&[], 1, Some(1)),
            (&[], 2, Some(2)),
            (&[event("net"), event("block")], 3, Some(3)),
            (&[event("net"), Next::Lost], 3, Some(3)),
            (&[event("net"), event("block")], 9, None),
        ];
        for (row, (events, succeeds, expected)) in table.into_iter().enumerate() {
            let mut looks = 0;
            let found = wait_for(
                || Ok(Script(events.to_vec())),
                &Disks,
                Instant::now(),
                || {
                    looks += 1;
                    Ok((looks == succeeds).then_some(looks))
                },
            );
            assert_eq!(found.unwrap(), expected, "row {row}");
        }
    }

    #[test]
    fn the_socket_reports_its_deadline() {
        let mut socket = match Socket::subscribe() {
            Ok(socket) => socket,
            Err(error) => {
                println!("SKIPPED: the_socket_reports_its_deadline: no uevent socket: {error}");
                return;
            }
        };
        let deadline = Instant::now() + Duration::from_millis(20);
        while socket.next(deadline).unwrap() != Next::Deadline {}
        assert!(Instant::now() >= deadline);
    }
}
