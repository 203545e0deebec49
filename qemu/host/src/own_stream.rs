//! This process's own streams, without the buffers and locks of `std::io`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

pub(crate) fn own_stdin() -> impl Read + Send + 'static {
    OwnStream::of(io::stdin().as_fd().try_clone_to_owned())
}

pub(crate) fn own_stdout() -> OwnStream {
    OwnStream::of(io::stdout().as_fd().try_clone_to_owned())
}

pub(crate) fn own_stderr() -> OwnStream {
    OwnStream::of(io::stderr().as_fd().try_clone_to_owned())
}

#[derive(Default)]
pub(crate) struct OwnStream(Option<File>);

impl OwnStream {
    /// A stream that is closed reads as empty, and takes nothing.
    fn of(fd: io::Result<OwnedFd>) -> Self {
        Self(fd.ok().map(File::from))
    }
}

fn ready(file: &File, what: PollFlags) -> io::Result<()> {
    poll(&mut [PollFd::new(file.as_fd(), what)], PollTimeout::NONE)?;
    Ok(())
}

impl Read for OwnStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(file) = &mut self.0 else {
            return Ok(0);
        };
        ready(file, PollFlags::POLLIN)?;
        file.read(buffer)
    }
}

impl Write for OwnStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(file) = &mut self.0 else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        match file.write(bytes) {
            // Somebody who shares the terminal or pipe made it non-blocking.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                ready(file, PollFlags::POLLOUT)?;
                // `write_all` tries again.
                Err(io::ErrorKind::Interrupted.into())
            }
            other => other,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
