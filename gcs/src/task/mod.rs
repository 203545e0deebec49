//! Work that may block, such as mounts, formatting and the container engine. It is done in a child
//! that can be killed. One channel brings the result back, and the reaper brings the end.
//!
//! There are two kinds. A *fork* runs a closure that gives one result. A *maker* has the container
//! engine make a process that outlives it.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{socketpair, AddressFamily, SockFlag, SockType};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde::Serialize;

use crate::error::Failure;
use crate::sys::channel::receive;
use crate::sys::process::{self, ExitStatus};

/// A task with a larger result is defective and fails. The prepared spec of a Create comes this
/// way, so the limit must allow for the largest request, 64 MiB (P-007), and its
/// wrapping.
const RESULT_LIMIT: usize = 65 << 20;

/// Bytes of the buffer for results. It is reused, because a new one would have to be cleared, and
/// every page that is touched after a fork is copied.
pub const BUFFER: usize = 64 * 1024;

/// Environment of hooks and of PID 1's program (P-293).
pub const SERVICE_PATH: &str = "PATH=/sbin:/usr/sbin:/bin:/usr/bin";

/// A child at work.
pub struct Running {
    pub pid: Pid,
    /// It is readable when there is a part of a result, and at end of file when no more will come.
    pub channel: OwnedFd,
}

/// Ends the result of a fork, so that nobody has to wait for the end of the process. The JSON never
/// contains it.
const END: u8 = b'\n';

/// Runs `job` in a forked child, which has only the descriptors in `keep`. [`decode`] reads its
/// result.
pub fn fork<T: Serialize>(
    keep: &[BorrowedFd<'_>],
    job: impl FnOnce() -> Result<T, Failure>,
) -> io::Result<Running> {
    let (ours, theirs) = channel(SockType::Stream)?;
    let mut kept = vec![theirs.as_fd()];
    kept.extend_from_slice(keep);
    let pid = process::fork_child(&kept, || {
        let result = job();
        match serde_json::to_vec(&result) {
            Ok(mut bytes) => {
                bytes.push(END);
                i32::from(send_all(&theirs, &bytes).is_err())
            }
            Err(_) => 1,
        }
    })?;
    Ok(Running { pid, channel: ours })
}

/// Runs `job` in a forked child that may make further processes, which have the channel as well:
/// it keeps messages apart, and is at its end when the last of them has closed it. `job` says
/// whether it could.
pub fn maker(
    keep: &[BorrowedFd<'_>],
    job: impl FnOnce(BorrowedFd<'_>) -> bool,
) -> io::Result<Running> {
    let (ours, theirs) = channel(SockType::SeqPacket)?;
    let kept: Vec<_> = keep.iter().copied().chain([theirs.as_fd()]).collect();
    let pid = process::fork_child(&kept, || i32::from(!job(theirs.as_fd())))?;
    Ok(Running { pid, channel: ours })
}

fn channel(kind: SockType) -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)?;
    // Only this end does not block; the child may wait.
    crate::sys::channel::set_nonblocking(ours.as_fd(), true)?;
    Ok((ours, theirs))
}

fn send_all(fd: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    std::fs::File::from(fd.try_clone()?).write_all(bytes)
}

/// What has arrived over a channel so far.
#[derive(Default)]
pub struct Received {
    pub bytes: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

/// Whether more can come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// This many bytes have arrived.
    Open(usize),
    Ended,
}

impl Received {
    /// Whether the result of a fork is complete. For a maker this is not known.
    pub fn is_whole(&self) -> bool {
        self.bytes.last() == Some(&END)
    }

    /// Takes what is there, without waiting. A message of a maker must fit into the buffer:
    /// [`BUFFER`] bytes.
    pub fn read(&mut self, channel: &OwnedFd, buffer: &mut [u8]) -> io::Result<Channel> {
        let count = match receive(channel.as_fd(), buffer, &mut self.fds) {
            Ok(count) => count,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Channel::Open(0)),
            Err(errno) => return Err(errno.into()),
        };
        if count == 0 {
            return Ok(Channel::Ended);
        }
        if self.bytes.len() + count > RESULT_LIMIT {
            return Err(io::Error::other("the result is over 65 MiB"));
        }
        self.bytes.extend_from_slice(&buffer[..count]);
        Ok(Channel::Open(count))
    }
}

/// The result of a child: what it sent, or why there is nothing usable.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], exit: ExitStatus) -> Result<T, Failure> {
    serde_json::from_slice::<Result<T, Failure>>(bytes).map_err(|error| unusable(exit, &error))?
}

fn unusable(exit: ExitStatus, error: &serde_json::Error) -> Failure {
    let ended = match exit {
        ExitStatus::Exited(code) => format!("ended with status {code}"),
        ExitStatus::Signaled(signal) => format!("was killed by signal {signal}"),
        ExitStatus::Unknown => "ended unseen".to_owned(),
    };
    Failure::unspecified(format!(
        "the child doing the work {ended} and left no usable result ({error})"
    ))
}

/// Like [`decode`], for a result that carries its own success.
pub fn decode_report<T: DeserializeOwned>(bytes: &[u8], exit: ExitStatus) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| unusable(exit, &error))
}
