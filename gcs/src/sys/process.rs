//! Making children: fork for tasks, fork + exec for programs. The process has one thread, so
//! the child of a fork may allocate and run any code.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{catch_unwind, AssertUnwindSafe};

use nix::errno::Errno;
use nix::fcntl::{openat2, OFlag, OpenHow, ResolveFlag, AT_FDCWD};
use nix::sys::resource::{getrlimit, setrlimit, Resource};
use nix::unistd::{ForkResult, Pid};

use super::fds;

/// Lowest number used while descriptors are shuffled, above all final numbers.
const SHUFFLE_BASE: RawFd = 32;

/// How a program is started. Descriptor `i` of `fds` becomes number `i`; all others are closed.
pub struct Program<'a> {
    /// Paths tried in order, as `execvp` would: the first that exists is taken.
    pub candidates: &'a [CString],
    pub argv: &'a [CString],
    pub env: &'a [CString],
    pub cwd: Option<&'a CStr>,
    pub fds: &'a [BorrowedFd<'a>],
    /// New session; descriptor 0 becomes its controlling terminal.
    pub controlling_terminal: bool,
    /// Whether it may dump a core of any size up to the hard limit. Otherwise it dumps none, as by
    /// default.
    pub dumps_core: bool,
}

/// What the child was doing when it could not become the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartStep {
    Descriptors,
    Terminal,
    Directory,
    Exec,
}

/// Why a program did not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartFailure {
    pub stage: StartStep,
    pub errno: Errno,
}

impl StartFailure {
    const SIZE: usize = 5;

    fn to_bytes(self) -> [u8; Self::SIZE] {
        let [a, b, c, d] = (self.errno as i32).to_le_bytes();
        [self.stage as u8, a, b, c, d]
    }

    /// Reads the status pipe. No bytes mean that the program runs.
    pub fn from_status(bytes: &[u8]) -> Option<Self> {
        let [stage, a, b, c, d] = *bytes.first_chunk::<{ Self::SIZE }>()?;
        let stage = match stage {
            0 => StartStep::Descriptors,
            1 => StartStep::Terminal,
            2 => StartStep::Directory,
            _ => StartStep::Exec,
        };
        Some(Self {
            stage,
            errno: Errno::from_raw(i32::from_le_bytes([a, b, c, d])),
        })
    }
}

/// Forks and returns in the parent; the child runs `body`, whose result is its exit status.
/// The child has an empty signal mask, default dispositions, only the descriptors `keep`
/// (by their numbers) and the kernel's usual chance in an out-of-memory kill.
pub fn fork_child(keep: &[BorrowedFd<'_>], body: impl FnOnce() -> i32) -> io::Result<Pid> {
    inherited_signals();
    // SAFETY: the process is single-threaded (crate rule, checked by clippy's ban on threads),
    // so the child sees consistent memory and may do anything.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            reset_inherited_state();
            // A group of its own: what it starts can be killed with it.
            nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0)).ok();
            close_all_but(keep);
            exit_now(catch_unwind(AssertUnwindSafe(body)).unwrap_or(101))
        }
    }
}

/// Starts `program`. The second value is the status pipe: end of file without data when the
/// program runs, else the bytes of a [`StartFailure`].
///
/// A program of the root file system, where this one's own file is too, is executed before this
/// returns: until then the child uses this process's memory, so that no page tables are copied.
/// With all other programs the exec may take any time, and this does not wait for it.
pub fn start(program: &Program<'_>) -> io::Result<(Pid, OwnedFd)> {
    let (status_read, status_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    inherited_signals();
    let start = Start {
        program,
        argv: pointers(program.argv),
        env: pointers(program.env),
        status: status_write,
    };
    if is_in_root_file_system(program) {
        return Ok((start.in_shared_memory()?, status_read));
    }
    // SAFETY: single-threaded, see `fork_child`.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok((child, status_read)),
        ForkResult::Child => start.run(),
    }
}

/// Whether neither the program nor its directory is behind a mount point. The kernel tells it
/// without a question to any other file system, which might not answer.
fn is_in_root_file_system(program: &Program<'_>) -> bool {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let look = |path: &CStr| match path.to_bytes().first() {
        Some(b'/') => openat2(AT_FDCWD, path, how).map(drop),
        // From a directory that is another one then.
        _ => Err(Errno::EXDEV),
    };
    let found = program.candidates.iter().map(|path| look(path));
    // Up to the one that is executed.
    let first = found.into_iter().find(|found| *found != Err(Errno::ENOENT));
    matches!(first, Some(Ok(()))) && program.cwd.is_none_or(|cwd| look(cwd).is_ok())
}

/// For execve(2). They are made before the child is: it may share memory with this process, and
/// what it allocated would stay.
fn pointers(texts: &[CString]) -> Vec<*const libc::c_char> {
    let texts = texts.iter().map(|text| text.as_ptr());
    texts.chain([std::ptr::null()]).collect()
}

/// A program about to be started.
struct Start<'a> {
    program: &'a Program<'a>,
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    status: OwnedFd,
}

impl Start<'_> {
    /// As vfork(2), with a stack of its own: this process goes on when the child has executed its
    /// program or has ended.
    fn in_shared_memory(&self) -> io::Result<Pid> {
        /// In bytes, several times what the steps of `become_program` need.
        const STACK: usize = 64 << 10;
        extern "C" fn child(start: *mut libc::c_void) -> libc::c_int {
            // SAFETY: the parent waits with the value in place.
            unsafe { &*start.cast::<Start<'_>>() }.run()
        }
        let mut stack: Vec<u128> = Vec::with_capacity(STACK / size_of::<u128>());
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: the stack grows down from the end of its memory, aligned to 16 bytes, and stays
        // until the child has left it. There is no other thread, and this one waits, so the child
        // sees consistent memory. It leaves nothing allocated, and its descriptors, directory,
        // limits and signals are its own.
        let pid = unsafe {
            let top = stack.as_mut_ptr().add(stack.capacity());
            let start = std::ptr::from_ref(self).cast_mut().cast();
            libc::clone(child, top.cast(), flags, start)
        };
        Ok(Pid::from_raw(Errno::result(pid)?))
    }

    /// In the child.
    fn run(&self) -> ! {
        // Unwinding further would make this child a second bridge.
        catch_unwind(AssertUnwindSafe(|| self.report_failure())).ok();
        exit_now(127)
    }

    /// Returns only when the program could not be executed, after the reason was written to the
    /// status pipe.
    fn report_failure(&self) {
        // Above the final numbers, or placing a descriptor could overwrite it.
        match copy_out_of_the_way(&self.status) {
            Ok(status) => {
                let bytes = self.become_program().to_bytes();
                // Five bytes into an empty pipe: all or, when the parent is gone, nothing.
                nix::unistd::write(&status, &bytes).ok();
            }
            Err(errno) => {
                let stage = StartStep::Descriptors;
                let bytes = StartFailure { stage, errno }.to_bytes();
                nix::unistd::write(&self.status, &bytes).ok();
            }
        }
    }

    fn become_program(&self) -> StartFailure {
        let program = self.program;
        let fail = |stage| move |errno| StartFailure { stage, errno };
        reset_inherited_state();
        if program.dumps_core {
            // Refused only when there is no hard limit to raise it to.
            if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_CORE) {
                setrlimit(Resource::RLIMIT_CORE, hard, hard).ok();
            }
        }
        if let Err(failure) = place_descriptors(program.fds).map_err(fail(StartStep::Descriptors)) {
            return failure;
        }
        if program.controlling_terminal {
            // SAFETY: TIOCSCTTY takes an integer argument; descriptor 0 was just placed.
            let controlled = nix::unistd::setsid()
                .and_then(|_| Errno::result(unsafe { libc::ioctl(0, libc::TIOCSCTTY as _, 0) }));
            if let Err(failure) = controlled.map_err(fail(StartStep::Terminal)) {
                return failure;
            }
        }
        if let Some(cwd) = program.cwd {
            if let Err(failure) = nix::unistd::chdir(cwd).map_err(fail(StartStep::Directory)) {
                return failure;
            }
        }
        // The error of a file that exists and is unusable counts more than "not found", as in
        // execvp(3).
        let mut reason = Errno::ENOENT;
        for path in program.candidates {
            // SAFETY: both lists end in a null pointer, and what they point to outlives the call.
            unsafe { libc::execve(path.as_ptr(), self.argv.as_ptr(), self.env.as_ptr()) };
            match Errno::last() {
                Errno::ENOENT | Errno::ENOTDIR => {}
                Errno::EACCES => reason = Errno::EACCES,
                errno => {
                    reason = errno;
                    break;
                }
            }
        }
        StartFailure {
            stage: StartStep::Exec,
            errno: reason,
        }
    }
}

fn copy_out_of_the_way(fd: impl AsFd) -> nix::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC yields a new descriptor or -1.
    let raw = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_DUPFD_CLOEXEC, SHUFFLE_BASE) };
    let raw = Errno::result(raw)?;
    // SAFETY: just returned by the kernel, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Puts `fds[i]` at number `i` and marks everything above close-on-exec.
fn place_descriptors(fds: &[BorrowedFd<'_>]) -> nix::Result<()> {
    if fds.len() > SHUFFLE_BASE as usize {
        return Err(Errno::EMFILE);
    }
    // Out of the way first, so that placing one cannot overwrite another's source.
    let copies = fds.iter().map(copy_out_of_the_way);
    for (number, copy) in (0..).zip(copies.collect::<nix::Result<Vec<_>>>()?) {
        // SAFETY: dup2 onto a low number; whatever was there belongs to this child alone.
        Errno::result(unsafe { libc::dup2(copy.as_raw_fd(), number) })?;
    }
    // SAFETY: only sets a flag on descriptors of this child.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            fds.len() as libc::c_uint,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC as libc::c_uint,
        )
    })?;
    Ok(())
}

/// The changed dispositions that children inherit. They are read once, because nothing changes one
/// later. Resetting all 64 would cost every start half a millisecond where system calls are slow.
fn inherited_signals() -> u64 {
    static CHANGED: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *CHANGED.get_or_init(fds::changed_signals)
}

/// Undoes what PID 1 set up for itself and what a program must not inherit (P-181).
fn reset_inherited_state() {
    fds::reset_signals(inherited_signals()).ok();
    // PID 1 is exempt from out-of-memory kills, its children are not.
    std::fs::write("/proc/self/oom_score_adj", "0").ok();
    setrlimit(Resource::RLIMIT_NOFILE, 1024, 1_048_576).ok();
}

/// Closes every descriptor above 2 except `keep`. This is only for a process that owns none of the
/// others.
pub(crate) fn close_all_but(keep: &[BorrowedFd<'_>]) {
    let mut numbers: Vec<RawFd> = keep.iter().map(|fd| fd.as_raw_fd()).collect();
    numbers.sort_unstable();
    let mut first = 3;
    for number in numbers {
        if number > first {
            close_range(first, number - 1);
        }
        first = first.max(number + 1);
    }
    close_range(first, RawFd::MAX);
}

fn close_range(first: RawFd, last: RawFd) {
    // SAFETY: only called in a fresh child, which uses none of these descriptors.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first as libc::c_uint,
            last as libc::c_uint,
            0,
        )
    };
}

fn exit_now(status: i32) -> ! {
    // SAFETY: no destructors or buffers of the parent may run in the child.
    unsafe { libc::_exit(status) }
}

/// Makes orphans below this process its children, so that their exits can be collected.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: integer arguments only.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })?;
    Ok(())
}

/// The next exited child, if one waits: the only `waitpid` of the service.
pub fn reap_one() -> nix::Result<Option<(Pid, ExitStatus)>> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    match Errno::result(unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) }) {
        Ok(0) | Err(Errno::ECHILD) => Ok(None),
        Ok(pid) => Ok(Some((Pid::from_raw(pid), ExitStatus::from_wait(status)))),
        Err(errno) => Err(errno),
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    Exited(u8),
    Signaled(i32),
    /// It could not be collected.
    Unknown,
}

impl ExitStatus {
    fn from_wait(status: i32) -> Self {
        if libc::WIFSIGNALED(status) {
            Self::Signaled(libc::WTERMSIG(status))
        } else {
            Self::Exited(libc::WEXITSTATUS(status) as u8)
        }
    }

    /// `ExitCode` on the wire (protocol section 6.7): the status, or 128 + signal, or -1.
    pub fn code(self) -> u32 {
        match self {
            Self::Exited(code) => u32::from(code),
            Self::Signaled(signal) => 128 + signal.unsigned_abs(),
            Self::Unknown => u32::MAX,
        }
    }
}

/// `kill(2)` with any number that the host has sent. The kernel refuses an invalid one.
pub fn kill(pid: Pid, signal: i32) -> Result<(), Errno> {
    // SAFETY: integer arguments only.
    Errno::result(unsafe { libc::kill(pid.as_raw(), signal) }).map(drop)
}

/// `SIGKILL` for the group of a child made by [`fork_child`]: it and what it has started. The
/// child must not have been reaped, or the number may be another's by now.
pub fn kill_group(leader: Pid) -> Result<(), Errno> {
    // Before the child has made its group there is only itself.
    kill(Pid::from_raw(-leader.as_raw()), libc::SIGKILL).or_else(|_| kill(leader, libc::SIGKILL))
}
