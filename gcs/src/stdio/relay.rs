//! All streams of one process.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::stream::{Side, Stream};
use crate::reactor::{Poller, Registration};

/// Names a stream within its relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamKind {
    Stdin,
    Stdout,
    Stderr,
}

impl StreamKind {
    pub const ALL: [Self; 3] = [Self::Stdin, Self::Stdout, Self::Stderr];
}

struct Watched {
    stream: Box<dyn Stream>,
    connection: Registration,
    process: Registration,
}

/// The streams of one process, from its start until they are drained.
#[derive(Default)]
pub struct Relay {
    streams: [Option<Watched>; 3],
    /// Connections that carry nothing and are closed with the others (the stderr of a terminal).
    pub idle: Vec<OwnedFd>,
    /// The terminal of the process, for its size.
    pub terminal: Option<OwnedFd>,
}

impl Relay {
    pub fn add(&mut self, kind: StreamKind, stream: impl Stream + 'static) {
        self.streams[kind as usize] = Some(Watched {
            stream: Box::new(stream),
            connection: Registration::default(),
            process: Registration::default(),
        });
    }

    /// Does one step of the stream that became ready, then registers its new interest.
    pub fn advance<S: Copy>(
        &mut self,
        kind: StreamKind,
        poller: &mut Poller<S>,
        source: impl Fn(StreamKind) -> S,
    ) -> io::Result<()> {
        if let Some(watched) = &mut self.streams[kind as usize] {
            if let Some((side, fd)) = watched.stream.advance() {
                let registration = match side {
                    Side::Connection => &mut watched.connection,
                    Side::Process => &mut watched.process,
                };
                poller.forget(registration, fd.as_fd())?;
            }
        }
        self.watch(poller, source)
    }

    /// Registers what is awaited now, and drops finished streams.
    pub fn watch<S: Copy>(
        &mut self,
        poller: &mut Poller<S>,
        source: impl Fn(StreamKind) -> S,
    ) -> io::Result<()> {
        for kind in StreamKind::ALL {
            let Some(Watched {
                stream,
                connection,
                process,
            }) = &mut self.streams[kind as usize]
            else {
                continue;
            };
            for (side, registration) in [(Side::Connection, connection), (Side::Process, process)] {
                if let Some(fd) = stream.fd(side) {
                    poller.watch(registration, fd, stream.interest(side), source(kind))?;
                }
            }
            // A finished stream has no interest left, so nothing is registered any more.
            if stream.is_done() {
                self.streams[kind as usize] = None;
            }
        }
        Ok(())
    }

    /// Looks again at a terminal that nobody had open. Returns whether there is one, so that the
    /// caller has to come again.
    pub fn look_again<S: Copy>(
        &mut self,
        poller: &mut Poller<S>,
        source: impl Fn(StreamKind) -> S,
    ) -> io::Result<bool> {
        let mut hung_up = false;
        for watched in self.streams.iter_mut().flatten() {
            hung_up |= watched.stream.look_again();
        }
        self.watch(poller, source)?;
        Ok(hung_up)
    }

    /// The process was reaped. Ends its stdin and lets the rest of its output arrive.
    pub fn finish<S: Copy>(
        &mut self,
        poller: &mut Poller<S>,
        source: impl Fn(StreamKind) -> S,
    ) -> io::Result<()> {
        for watched in self.streams.iter_mut().flatten() {
            watched.stream.finish();
        }
        self.watch(poller, source)
    }

    /// The process was reaped a while ago, and its output is not at its end: ends it after what is
    /// there now. Returns what others may still write to.
    pub fn cut<S: Copy>(
        &mut self,
        poller: &mut Poller<S>,
        source: impl Fn(StreamKind) -> S,
    ) -> io::Result<Vec<OwnedFd>> {
        let streams = self.streams.iter_mut().flatten();
        let left = streams.filter_map(|watched| watched.stream.cut()).collect();
        self.watch(poller, source)?;
        Ok(left)
    }

    /// Whether every stream is at its end, so that dropping the relay loses nothing.
    pub fn is_done(&self) -> bool {
        self.streams.iter().all(Option::is_none)
    }

    /// Closes everything at once. Bytes that were not moved yet are lost.
    pub fn abandon<S: Copy>(mut self, poller: &mut Poller<S>) -> io::Result<()> {
        for Watched {
            stream,
            connection,
            process,
        } in self.streams.iter_mut().flatten()
        {
            for (side, registration) in [(Side::Connection, connection), (Side::Process, process)] {
                if let Some(fd) = stream.fd(side) {
                    poller.forget(registration, fd)?;
                }
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (kind, watched) in StreamKind::ALL.iter().zip(&self.streams) {
            match watched {
                Some(watched) => write!(f, "{kind:?}={} ", watched.stream.describe())?,
                None => write!(f, "{kind:?}=- ")?,
            }
        }
        Ok(())
    }
}
