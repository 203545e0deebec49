//! Mounts by descriptor: `open_tree(2)`, `move_mount(2)`, `mount_setattr(2)`. No path is looked
//! up but where one is given.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// A change of a mount's attributes (`struct mount_attr`): `MOUNT_ATTR_*`, and `MS_PRIVATE` and
/// the like for the propagation, 0 to leave it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    pub set: u64,
    pub clear: u64,
    pub propagation: u64,
    user_namespace: u64,
}

impl Change {
    pub const fn new(set: u64, clear: u64, propagation: u64) -> Self {
        Self {
            set,
            clear,
            propagation,
            user_namespace: 0,
        }
    }

    pub const fn is_nothing(&self) -> bool {
        self.set == 0 && self.clear == 0 && self.propagation == 0
    }
}

/// A detached copy of the mount at `path`, which is looked up from `dir`; with all mounts below
/// it when `recursive`. It ends when the descriptor is closed, unless it was attached.
pub fn copy_at(dir: BorrowedFd<'_>, path: &CStr, recursive: bool) -> nix::Result<OwnedFd> {
    tree(dir, path, clone_flags(recursive))
}

/// The same of the mount that is open as `fd`, or of the part of it that begins there.
pub fn copy_of(fd: impl AsFd, recursive: bool) -> nix::Result<OwnedFd> {
    let flags = clone_flags(recursive) | libc::AT_EMPTY_PATH.cast_unsigned();
    tree(fd.as_fd(), c"", flags)
}

fn clone_flags(recursive: bool) -> libc::c_uint {
    let below = if recursive { libc::AT_RECURSIVE } else { 0 };
    libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | below.cast_unsigned()
}

fn tree(dir: BorrowedFd<'_>, path: &CStr, flags: libc::c_uint) -> nix::Result<OwnedFd> {
    // SAFETY: the path is NUL-terminated and outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) };
    let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: just returned by the kernel, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts the mount `from` on `onto`: on top of all that is mounted there.
pub fn attach(from: impl AsFd, onto: impl AsFd) -> nix::Result<()> {
    // SAFETY: both paths are static C strings.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            from.as_fd().as_raw_fd(),
            c"".as_ptr(),
            onto.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH,
        )
    };
    Errno::result(done).map(drop)
}

/// Changes the mount that `fd` is the root of; with all below it when `recursive`, all or none.
pub fn change(fd: impl AsFd, what: &Change, recursive: bool) -> nix::Result<()> {
    let below = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a static C string; `what` has the kernel's layout and outlives the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | below,
            std::ptr::from_ref(what),
            size_of::<Change>(),
        )
    };
    Errno::result(done).map(drop)
}

/// Reconfigures the file system that `fd` is in (`fspick(2)`): each option `key=value` or `key`.
/// The error comes with the option that the kernel did not take, if it was one.
pub fn reconfigure<'a>(
    fd: impl AsFd,
    options: impl Iterator<Item = (&'a CStr, Option<&'a CStr>)>,
) -> Result<(), (Errno, Option<&'a CStr>)> {
    const FSPICK_CLOEXEC: libc::c_uint = 1;
    const FSPICK_EMPTY_PATH: libc::c_uint = 8;
    // SAFETY: the path is a static C string.
    let context = unsafe {
        libc::syscall(
            libc::SYS_fspick,
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            FSPICK_CLOEXEC | FSPICK_EMPTY_PATH,
        )
    };
    let context = Errno::result(context).map_err(|e| (e, None))?;
    let context = i32::try_from(context).map_err(|_| (Errno::EBADF, None))?;
    // SAFETY: just returned by the kernel, owned by nobody else.
    let context = super::mount::FsContext::from(unsafe { OwnedFd::from_raw_fd(context) });
    for (key, value) in options {
        let set = match value {
            Some(value) => context.set(key, value),
            None => context.set_flag(key),
        };
        set.map_err(|e| (e, Some(key)))?;
    }
    context.reconfigure().map_err(|e| (e, None))
}
