//! What the tests need below the standard library.
#![allow(unsafe_code)] // the test harness's own raw calls, as in the crate's `sys`

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The child gets `fds` as 3, 4, ... and nothing else beyond 0 to 2.
pub fn pass(command: &mut Command, fds: Vec<OwnedFd>) {
    let work = move || {
        // Out of the way first: a source may sit on a target number.
        let mut high = Vec::new();
        for fd in &fds {
            // SAFETY: F_DUPFD takes no pointer.
            high.push(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD, 100) });
        }
        let mut target = 3;
        for fd in high {
            // SAFETY: no pointers.
            if unsafe { libc::dup2(fd, target) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
            target += 1;
        }
        // SAFETY: no pointers; CLOEXEC keeps std's own error pipe working until the exec.
        unsafe {
            libc::close_range(
                target.cast_unsigned(),
                u32::MAX,
                libc::CLOSE_RANGE_CLOEXEC as i32,
            )
        };
        Ok(())
    };
    // SAFETY: only async-signal-safe calls and a small Vec in a single-threaded process.
    unsafe { command.pre_exec(work) };
}

/// `fd` as received by SCM_RIGHTS.
pub fn own(number: i32) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: the kernel made it for the message just received.
    unsafe { OwnedFd::from_raw_fd(number) }
}

pub fn subreaper() {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}
