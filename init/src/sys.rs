//! Every `unsafe` of this crate: the C entry, fork, the child's side of exec, and the ioctls that
//! no dependency wraps.

#![allow(
    unsafe_code,
    reason = "fork, signal dispositions, raw descriptors 0..2 and ioctls have no safe form"
)]

use std::ffi::{c_char, c_int, CStr, CString, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::panic::{catch_unwind, AssertUnwindSafe};

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal};
use nix::unistd::{ForkResult, Pid};

/// The process's entry. Rust's own would abort where descriptors 0..2 are closed and there is
/// no `/dev/null` yet, which is how the kernel starts PID 1 on a machine without a console.
#[cfg(not(test))]
#[no_mangle]
pub extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    crate::start(args(argc, argv))
}

#[cfg_attr(test, allow(dead_code, reason = "the test harness has its own entry"))]
fn args(argc: c_int, argv: *const *const c_char) -> Vec<OsString> {
    (0..usize::try_from(argc).unwrap_or(0))
        .map(|index| {
            // SAFETY: the C runtime passes `argc` valid, NUL-terminated strings that live as
            // long as the process.
            let arg = unsafe { CStr::from_ptr(*argv.add(index)) };
            OsString::from_vec(arg.to_bytes().to_vec())
        })
        .collect()
}

/// Makes sure that 0..2 are open, on `/dev/null` where they are not, so that no later descriptor
/// lands there and is taken for a standard stream.
///
/// # Errors
/// When one could not be opened.
pub fn open_standard_streams() -> io::Result<()> {
    for fd in 0..3 {
        // SAFETY: F_GETFD takes any number and touches nothing.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0 {
            continue;
        }
        // SAFETY: a constant C string; the lowest free number is `fd`, as those below are open.
        // The descriptor is meant to stay open, and over exec, for the whole life of the process.
        let got = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
        if got != fd {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Blocks every signal and ignores SIGPIPE. Signals are read from a descriptor or by `waitpid`, and
/// a reader that is gone is an error of the write.
pub fn quiet_signals() -> io::Result<()> {
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    // SAFETY: SIG_IGN installs no handler.
    unsafe { nix::sys::signal::signal(Signal::SIGPIPE, SigHandler::SigIgn) }?;
    Ok(())
}

/// Undoes [`quiet_signals`], for a program that is about to be executed.
pub fn loud_signals() -> io::Result<()> {
    // SAFETY: SIG_DFL installs no handler.
    unsafe { nix::sys::signal::signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

/// Runs `child` in a new process, which ends with the status it returns.
///
/// # Errors
/// No process could be made.
pub fn fork(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    // SAFETY: this program has one thread in every applet that forks, so the child's memory is
    // consistent and it may do what it likes.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            // If a panic unwound further, this child would end the machine as PID 1 does.
            let status = catch_unwind(AssertUnwindSafe(child)).unwrap_or(crate::PANICKED);
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(status) }
        }
    }
}

/// Replaces the process. Tries every directory of `path` when the program has no slash. Returns
/// only on failure, with the most telling reason.
pub fn exec(argv: &[CString], env: &[CString], path: &str) -> Errno {
    let Some(program) = argv.first() else {
        return Errno::ENOENT;
    };
    if program.to_bytes().contains(&b'/') {
        return nix::unistd::execve(program, argv, env)
            .err()
            .unwrap_or(Errno::ENOENT);
    }
    let mut reason = Errno::ENOENT;
    for dir in path.split(':') {
        let mut full = format!("{dir}/").into_bytes();
        full.extend_from_slice(program.to_bytes());
        let Ok(full) = CString::new(full) else {
            continue;
        };
        match nix::unistd::execve(&full, argv, env).err() {
            Some(Errno::ENOENT | Errno::ENOTDIR) | None => {}
            // The search goes on, but "no permission" says more than "not found".
            Some(Errno::EACCES) => reason = Errno::EACCES,
            Some(other) => return other,
        }
    }
    reason
}

/// Mixes bytes into the kernel's pool and credits them in full (random(4), RNDADDENTROPY).
///
/// # Errors
/// Not privileged, or not the random device.
pub fn add_entropy(random: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    /// `_IOW('R', 0x03, int[2])`
    const RNDADDENTROPY: u32 = 0x4008_5203;
    let bits = c_int::try_from(bytes.len() * 8).map_err(|_| io::ErrorKind::InvalidInput)?;
    let size = c_int::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // struct rand_pool_info: two ints and the bytes.
    let mut info = Vec::with_capacity(8 + bytes.len());
    info.extend_from_slice(&bits.to_ne_bytes());
    info.extend_from_slice(&size.to_ne_bytes());
    info.extend_from_slice(bytes);
    // SAFETY: `info` holds the two counters and as many bytes as they say; the kernel only reads.
    let result = unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY as _, info.as_ptr()) };
    Errno::result(result)?;
    Ok(())
}

/// Held by tests that make children, because one of them takes whatever child ends.
#[cfg(test)]
pub static CHILDREN: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::wait::{waitpid, WaitStatus};

    fn strings(args: &[&str]) -> Vec<CString> {
        args.iter()
            .map(|w| CString::new(*w).expect("no NUL"))
            .collect()
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "no reaper runs in a test")]
    fn exec_searches_the_path_and_says_what_was_wrong() {
        let _children = CHILDREN.lock();
        for (argv, want) in [(&["true"][..], 0), (&["sh", "-c", "exit 9"], 9)] {
            let (argv, env) = (strings(argv), strings(&["A=b"]));
            let pid = fork(|| exec(&argv, &env, "/nowhere:/usr/bin:/bin") as i32).expect("fork");
            assert_eq!(waitpid(pid, None), Ok(WaitStatus::Exited(pid, want)));
        }
        let env = [];
        assert_eq!(
            exec(&strings(&["no-such-program"]), &env, "/bin"),
            Errno::ENOENT
        );
        assert_eq!(
            exec(&strings(&["/etc/passwd"]), &env, "/bin"),
            Errno::EACCES
        );
        assert_eq!(
            exec(&strings(&["passwd"]), &env, "/nowhere:/etc"),
            Errno::EACCES
        );
        assert_eq!(exec(&[], &env, "/bin"), Errno::ENOENT);
    }
}
