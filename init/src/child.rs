//! The program that PID 1 starts when it is not the service itself, and the reaping until that
//! program ends (protocol 10.1).

use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::sys::wait::{waitpid, WaitStatus};
use nix::unistd::{setsid, Pid};

use crate::sys;

/// Where programs are looked for, and the only variable they get (P-293).
pub const PATH: &str = "/sbin:/usr/sbin:/bin:/usr/bin";
/// The status by which a shell reports that there is no such program.
pub const NOT_FOUND: i32 = 127;

/// Starts the program in a session of its own, with unblocked signals.
///
/// # Errors
/// An argument has a NUL byte, or no process could be made. When the program cannot be executed,
/// the child's status and the kernel log say so.
pub fn start(args: &[OsString]) -> io::Result<Pid> {
    let argv = c_args(args)?;
    sys::fork(|| {
        // A fresh child leads no group, so this cannot fail.
        setsid().ok();
        // Only the service is exempt, and it does that itself.
        fs::write("/proc/self/oom_score_adj", "0").ok();
        let errno = execute(&argv);
        log::error!("starting {}: {errno}", args[0].display());
        NOT_FOUND
    })
}

/// Replaces this process by the program. Returns the reason when that fails.
pub fn execute(argv: &[CString]) -> Errno {
    if sys::loud_signals().is_err() {
        return Errno::EINVAL;
    }
    let env = [CString::from(c"PATH=/sbin:/usr/sbin:/bin:/usr/bin")];
    sys::exec(argv, &env, PATH)
}

/// # Errors
/// An argument has a NUL byte.
pub fn c_args(args: &[OsString]) -> io::Result<Vec<CString>> {
    let arg = |arg: &OsString| CString::new(OsStr::as_bytes(arg)).map_err(io::Error::from);
    args.iter().map(arg).collect()
}

/// Reaps every child until `the` one has ended. Returns its exit status, or 128 + the signal.
#[allow(
    clippy::disallowed_methods,
    reason = "this is the one reaper: the service is another process then"
)]
pub fn reap_until(the: Pid) -> i32 {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, status)) if pid == the => return status,
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == the => return 128 + signal as i32,
            // An orphan that PID 1 did not start (P-295).
            Ok(_) | Err(Errno::EINTR) => {}
            // Someone else reaped it; there is nothing left to wait for.
            Err(_) => return NOT_FOUND,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &[&str]) -> i32 {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        reap_until(start(&args).expect("fork"))
    }

    /// One test, because `waitpid(-1)` would take the children of another one.
    #[test]
    fn status_signal_environment_session_and_absence() {
        let _children = sys::CHILDREN.lock();
        assert_eq!(run(&["sh", "-c", "exit 5"]), 5);
        assert_eq!(run(&["sh", "-c", "kill -9 $$"]), 137);
        assert_eq!(run(&["no-such-program"]), NOT_FOUND);
        let only_path = "test \"$(tr '\\0' '\\n' < /proc/$$/environ)\" = \
                         PATH=/sbin:/usr/sbin:/bin:/usr/bin";
        assert_eq!(run(&["sh", "-c", only_path]), 0);
        let leads_session = "read -r _ _ _ _ _ sid _ < /proc/$$/stat; test $sid = $$";
        assert_eq!(run(&["sh", "-c", leads_session]), 0);
    }
}
