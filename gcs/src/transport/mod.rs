//! Where connections to the host go: vsock inside a utility VM, Unix sockets named by port
//! everywhere else. All connects are non-blocking; [`dial`] turns them into results.

mod dial;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::socket::{connect, socket, AddressFamily, SockFlag, SockType, UnixAddr, VsockAddr};

pub use dial::{connect_within, Dial, DialFailure, DialStep, RETRY_PAUSE};

/// Port of the bridge on the host (P-001).
pub const BRIDGE_PORT: u32 = 0x4000_0000;

/// Reaches the host's ports.
#[derive(Debug, Clone)]
pub enum Dialer {
    /// The host by vsock. It is only for a utility VM; on other machines CID 2 is not the host.
    Vsock,
    /// Port P is the Unix socket `<prefix>_P`.
    Unix { prefix: PathBuf },
}

/// A connect that was begun.
pub enum Connecting {
    Done(OwnedFd),
    /// It becomes writable when the connect is decided, and `SO_ERROR` says how.
    Pending(OwnedFd),
}

impl Dialer {
    /// Begins to connect to `port` of the host, without waiting.
    pub fn connect(&self, port: u32) -> Result<Connecting, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (fd, result) = match self {
            Self::Vsock => {
                let fd = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
                let address = VsockAddr::new(vsock::VMADDR_CID_HOST, port);
                let result = connect_interruptible(&fd, &address);
                (fd, result)
            }
            Self::Unix { prefix } => {
                let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
                let mut name = prefix.clone().into_os_string();
                name.push(format!("_{port}"));
                let address = UnixAddr::new(name.as_os_str())?;
                let result = connect_interruptible(&fd, &address);
                (fd, result)
            }
        };
        match result {
            Ok(()) => Ok(Connecting::Done(fd)),
            Err(Errno::EINPROGRESS) => Ok(Connecting::Pending(fd)),
            Err(errno) => Err(errno),
        }
    }
}

fn connect_interruptible<A: nix::sys::socket::SockaddrLike>(
    fd: &OwnedFd,
    address: &A,
) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    loop {
        match connect(fd.as_raw_fd(), address) {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// Whether a connect that became writable has succeeded.
pub fn connect_outcome(fd: &OwnedFd) -> Result<(), Errno> {
    match nix::sys::socket::getsockopt(fd, nix::sys::socket::sockopt::SocketError)? {
        0 => Ok(()),
        errno => Err(Errno::from_raw(errno)),
    }
}

impl From<DialFailure> for io::Error {
    fn from(failure: DialFailure) -> Self {
        Self::other(failure)
    }
}
