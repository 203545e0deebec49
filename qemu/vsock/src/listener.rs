//! The Unix-socket side of connecting, after Firecracker's convention.
//!
//! A client that connects to `UDS` and writes `CONNECT PORT\n` is taken to that port of the
//! guest; the guest's connect to host port `P` goes to `UDS_P`. Nothing here blocks.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{connect, socket, AddressFamily, SockFlag, SockType, UnixAddr};

/// Longest line that can be a valid `CONNECT`, with its newline.
const LINE_LEN: usize = "CONNECT 4294967295\n".len();

/// A listening Unix socket that removes its path when dropped.
#[derive(Debug)]
pub struct BoundSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl BoundSocket {
    /// Binds `path`. A socket file nobody listens on any more is replaced; a live one is an error.
    pub fn bind(path: &Path) -> io::Result<BoundSocket> {
        let listener = match UnixListener::bind(path) {
            Err(e) if e.kind() == ErrorKind::AddrInUse && is_stale(path) => {
                std::fs::remove_file(path)?;
                UnixListener::bind(path)
            }
            bound => bound,
        }?;
        listener.set_nonblocking(true)?;
        Ok(BoundSocket {
            listener,
            path: path.to_owned(),
        })
    }

    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.path) {
            log::debug!("cannot remove the socket {}: {e}", self.path.display());
        }
    }
}

fn is_stale(path: &Path) -> bool {
    matches!(UnixStream::connect(path), Err(e) if e.kind() == ErrorKind::ConnectionRefused)
}

/// The Unix socket to which the guest's connect to `port` of the host goes: `UDS_PORT`.
pub fn host_socket(uds: &Path, port: u32) -> PathBuf {
    let mut path = OsString::from(uds);
    path.push(format!("_{port}"));
    path.into()
}

/// How a connect to a host socket went.
pub enum Dial {
    Connected(UnixStream),
    /// The listener's queue is full; it makes sense to try again soon.
    Busy,
    Refused(io::Error),
}

/// Connects to `path` without waiting.
pub fn dial(path: &Path) -> Dial {
    let attempt = || -> nix::Result<UnixStream> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(fd.into())
    };
    match attempt() {
        Ok(stream) => Dial::Connected(stream),
        Err(Errno::EAGAIN) => Dial::Busy,
        Err(e) => Dial::Refused(e.into()),
    }
}

/// A client whose `CONNECT` line is still coming in.
#[derive(Debug)]
pub struct Hello {
    stream: UnixStream,
    line: Vec<u8>,
}

impl Hello {
    pub fn new(stream: UnixStream) -> Hello {
        Hello {
            stream,
            line: Vec::with_capacity(LINE_LEN),
        }
    }

    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    pub fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Reads on: the guest port when the line is complete, `None` when it is not yet, an error
    /// when it never will be. Reads byte by byte, so that what follows stays in the socket.
    pub fn advance(&mut self) -> io::Result<Option<u32>> {
        let mut byte = [0];
        while self.line.last() != Some(&b'\n') {
            if self.line.len() == LINE_LEN {
                return Err(bad_line(&self.line));
            }
            match self.stream.read(&mut byte) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => self.line.push(byte[0]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        parse_connect(&self.line)
            .map(Some)
            .ok_or_else(|| bad_line(&self.line))
    }
}

fn parse_connect(line: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(line).ok()?;
    let (word, port) = text.trim_end().split_once(' ')?;
    if !word.eq_ignore_ascii_case("connect") || !port.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    port.parse().ok()
}

fn bad_line(line: &[u8]) -> io::Error {
    let seen = line.escape_ascii();
    io::Error::new(
        ErrorKind::InvalidData,
        format!("expected `CONNECT <port>`, got `{seen}`"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn connect_lines() {
        let table: [(&str, Option<u32>); 8] = [
            ("CONNECT 0\n", Some(0)),
            ("CONNECT 4294967295\n", Some(u32::MAX)),
            ("connect 52\r\n", Some(52)),
            ("CONNECT 4294967296\n", None),
            ("CONNECT +5\n", None),
            ("CONNECT\n", None),
            ("CONNECT 1 2\n", None),
            ("GET / HTTP/1.1\n", None),
        ];
        for (line, want) in table {
            assert_eq!(parse_connect(line.as_bytes()), want, "{line:?}");
        }
    }

    #[test]
    fn hello_takes_the_line_in_pieces_and_leaves_what_follows() {
        let (mut client, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut hello = Hello::new(ours);
        client.write_all(b"CONNE").unwrap();
        assert_eq!(hello.advance().unwrap(), None);
        client.write_all(b"CT 77\nearly").unwrap();
        assert_eq!(hello.advance().unwrap(), Some(77));
        let mut rest = [0; 5];
        hello.into_stream().read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"early");
    }

    #[test]
    fn hello_refuses_endless_lines_and_early_ends() {
        let (mut client, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        client.write_all(&[b'x'; 64]).unwrap();
        let error = Hello::new(ours).advance().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);

        let (client, ours) = UnixStream::pair().unwrap();
        drop(client);
        let error = Hello::new(ours).advance().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn bind_replaces_a_stale_socket_but_not_a_live_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a plain listener leaves its file behind");
        let bound = BoundSocket::bind(&path).unwrap();
        let error = BoundSocket::bind(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        drop(bound);
        assert!(!path.exists());
    }
}
