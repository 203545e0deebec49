//! What a connection needs of a Unix stream, and what it says to epoll about it.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// A non-blocking byte stream.
pub trait Stream: Read + Write {
    fn shutdown(&self, how: Shutdown) -> std::io::Result<()>;
}

impl Stream for UnixStream {
    fn shutdown(&self, how: Shutdown) -> std::io::Result<()> {
        UnixStream::shutdown(self, how)
    }
}

/// What epoll reported.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ready {
    pub input: bool,
    pub output: bool,
    pub hang_up: bool,
}

/// What epoll shall watch; a hang-up is always reported while the stream is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    pub input: bool,
    pub output: bool,
}

impl Interest {
    pub const INPUT: Interest = Interest {
        input: true,
        output: false,
    };
}

/// Level-triggered epoll over ids.
#[derive(Debug)]
pub struct Poller {
    epoll: Epoll,
}

impl Poller {
    pub fn new() -> nix::Result<Poller> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Poller { epoll })
    }

    /// Moves `fd` from what is watched `now` to what is `wanted`; `None` is not at all.
    pub fn watch(
        &self,
        fd: impl AsFd,
        id: u64,
        now: Option<Interest>,
        wanted: Option<Interest>,
    ) -> nix::Result<()> {
        let fd = fd.as_fd();
        let Some(interest) = wanted else {
            return now.map_or(Ok(()), |_| self.epoll.delete(fd));
        };
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, interest.input);
        flags.set(EpollFlags::EPOLLOUT, interest.output);
        let mut event = EpollEvent::new(flags, id);
        match now {
            None => self.epoll.add(fd, event),
            Some(_) => self.epoll.modify(fd, &mut event),
        }
    }

    /// What is ready now, without waiting.
    pub fn ready(&self) -> nix::Result<Vec<(u64, Ready)>> {
        let mut events = [EpollEvent::empty(); 128];
        let n = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
        let seen = events[..n].iter().map(|event| {
            let flags = event.events();
            let ready = Ready {
                input: flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLERR),
                output: flags.intersects(EpollFlags::EPOLLOUT | EpollFlags::EPOLLERR),
                hang_up: flags.contains(EpollFlags::EPOLLHUP),
            };
            (event.data(), ready)
        });
        Ok(seen.collect())
    }

    /// The same as a number, which is what `vhost-user-backend` takes.
    pub fn raw(&self) -> RawFd {
        self.epoll.0.as_raw_fd()
    }
}

impl AsFd for Poller {
    /// Readable while something is ready.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}
