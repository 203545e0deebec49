//! How bytes move between the Unix stream, the buffer and the guest's packets, and how each
//! direction ends.

use std::io::ErrorKind;
use std::net::Shutdown;

use super::{Broken, Connection};
use crate::credit::BUFFER;
use crate::faults::Direction;
use crate::stream::Stream;

impl<S: Stream> Connection<S> {
    /// Reads up to `buffer.len()` bytes; `None` when there is nothing to send.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match self.stream.read(buffer) {
            Ok(0) => self.host_ended = true,
            Ok(n) => {
                // A short read has emptied the socket; epoll tells when that changes.
                self.readable = n == buffer.len();
                self.credit.sent(n);
                self.faults.moved(Direction::HostToGuest, n);
                return Some(n);
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => self.readable = false,
            Err(_) => {
                self.host_ended = true;
                self.deafen_host();
            }
        }
        None
    }

    /// Takes payload: straight into the stream when nothing waits, the rest into the buffer.
    pub(super) fn take(&mut self, data: &[u8]) -> Result<(), Broken> {
        if self.guest_sends_no_more {
            return Err(Broken::OutOfState);
        }
        if self.host_deaf {
            self.credit.passed(data.len());
            return Ok(());
        }
        let mut rest = data;
        if self.out.is_empty() {
            let n = self.write(data);
            rest = &data[n..];
        }
        if self.host_deaf {
            self.credit.passed(rest.len());
        } else if self.out.len() + rest.len() > BUFFER {
            return Err(Broken::Overrun);
        } else {
            self.out.extend(rest);
        }
        self.injected(Direction::GuestToHost)
    }

    /// Writes as much of `data` as the stream takes.
    fn write(&mut self, data: &[u8]) -> usize {
        let mut done = 0;
        while done < data.len() && !self.host_deaf {
            let n = self.faults.cap(Direction::GuestToHost, data.len() - done);
            if n == 0 {
                break;
            }
            match self.stream.write(&data[done..done + n]) {
                Ok(0) => break,
                Ok(n) => {
                    done += n;
                    self.credit.passed(n);
                    self.faults.moved(Direction::GuestToHost, n);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.deafen_host(),
            }
        }
        done
    }

    pub(super) fn flush(&mut self) {
        let mut out = std::mem::take(&mut self.out);
        while !out.is_empty() && !self.host_deaf {
            let n = self.write(out.as_slices().0);
            if n == 0 {
                break;
            }
            out.drain(..n);
        }
        if self.host_deaf {
            self.credit.passed(out.len());
            out.clear();
        }
        self.out = out;
        self.end_out();
    }

    /// Passes the guest's end of stream on, once all before it is written.
    pub(super) fn end_out(&mut self) {
        if self.guest_sends_no_more && self.out.is_empty() && !self.out_ended && !self.host_deaf {
            self.out_ended = true;
            if self.stream.shutdown(Shutdown::Write).is_err() {
                self.deafen_host();
            }
        }
    }

    /// The host side reads no more, so what waits for it is dropped.
    pub(super) fn deafen_host(&mut self) {
        self.host_deaf = true;
        self.credit.passed(self.out.len());
        self.out.clear();
    }

    /// The guest reads no more, which the host's writer should notice. Unread bytes are dropped,
    /// because closing the socket with them would look like a reset to a host that still reads.
    pub(super) fn deafen_guest(&mut self) {
        if self.guest_deaf {
            return;
        }
        self.guest_deaf = true;
        self.readable = false;
        if self.stream.shutdown(Shutdown::Read).is_ok() {
            let mut void = [0; 4096];
            while matches!(self.stream.read(&mut void), Ok(n) if n > 0) {}
        }
    }
}
