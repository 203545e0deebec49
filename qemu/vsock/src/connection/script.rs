//! The host side of a connection as a script, for tests.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;

use crate::stream::Stream;

/// What the host side does: bytes to be read, and room to write into.
#[derive(Debug, Default)]
pub struct Script {
    pub input: VecDeque<u8>,
    /// After `input`: end of stream instead of `WouldBlock`.
    pub ended: bool,
    /// Bytes that may still be written before `WouldBlock`.
    pub room: usize,
    /// Writing fails like into a closed socket.
    pub closed: bool,
    pub written: Vec<u8>,
    pub read_ended: std::cell::Cell<bool>,
    pub ended_writing: std::cell::Cell<bool>,
}

impl Read for Script {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() && !self.ended && !self.read_ended.get() {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.input.read(buffer)
    }
}

impl Write for Script {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(!self.ended_writing.get(), "a write after SHUT_WR");
        if self.closed {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let n = bytes.len().min(self.room);
        if n == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.room -= n;
        self.written.extend(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Script {
    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match how {
            Shutdown::Read => self.read_ended.set(true),
            Shutdown::Write => self.ended_writing.set(true),
            Shutdown::Both => unreachable!("the machine ends one direction at a time"),
        }
        Ok(())
    }
}
