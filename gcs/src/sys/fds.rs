//! File descriptors and signals of new processes, and terminals.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::sys::signal::{sigprocmask, SigSet, SigmaskHow};

/// `/dev/null`, for both directions.
pub fn null() -> io::Result<OwnedFd> {
    let mut options = std::fs::File::options();
    options.read(true).write(true);
    options.open("/dev/null").map(OwnedFd::from)
}

/// Bytes that can be read from a pipe or terminal now (ioctl_tty(2), `FIONREAD`).
pub fn readable(fd: impl AsFd) -> io::Result<u64> {
    let mut count: libc::c_int = 0;
    // SAFETY: the request writes one int, which outlives the call.
    let asked = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::FIONREAD as _, &mut count) };
    nix::errno::Errno::result(asked)?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// Closes a number that the other side of a fork owns; closed already is fine.
pub fn close_copy(number: i32) {
    // SAFETY: in a forked child that never touches the owner of the number again.
    unsafe { libc::close(number) };
}

/// Makes the signals of `mask` (bit 0 is signal 1) as they are in a fresh process: default
/// disposition, none blocked. It is a system call less for each that is known to be at its default.
pub fn reset_signals(mask: u64) -> io::Result<()> {
    // By the raw call: libc refuses the signals it keeps for itself, and a parent can have
    // left those ignored as well. All zero is SIG_DFL in every layout of the kernel's struct.
    let default = [0_usize; 4];
    for signal in (1..=64).filter(|signal| mask >> (signal - 1) & 1 == 1) {
        // SAFETY: `default` is at least as long as the struct; KILL and STOP refuse, as they may.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<usize>(),
                8_usize,
            )
        };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

/// Signals whose disposition is not the default now, as a mask for [`reset_signals`].
pub fn changed_signals() -> u64 {
    let mut mask = 0;
    for signal in 1..=64 {
        let mut action = [0_usize; 4];
        // SAFETY: the kernel's struct fits into `action`, whose first word is the disposition.
        let asked = unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                std::ptr::null::<usize>(),
                action.as_mut_ptr(),
                8_usize,
            )
        };
        if asked != 0 || action[0] != libc::SIG_DFL {
            mask |= 1 << (signal - 1);
        }
    }
    mask
}

/// Lets the other end of a pty be opened (`TIOCSPTLCK`).
pub fn unlock_pty(master: impl AsFd) -> io::Result<()> {
    let locked: libc::c_int = 0;
    // SAFETY: the argument is an int that outlives the call.
    let done = unsafe {
        libc::ioctl(
            master.as_fd().as_raw_fd(),
            libc::TIOCSPTLCK as _,
            std::ptr::from_ref(&locked),
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes a terminal the controlling one of this process, which leads its session.
pub fn control(terminal: impl AsFd) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer argument.
    if unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSCTTY as _, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Puts `fd` at a number. The descriptor that has this number now is closed.
pub fn place(fd: impl AsFd, number: i32) -> io::Result<()> {
    // SAFETY: only called with 0 to 2, and in a process that is about to execute another program.
    if unsafe { libc::dup2(fd.as_fd().as_raw_fd(), number) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The other end of a pty, by its master alone; does not become the controlling terminal.
pub fn pty_peer(master: impl AsFd) -> io::Result<OwnedFd> {
    // TIOCGPTPEER, ioctl_tty(2); libc has no constant for every target.
    const TIOCGPTPEER: u32 = 0x5441;
    // SAFETY: the argument is a flag word, no pointer.
    let fd = unsafe {
        libc::ioctl(
            master.as_fd().as_raw_fd(),
            TIOCGPTPEER as _,
            libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just returned by the kernel, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets the window size of a terminal (`TIOCSWINSZ`).
pub fn resize(terminal: impl AsFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: `size` is what TIOCSWINSZ reads, and outlives the call.
    let done = unsafe {
        libc::ioctl(
            terminal.as_fd().as_raw_fd(),
            libc::TIOCSWINSZ,
            std::ptr::from_ref(&size),
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
