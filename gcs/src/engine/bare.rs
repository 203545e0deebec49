//! A mount namespace in which there is nothing of the VM: a container begins as a copy of it.
//!
//! ```text
//! hidden root ─ a small read-only tmpfs ─ (the container's root is put on top)
//! ```
//!
//! So a container's namespace never holds a mount of the VM, or of another container, that would
//! have to be taken away; its making costs the same however many there are; and a container that
//! may unmount its own root finds an empty directory below.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{open, openat, OFlag};
use nix::mount::{mount, umount2, MntFlags, MsFlags};
use nix::sched::{setns, unshare, CloneFlags};
use nix::sys::stat::{makedev, mkdirat, mknodat, Mode, SFlag};
use nix::unistd::{chroot, fchdir, pivot_root};

use super::fault::Step;
use super::plan::READ_ONLY;
use crate::error::Failure;
use crate::sys::mount::FsContext;
use crate::sys::{mountfd, root};

/// Descriptor of the namespace.
#[derive(Debug)]
pub struct Bare(OwnedFd);

/// What paths are hidden by: both are in the tmpfs, which no container can change.
#[derive(Debug)]
pub struct Covers {
    pub file: OwnedFd,
    pub directory: OwnedFd,
}

const FILE: &str = "null";
const DIRECTORY: &str = "empty";
const NAMESPACES: &str = "/proc/self/ns";

impl Bare {
    pub fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Makes one, leaving the caller in the namespace where it is. For a task: it copies the
    /// whole mount tree of the VM once.
    pub fn make() -> Result<Self, Failure> {
        // By a directory that is open: the new one has no procfs in the end.
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory =
            open(NAMESPACES, flags, Mode::empty()).step(|| format!("open {NAMESPACES}"))?;
        let here = namespace(&directory)?;
        unshare(CloneFlags::CLONE_NEWNS).step(|| "make a mount namespace")?;
        let bare = empty().and_then(|()| namespace(&directory));
        setns(&here, CloneFlags::CLONE_NEWNS).step(|| "return to the mount namespace")?;
        bare.map(Self).map_err(|failure| {
            failure.during("make the mount namespace that containers begin with")
        })
    }

    /// Moves the caller there.
    pub fn enter(&self) -> nix::Result<()> {
        setns(&self.0, CloneFlags::CLONE_NEWNS)
    }
}

impl AsFd for Bare {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Covers {
    /// For who is in a copy of the namespace, at its root.
    pub fn open() -> nix::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        Ok(Self {
            file: open(format!("/{FILE}").as_str(), flags, Mode::empty())?,
            directory: open(format!("/{DIRECTORY}").as_str(), flags, Mode::empty())?,
        })
    }
}

/// The mount namespace that this process is in.
fn namespace(directory: &OwnedFd) -> Result<OwnedFd, Failure> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    openat(directory, "mnt", flags, Mode::empty()).step(|| format!("open {NAMESPACES}/mnt"))
}

fn empty() -> Result<(), Failure> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .step(|| "make all mounts private")?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").step(|| "read the mounts")?;
    let floor = tmpfs().step(|| "make a tmpfs")?;
    let old = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).step(|| "open /")?;
    mountfd::attach(&floor, &old).step(|| "put a tmpfs on /")?;
    // "/" as such is still what is below: a path does not step onto what covers it.
    for child in root::initramfs_children(&mounts).into_iter().flatten() {
        umount2(child.as_str(), MntFlags::MNT_DETACH).step(|| format!("unmount {child}"))?;
    }
    fchdir(&floor).step(|| "go to the tmpfs")?;
    match pivot_root(".", ".") {
        Ok(()) => umount2(".", MntFlags::MNT_DETACH).step(|| "unmount the old root"),
        // An initramfs cannot be moved away, but it has nothing left.
        Err(Errno::EINVAL) => chroot(".").step(|| "change the root"),
        Err(errno) => Err(errno).step(|| "take the old root away"),
    }
}

/// With what paths are hidden by; read-only from the start of its first mount.
fn tmpfs() -> nix::Result<OwnedFd> {
    let context = FsContext::open(c"tmpfs")?;
    for (key, value) in [(c"mode", c"755"), (c"size", c"64k"), (c"nr_inodes", c"8")] {
        context.set(key, value)?;
    }
    let floor = context.create(0)?;
    let all = Mode::from_bits_truncate(0o666);
    mknodat(&floor, FILE, SFlag::S_IFCHR, all, makedev(1, 3))?;
    mkdirat(&floor, DIRECTORY, Mode::from_bits_truncate(0o555))?;
    let floor = OwnedFd::from(floor);
    mountfd::change(&floor, &READ_ONLY, false)?;
    Ok(floor)
}
