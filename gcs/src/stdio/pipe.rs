//! Pipes between a process and its relay. The relay's end does not block.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{fcntl, FcntlArg, OFlag};

use super::transfer::PIPE_SIZE;
use crate::sys::channel::set_nonblocking;

/// For stdin: the process's reading end, then the relay's writing end.
pub fn input_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe()?;
    set_nonblocking(write.as_fd(), true)?;
    Ok((read, write))
}

/// For stdout or stderr: the relay's reading end, then the process's writing end.
pub fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe()?;
    set_nonblocking(read.as_fd(), true)?;
    Ok((read, write))
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    // A smaller pipe works too. A user without privileges may get one.
    fcntl(&read, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE as i32)).ok();
    Ok((read, write))
}
