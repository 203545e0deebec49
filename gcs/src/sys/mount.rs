//! The mount calls that take options one by one (fsopen(2), fsconfig(2), fsmount(2),
//! move_mount(2)): no length limit on all options together, no separators to escape, and the
//! kernel says in words what it did not like.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;

/// A file system being put together; closing it forgets it.
#[derive(Debug)]
pub struct FsContext(OwnedFd);

impl FsContext {
    /// `ENOSYS` before Linux 5.2, `ENODEV` for an unknown type.
    pub fn open(kind: &CStr) -> nix::Result<Self> {
        // SAFETY: the name is a NUL-terminated string that outlives the call.
        let fd = unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC) };
        owned(fd).map(Self)
    }

    /// One `key=value`, at most 255 bytes of value.
    pub fn set(&self, key: &CStr, value: &CStr) -> nix::Result<()> {
        self.configure(libc::FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr())
    }

    pub fn set_flag(&self, key: &CStr) -> nix::Result<()> {
        self.configure(libc::FSCONFIG_SET_FLAG, key.as_ptr(), ptr::null())
    }

    /// Makes the superblock and a mount of it; `attributes` are `MOUNT_ATTR_*`.
    pub fn create(&self, attributes: u64) -> nix::Result<Detached> {
        self.configure(libc::FSCONFIG_CMD_CREATE, ptr::null(), ptr::null())?;
        // SAFETY: no pointers are passed.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_fsmount,
                self.0.as_raw_fd(),
                libc::FSMOUNT_CLOEXEC,
                attributes,
            )
        };
        owned(fd).map(Detached)
    }

    /// Gives the file system that this is of its new options.
    pub fn reconfigure(&self) -> nix::Result<()> {
        self.configure(libc::FSCONFIG_CMD_RECONFIGURE, ptr::null(), ptr::null())
    }

    /// What the kernel wrote about this context so far, one message per line.
    pub fn messages(&self) -> String {
        let mut text = String::new();
        let mut buffer = [0; 1024];
        // One message per read; the kernel keeps at most eight.
        for _ in 0..8 {
            match nix::unistd::read(self.0.as_fd(), &mut buffer) {
                Ok(length @ 1..) => {
                    if !text.is_empty() {
                        text.push('\n');
                    }
                    text.push_str(String::from_utf8_lossy(&buffer[..length]).trim_end());
                }
                _ => break,
            }
        }
        text
    }

    fn configure(
        &self,
        command: libc::fsconfig_command,
        key: *const libc::c_char,
        value: *const libc::c_char,
    ) -> nix::Result<()> {
        // SAFETY: the callers pass null where the command takes none, else strings that end
        // in NUL and outlive the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                command,
                key,
                value,
                0,
            )
        };
        Errno::result(result).map(drop)
    }
}

impl From<OwnedFd> for FsContext {
    /// Of a descriptor of `fspick(2)`.
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

/// A mount that is in no directory yet; closing it unmounts.
#[derive(Debug)]
pub struct Detached(OwnedFd);

impl AsFd for Detached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Detached> for OwnedFd {
    fn from(mount: Detached) -> Self {
        mount.0
    }
}

impl Detached {
    pub fn attach(self, target: &CStr) -> nix::Result<()> {
        // SAFETY: both paths are NUL-terminated and outlive the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                target.as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH,
            )
        };
        Errno::result(result).map(drop)
    }
}

fn owned(result: libc::c_long) -> nix::Result<OwnedFd> {
    let fd = Errno::result(result)?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just made this descriptor for us and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
