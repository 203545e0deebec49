//! The machine's end. PID 1 never just returns. It puts the last log records where they can be
//! found, gives the disks some time, and then stops the machine.
//!
//! A requested power-off is `reboot(2)`. Otherwise PID 1 exits with the program's status, as the
//! reference does (P-294). The kernel panics over that and, with the host's `panic=-1`, restarts at
//! once, which the host sees as the end. Without `panic=` such a panic would hang for ever, so the
//! machine is powered off instead.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use gcs::log::{emit, Level, Record};
use nix::fcntl::OFlag;
use nix::poll::PollFlags;
use nix::sys::reboot::{reboot, RebootMode};
use nix::unistd::pipe2;

use crate::{sys, vsock};

/// How long a sync may take, because a disk whose host is gone must not delay the end.
const SYNC_LIMIT: Duration = Duration::from_secs(3);
/// How long the last log lines may take to be sent.
const LOG_LIMIT: Duration = Duration::from_secs(1);
/// Bytes of the log that a panic prints.
const LAST_WORDS: usize = 4096;

/// How the machine is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The program ended with this status, or 128 + its signal.
    Status(i32),
    /// The host asked for it.
    PowerOff,
}

/// Turns a panic into a log record and nothing more. The service catches one in a request handler
/// (P-312); one elsewhere unwinds to [`crate::start`], which ends the machine.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let text = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no text");
        let mut record = Record::new(Level::Panic, format!("panic: {text}"));
        if let Some(place) = info.location() {
            record.field("at", format!("{}:{}", place.file(), place.line()));
        }
        emit(record);
    }));
}

/// Writes the newest log records to the kernel log, urgent enough for a quiet console.
pub fn print_last_words() {
    for line in gcs::log::recent(LAST_WORDS).lines() {
        // Nothing else can be done when this fails.
        fs::write("/dev/kmsg", format!("<2>gcs: {line}\n")).ok();
    }
}

/// Ends PID 1 and with it the machine.
pub fn end(end: End) -> ! {
    log::info!("the machine ends: {end:?}");
    flush_log();
    if let Err(error) = sync_disks() {
        fs::write(
            "/dev/kmsg",
            format!("<3>gcs: disks may not be in sync: {error}\n"),
        )
        .ok();
    }
    let mode = match end {
        End::PowerOff => Some(RebootMode::RB_POWER_OFF),
        End::Status(_) if panic_hangs() => Some(RebootMode::RB_POWER_OFF),
        End::Status(_) => None,
    };
    if let Some(mode) = mode {
        // It returns only when the kernel refuses it, and then only an exit is left.
        reboot(mode).ok();
    }
    let status = match end {
        End::Status(status) => status,
        End::PowerOff => 0,
    };
    fs::write("/dev/kmsg", format!("<2>gcs: PID 1 exits with {status}\n")).ok();
    std::process::exit(status)
}

/// Gives the log connection a last chance.
pub fn flush_log() {
    let deadline = Instant::now() + LOG_LIMIT;
    while gcs::log::wants_write() && Instant::now() < deadline {
        let Some(fd) = gcs::log::pollable() else {
            break;
        };
        if !vsock::wait(&fd, PollFlags::POLLOUT, deadline).unwrap_or(false) {
            break;
        }
        gcs::log::flush();
    }
}

fn panic_hangs() -> bool {
    fs::read_to_string("/proc/sys/kernel/panic").is_ok_and(|seconds| seconds.trim() == "0")
}

/// Syncs in a child, because the sync of a sick disk may never return.
fn sync_disks() -> io::Result<()> {
    bounded(SYNC_LIMIT, nix::unistd::sync)
}

/// Runs `work` in a child and waits for its end, at most for `limit`. After that the child is left
/// alone, because nothing can end a process that waits for a disk.
pub fn bounded(limit: Duration, work: impl FnOnce()) -> io::Result<()> {
    let (ended, holder): (OwnedFd, OwnedFd) = pipe2(OFlag::O_CLOEXEC)?;
    sys::fork(|| {
        work();
        0
    })?;
    // The child's copy is now the only one, so it closes however the child ends.
    drop(holder);
    if vsock::wait(&ended, PollFlags::POLLIN, Instant::now() + limit)? {
        Ok(())
    } else {
        Err(io::ErrorKind::TimedOut.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_hangs_is_left_at_the_limit() {
        let _children = sys::CHILDREN.lock();
        bounded(Duration::from_secs(30), || ()).expect("it ends at once");
        let hang = || loop {
            // Ends with the test's own process group at the latest.
            nix::unistd::alarm::set(30);
            nix::unistd::pause();
        };
        let error = bounded(Duration::from_millis(20), hang).expect_err("it hangs");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
