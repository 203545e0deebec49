//! Clocks of devices, and corrections of the machine's own.

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{clock_gettime, ClockId};

const SECOND: i64 = 1_000_000;

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
    adjust(libc::ADJ_OFFSET_SINGLESHOT, |timex| timex.offset = micros)
}

/// Sets the machine's clock that many microseconds forward, or back, in one go: nothing is lost between
/// reading and setting it. Ends a correction that is under way.
///
/// # Errors
/// `EPERM` without the right to change the clock; `EINVAL` for a time that it cannot show.
pub fn step(micros: i64) -> nix::Result<()> {
    adjust(libc::ADJ_SETOFFSET, |timex| {
        timex.time.tv_sec = micros.div_euclid(SECOND);
        timex.time.tv_usec = micros.rem_euclid(SECOND);
    })
}

fn adjust(modes: libc::c_uint, set: impl FnOnce(&mut libc::timex)) -> nix::Result<()> {
    // SAFETY: `timex` is plain numbers, for which zero is a value.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    timex.modes = modes;
    set(&mut timex);
    // SAFETY: the structure lives through the call; the kernel reads and writes only it.
    Errno::result(unsafe { libc::adjtimex(&mut timex) }).map(drop)
}
