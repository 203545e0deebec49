//! Signals and waits by process, for code in tasks (it may block).

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::unistd::Pid;

/// `pidfd_open(2)`; `None` when there is no such process.
pub fn open(pid: i32) -> io::Result<Option<OwnedFd>> {
    // SAFETY: no pointers; the returned fd (close-on-exec by default) is ours alone.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let Ok(fd) = i32::try_from(fd) else {
        return Err(io::Error::other("pidfd_open gave no fd"));
    };
    if fd >= 0 {
        // SAFETY: just returned by the kernel, owned by nobody else.
        return Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }));
    }
    match io::Error::last_os_error() {
        e if e.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        e => Err(e),
    }
}

/// `pidfd_send_signal(2)`, which reaches this process only, even when another one has its pid.
pub fn signal(process: impl AsFd, signal: i32) -> Result<(), Errno> {
    // SAFETY: no signal information is given, which the null pointer says.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Errno::result(done).map(drop)
}

/// `kill(2)`; a process that is gone is no error.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    match super::process::kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Waits until the process (not necessarily a child) has exited, reaped or not; false when
/// it has not within `limit`.
pub fn wait_exit(pid: i32, limit: Duration) -> io::Result<bool> {
    match open(pid)? {
        None => Ok(true),
        Some(fd) => readable(&fd, limit),
    }
}

/// Waits until `fd` is readable or hung up; false when it is not within `limit`.
pub fn readable(fd: impl AsFd, limit: Duration) -> io::Result<bool> {
    let deadline = std::time::Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(n) => return Ok(n > 0),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// A bounded pause between two tries of something the kernel gives no event for.
pub fn pause(time: Duration) {
    let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::ZERO);
    // An early wake-up by a signal only makes the next try come sooner.
    let _ = poll(&mut [], timeout).ok();
}
