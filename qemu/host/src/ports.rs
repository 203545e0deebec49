//! The host's listening ports. One thread accepts on all of them; each port takes one
//! connection and is then closed, as a real host does.
//!
//! With the Unix-socket convention port P is the socket `<base>_P`; with the kernel's vhost-vsock
//! it is a vsock port. A connection is a `UnixStream` either way: it is used only as a stream
//! socket (read, write, shutdown), which is all the same.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

/// Where the guest's dials arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// Unix sockets `<base>_<port>`.
    Unix(PathBuf),
    /// The kernel's vhost-vsock. Ports belong to the whole machine: one VM at a time.
    Vsock,
}

impl Transport {
    /// The Unix socket of a port: `<base>_<port>`.
    pub fn socket_of(base: &Path, port: u32) -> PathBuf {
        let mut name = base.as_os_str().to_owned();
        name.push(format!("_{port}"));
        name.into()
    }

    fn listen(&self, port: u32) -> io::Result<Listener> {
        match self {
            Self::Unix(base) => {
                let path = Self::socket_of(base, port);
                let listener = UnixListener::bind(&path)?;
                listener.set_nonblocking(true)?;
                Ok(Listener::Unix(listener, path))
            }
            Self::Vsock => {
                let listener =
                    vsock::VsockListener::bind_with_cid_port(vsock::VMADDR_CID_ANY, port)?;
                listener.set_nonblocking(true)?;
                Ok(Listener::Vsock(listener))
            }
        }
    }
}

enum Listener {
    Unix(UnixListener, PathBuf),
    Vsock(vsock::VsockListener),
}

impl Listener {
    fn accept(&self) -> io::Result<UnixStream> {
        let stream = match self {
            Self::Unix(listener, _) => listener.accept()?.0,
            Self::Vsock(listener) => UnixStream::from(OwnedFd::from(listener.accept()?.0)),
        };
        stream.set_nonblocking(false)?;
        Ok(stream)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(listener, _) => listener.as_fd(),
            Self::Vsock(listener) => listener.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // Only this socket can be there, or nothing.
            drop(std::fs::remove_file(path));
        }
    }
}

/// What to do with the connection of a port. It runs on the accepting thread and must not block.
pub type Taker = Box<dyn FnOnce(UnixStream) + Send>;

struct Entry {
    port: u32,
    listener: Listener,
    taker: Taker,
}

#[derive(Default)]
struct Board {
    entries: Vec<Entry>,
    closed: bool,
}

/// The open ports. Dropping it closes them all.
pub struct Ports {
    transport: Transport,
    board: Arc<Mutex<Board>>,
    waker: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Ports {
    /// Starts the thread that accepts for all ports. None is open yet.
    ///
    /// # Errors
    /// This machine has no descriptors or threads left.
    pub fn new(transport: Transport) -> io::Result<Self> {
        let (waker, woken) = UnixStream::pair()?;
        waker.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let board = Arc::new(Mutex::new(Board::default()));
        let shared = Arc::clone(&board);
        let thread = std::thread::Builder::new()
            .name("ports".into())
            .spawn(move || serve(&shared, woken))?;
        Ok(Self {
            transport,
            board,
            waker,
            thread: Some(thread),
        })
    }

    /// Listens on `port` before it returns; `taker` gets the one connection.
    pub fn open(&self, port: u32, taker: Taker) -> io::Result<()> {
        let listener = self.transport.listen(port)?;
        self.board().entries.push(Entry {
            port,
            listener,
            taker,
        });
        self.wake();
        Ok(())
    }

    /// Stops listening on a port; no-op when its connection came.
    pub fn close(&self, port: u32) {
        self.board().entries.retain(|entry| entry.port != port);
        self.wake();
    }

    fn board(&self) -> std::sync::MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // A full pipe wakes just as well.
        drop(io::Write::write(&mut &self.waker, &[1]));
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        let entries = {
            let mut board = self.board();
            board.closed = true;
            std::mem::take(&mut board.entries)
        };
        drop(entries);
        self.wake();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn serve(board: &Mutex<Board>, woken: UnixStream) {
    loop {
        let ready = {
            // Duplicates, so that a port can be closed while this thread waits.
            let mut fds = Vec::new();
            {
                let board = board.lock().unwrap_or_else(PoisonError::into_inner);
                if board.closed {
                    return;
                }
                for entry in &board.entries {
                    match entry.listener.as_fd().try_clone_to_owned() {
                        Ok(fd) => fds.push((entry.port, fd)),
                        Err(e) => log::error!("port {}: {e}", entry.port),
                    }
                }
            }
            let mut polled: Vec<_> = std::iter::once(woken.as_fd())
                .chain(fds.iter().map(|(_, fd)| fd.as_fd()))
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
                .collect();
            if let Err(e) = poll(&mut polled, PollTimeout::NONE) {
                if e == nix::errno::Errno::EINTR {
                    continue;
                }
                log::error!("waiting for connections failed: {e}");
                return;
            }
            let hit = |fd: &PollFd<'_>| fd.revents().is_some_and(|r| !r.is_empty());
            if hit(&polled[0]) {
                let mut rest = [0; 64];
                while matches!(io::Read::read(&mut &woken, &mut rest), Ok(n) if n > 0) {}
            }
            let ready: Vec<u32> = polled[1..]
                .iter()
                .zip(&fds)
                .filter(|(p, _)| hit(p))
                .map(|(_, (port, _))| *port)
                .collect();
            ready
        };
        for port in ready {
            take(board, port);
        }
    }
}

fn take(board: &Mutex<Board>, port: u32) {
    let (stream, taker) = {
        let mut board = board.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = board.entries.iter().position(|e| e.port == port) else {
            return;
        };
        match board.entries[at].listener.accept() {
            Ok(stream) => (stream, board.entries.swap_remove(at).taker),
            // The guest gave up between poll and accept.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
            Err(e) => {
                log::warn!("port {port}: accept failed: {e}");
                return;
            }
        }
    };
    taker(stream);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn a_port_takes_one_connection_and_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("v");
        let ports = Ports::new(Transport::Unix(base.clone())).unwrap();
        let (send, got) = mpsc::channel();
        for port in [5, 6, 7] {
            let send = send.clone();
            ports
                .open(
                    port,
                    Box::new(move |stream| send.send((port, stream)).unwrap()),
                )
                .unwrap();
        }
        let mut guest = UnixStream::connect(Transport::socket_of(&base, 6)).unwrap();
        guest.write_all(b"x").unwrap();
        let (port, mut stream) = got.recv_timeout(Duration::from_secs(30)).unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        assert_eq!((port, &byte), (6, b"x"));
        assert!(UnixStream::connect(Transport::socket_of(&base, 6)).is_err());
        ports.close(5);
        assert!(UnixStream::connect(Transport::socket_of(&base, 5)).is_err());
        drop(ports);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
