//! Readiness and time for the one loop: descriptors with derived interest, and deadlines.
//!
//! It is level triggered, so the next turn sees what one turn has left. Tokens never repeat, so an
//! event of a descriptor that was closed in the same batch is ignored. A registration must be ended
//! before its descriptor is closed, because a forked child may still hold a copy, and epoll follows
//! the open file and not the number.

mod timer;

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

pub use timer::{TimerKey, Timers};

/// The events of a descriptor that its owner wants. With neither there are no events, not even
/// hang-ups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interest {
    pub read: bool,
    pub write: bool,
}

impl Interest {
    pub const NONE: Self = Self {
        read: false,
        write: false,
    };
    pub const READ: Self = Self {
        read: true,
        write: false,
    };
    pub const WRITE: Self = Self {
        read: false,
        write: true,
    };

    fn flags(self) -> EpollFlags {
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, self.read);
        flags.set(EpollFlags::EPOLLOUT, self.write);
        flags
    }
}

/// One descriptor's entry, kept beside the descriptor by its owner.
#[derive(Debug, Default)]
pub struct Registration {
    entry: Option<(u64, Interest)>,
}

/// The epoll set. `S` names what became ready.
pub struct Poller<S> {
    epoll: Epoll,
    next_token: u64,
    sources: HashMap<u64, S>,
}

/// The most events handled in one turn. The rest waits for the next turn, so that no source starves
/// the others.
const EVENTS_PER_TURN: usize = 64;

impl<S: Copy> Poller<S> {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            next_token: 0,
            sources: HashMap::new(),
        })
    }

    /// Makes the kernel's view of `fd` equal to `want`; cheap when nothing changed.
    pub fn watch(
        &mut self,
        registration: &mut Registration,
        fd: BorrowedFd<'_>,
        want: Interest,
        source: S,
    ) -> io::Result<()> {
        match registration.entry {
            Some((_, have)) if have == want => Ok(()),
            Some(_) if want == Interest::NONE => self.forget(registration, fd),
            Some((token, _)) => {
                let mut event = EpollEvent::new(want.flags(), token);
                self.epoll.modify(fd, &mut event)?;
                registration.entry = Some((token, want));
                Ok(())
            }
            None if want == Interest::NONE => Ok(()),
            None => {
                let token = self.next_token;
                self.next_token += 1;
                self.epoll.add(fd, EpollEvent::new(want.flags(), token))?;
                self.sources.insert(token, source);
                registration.entry = Some((token, want));
                Ok(())
            }
        }
    }

    /// Ends the registration; to be called before `fd` is closed.
    pub fn forget(
        &mut self,
        registration: &mut Registration,
        fd: BorrowedFd<'_>,
    ) -> io::Result<()> {
        if let Some((token, _)) = registration.entry.take() {
            self.sources.remove(&token);
            self.epoll.delete(fd)?;
        }
        Ok(())
    }

    /// Waits until something is ready or `deadline` is reached, and names what is.
    pub fn wait(&mut self, deadline: Option<Instant>) -> io::Result<Vec<S>> {
        let timeout = deadline.map_or(EpollTimeout::NONE, |at| {
            let left = at.saturating_duration_since(Instant::now());
            // Rounded up, so that a timer is due when the wait ends.
            let millis = left.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128);
            EpollTimeout::try_from(millis as i32).unwrap_or(EpollTimeout::MAX)
        });
        let mut events = [EpollEvent::empty(); EVENTS_PER_TURN];
        let count = match self.epoll.wait(&mut events, timeout) {
            Err(nix::errno::Errno::EINTR) => 0,
            other => other?,
        };
        Ok(events[..count]
            .iter()
            .filter_map(|e| self.sources.get(&e.data()).copied())
            .collect())
    }

    /// Registered descriptors, for the state dump.
    pub fn len(&self) -> usize {
        self.sources.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_descriptor_without_interest_is_silent_even_when_hung_up() {
        let mut poller = Poller::new().unwrap();
        let (a, mut b) = UnixStream::pair().unwrap();
        let mut registration = Registration::default();
        poller
            .watch(&mut registration, a.as_fd(), Interest::READ, 'a')
            .unwrap();
        b.write_all(b"x").unwrap();
        assert_eq!(poller.wait(Some(Instant::now())).unwrap(), ['a']);
        poller
            .watch(&mut registration, a.as_fd(), Interest::NONE, 'a')
            .unwrap();
        drop(b);
        assert!(poller.wait(Some(Instant::now())).unwrap().is_empty());
        poller
            .watch(&mut registration, a.as_fd(), Interest::READ, 'b')
            .unwrap();
        assert_eq!(poller.wait(Some(Instant::now())).unwrap(), ['b']);
    }

    #[test]
    fn a_closed_descriptor_with_a_living_copy_is_not_reported() {
        let mut poller = Poller::new().unwrap();
        let (a, mut b) = UnixStream::pair().unwrap();
        let copy = a.try_clone().unwrap();
        let mut registration = Registration::default();
        poller
            .watch(&mut registration, a.as_fd(), Interest::READ, 1)
            .unwrap();
        poller.forget(&mut registration, a.as_fd()).unwrap();
        drop(a);
        b.write_all(b"x").unwrap();
        assert!(poller.wait(Some(Instant::now())).unwrap().is_empty());
        assert!(poller.is_empty());
        drop(copy);
    }
}
