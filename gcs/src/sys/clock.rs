//! Clocks of devices, and small corrections of the machine's own.

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{clock_gettime, ClockId};

/// Reads the clock of an open PTP device (clock_gettime(2), "Dynamic clocks").
///
/// # Errors
/// The device is none with a clock, or is gone.
pub fn read(device: impl AsFd) -> nix::Result<TimeSpec> {
    let fd = device.as_fd().as_raw_fd();
    clock_gettime(ClockId::from_raw((!fd << 3) | 3))
}

/// Lets the machine's clock run a little faster or slower until it has made up for `micros`
/// microseconds; replaces a correction that is under way (adjtimex(2)).
///
/// # Errors
/// `EPERM` without the right to change the clock.
pub fn slew(micros: i64) -> nix::Result<()> {
    // SAFETY: `timex` is plain numbers, for which zero is a value.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    timex.modes = libc::ADJ_OFFSET_SINGLESHOT;
    timex.offset = micros;
    // SAFETY: the structure lives through the call; the kernel reads and writes only it.
    Errno::result(unsafe { libc::adjtimex(&mut timex) }).map(drop)
}
