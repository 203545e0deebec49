//! A child that dies with the thread that started it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use nix::fcntl::{fcntl, FcntlArg, FdFlag};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::unistd::{getpid, getppid};

/// Starts `command` so that the kernel kills it when the calling *thread* ends, however it ends.
/// The child keeps `inherit` open under the same numbers, has an empty signal mask, and is alone
/// in its process group, out of reach of the terminal's signals.
pub fn spawn_bound(command: &mut Command, inherit: Vec<OwnedFd>) -> io::Result<Child> {
    let parent = getpid();
    command.process_group(0);
    let before_exec = move || {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != parent {
            // The parent had gone before the line above could take effect.
            return Err(io::ErrorKind::NotConnected.into());
        }
        nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
        for fd in &inherit {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes only system calls (prctl, getppid,
    // sigprocmask, fcntl): no allocation, no lock, and nothing of the parent's memory is changed.
    unsafe { command.pre_exec(before_exec) };
    command.spawn()
}

/// The number under which a child finds an inherited descriptor.
pub fn number(fd: &OwnedFd) -> i32 {
    fd.as_raw_fd()
}
