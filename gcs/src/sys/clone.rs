//! `clone3(2)` and the joins of namespaces by a process.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::unistd::Pid;

/// `CLONE_PIDFD`, which nix does not have.
const PIDFD: u64 = 0x1000;
/// `CLONE_PARENT_SETTID`, which it does not have either.
#[cfg(target_arch = "x86_64")]
const PARENT_SETTID: CloneFlags = CloneFlags::from_bits_retain(libc::CLONE_PARENT_SETTID);
/// `CLONE_INTO_CGROUP` (Linux 5.7).
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of a clone this is.
#[derive(Debug)]
pub enum Side {
    /// The new process, and a descriptor of it (close-on-exec).
    Caller(Pid, OwnedFd),
    /// With its own number as the caller sees it, when the caller is gone and cannot tell it.
    New(Option<Pid>),
}

/// The kernel's `struct clone_args`, up to the member that the cgroup is in.
#[repr(C)]
#[derive(Default)]
struct Args {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

impl Args {
    fn of(flags: CloneFlags, group: Option<BorrowedFd<'_>>) -> Self {
        let mut args = Self {
            // Bit 31 (CLONE_IO) makes the flags of nix negative: no sign extension.
            flags: u64::from(flags.bits().cast_unsigned()),
            ..Self::default()
        };
        if let Some(group) = group {
            args.flags |= INTO_CGROUP;
            args.cgroup = u64::from(group.as_raw_fd().cast_unsigned());
        }
        args
    }
}

/// Like [`sibling`], except that the new process takes over the memory of this one, which ends
/// with status 0 as soon as the new one is there. Nothing is copied, and only the new one
/// returns. It is not in a time namespace that this process has made for its children.
///
/// # Errors
/// As [`sibling`]. This process goes on then.
#[cfg(target_arch = "x86_64")]
pub fn successor(new: CloneFlags, group: Option<BorrowedFd<'_>>) -> nix::Result<Side> {
    let flags = CloneFlags::CLONE_PARENT | CloneFlags::CLONE_VM | PARENT_SETTID;
    let mut number: libc::pid_t = 0;
    let mut args = Args::of(new | flags, group);
    args.parent_tid = std::ptr::from_mut(&mut number) as u64;
    let mut result = libc::SYS_clone3;
    // SAFETY: the first call takes a null pointer: the kernel writes nothing into the memory when
    // this process ends. `args` has the kernel's layout, and it outlives the second call, as
    // does `number`, which the kernel writes before the new process runs. The new process goes on
    // with this stack. The old one touches no memory after the call, for its next instructions
    // end it, and as its handlers of signals are reset, none can run. So each value has one
    // process that uses it at any time, and the code returns once.
    unsafe {
        libc::syscall(libc::SYS_set_tid_address, std::ptr::null::<libc::c_int>());
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            // Zero in the new process, negative when there is none.
            "jle 2f",
            "xor edi, edi",
            "mov eax, {exit}",
            "syscall",
            "ud2",
            "2:",
            exit = const libc::SYS_exit_group,
            inlateout("rax") result,
            in("rdi") &raw mut args,
            in("rsi") size_of::<Args>(),
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    match i32::try_from(-result) {
        Ok(0) => Ok(Side::New(Some(Pid::from_raw(number)))),
        errno => Err(errno.map_or(Errno::UnknownErrno, Errno::from_raw)),
    }
}

/// Elsewhere with a copy.
#[cfg(not(target_arch = "x86_64"))]
pub fn successor(new: CloneFlags, group: Option<BorrowedFd<'_>>) -> nix::Result<Side> {
    sibling(new, group)
}

/// A copy of this process, as by fork, that is its sibling: its exit is told to this process's
/// parent. It is made in the namespaces of `new`, and in the cgroup (v2) of `group`.
///
/// # Errors
/// As clone(2). A group whose `pids.max` is reached gives `EAGAIN`.
pub fn sibling(new: CloneFlags, group: Option<BorrowedFd<'_>>) -> nix::Result<Side> {
    let mut pidfd: RawFd = -1;
    let mut args = Args::of(new | CloneFlags::CLONE_PARENT, group);
    args.flags |= PIDFD;
    args.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    // SAFETY: without a stack of its own the new process goes on with a copy of this one, as
    // after fork(2); this process has one thread, so that its memory is whole. `args` has the
    // kernel's layout and outlives the call, and so does `pidfd`.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &mut args, size_of::<Args>()) };
    match Errno::result(pid)? {
        0 => Ok(Side::New(None)),
        pid => {
            // SAFETY: the kernel has just made it for this process.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let pid = i32::try_from(pid).map_err(|_| Errno::EOVERFLOW)?;
            Ok(Side::Caller(Pid::from_raw(pid), pidfd))
        }
    }
}

/// Joins the namespaces of `process` (a pidfd) that `which` names; of a pid namespace only the
/// processes that this one makes from then on are members.
pub fn join(process: impl AsFd, which: CloneFlags) -> nix::Result<()> {
    nix::sched::setns(process.as_fd(), which)
}

/// The kind of namespace that `fd` is, as its `CLONE_NEW…` flag (ioctl_nsfs(2)).
///
/// # Errors
/// `ENOTTY` when it is none.
pub fn kind_of_namespace(fd: impl AsFd) -> nix::Result<CloneFlags> {
    const NS_GET_NSTYPE: u32 = 0xb703;
    // SAFETY: the request takes no argument.
    let kind = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), NS_GET_NSTYPE as _) };
    Errno::result(kind).map(CloneFlags::from_bits_retain)
}

/// Ends this process without any of the destructors and buffers that it has from its parent.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: nothing runs after it.
    unsafe { libc::_exit(status) }
}
