//! The loopback interface of the network namespace that this process is in.

use std::ffi::c_char;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{socket, AddressFamily, SockFlag, SockType};

/// Sets IFF_UP and IFF_RUNNING on `lo` through a socket of the family (netdevice(7)).
///
/// # Errors
/// `EAFNOSUPPORT` when the kernel lacks the family, `ENODEV` when it has no loopback.
pub fn up(family: AddressFamily) -> Result<(), Errno> {
    let socket: OwnedFd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: an all-zero ifreq is a valid value of this plain C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *to = *from as c_char;
    }
    // SAFETY: `request` is a NUL-terminated ifreq that the kernel fills in.
    Errno::result(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &mut request)
    })?;
    // SAFETY: SIOCGIFFLAGS has just made the flags the member that is set.
    unsafe { request.ifr_ifru.ifru_flags |= (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short };
    // SAFETY: as above; the kernel only reads.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) })?;
    Ok(())
}
