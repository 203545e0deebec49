//! The standard streams: pipes that are given to the process's user, or a terminal of the
//! container's own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{fstat, major, minor, SFlag};
use nix::sys::statfs::fstatfs;
use nix::unistd::{fchown, Uid};

use super::walk::{Make, Root};
use crate::engine::fault::Step;
use crate::engine::plan::Process;
use crate::error::Failure;
use crate::sys::{fds, mountfd};

/// A pty in the container.
pub struct Terminal {
    pub master: OwnedFd,
    pub slave: OwnedFd,
}

impl Terminal {
    /// Of the devpts that is mounted in the container; it belongs to the user of `process`.
    pub fn open(root: &Root, process: &Process) -> Result<Self, Failure> {
        let path = "/dev/pts/ptmx";
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
        // By the name of a place first: opening does things to some files.
        let found = root.find(path).step(|| format!("find {path}"))?;
        if !is_multiplexer(&found) {
            let why =
                format!("{path} is no terminal multiplexer: the container needs a devpts there");
            return Err(Failure::unspecified(why));
        }
        drop(found);
        let master = root.open(path, flags).step(|| format!("open {path}"))?;
        if !is_multiplexer(&master) {
            return Err(Failure::unspecified(format!("{path} has changed")));
        }
        crate::sys::channel::set_nonblocking(master.as_fd(), false).step(|| "the terminal")?;
        fds::unlock_pty(&master).step(|| "unlock the terminal")?;
        let slave = fds::pty_peer(&master).step(|| "open the terminal")?;
        let uid = Uid::from_raw(process.user.uid);
        fchown(&slave, Some(uid), None).step(|| format!("give the terminal to user {uid}"))?;
        if let Some(size) = process.size {
            fds::resize(&master, size.rows, size.columns).step(|| "process.consoleSize")?;
        }
        Ok(Self { master, slave })
    }

    /// Puts it at `/dev/console`.
    pub fn be_console(&self, root: &Root) -> Result<(), Failure> {
        let place = root.place("/dev/console", Make::File);
        place
            .and_then(|place| mountfd::attach(mountfd::copy_of(&self.slave, false)?, place.fd))
            .step(|| "mount the terminal on /dev/console")
    }
}

/// Character device 5:2 of a devpts.
fn is_multiplexer(fd: &OwnedFd) -> bool {
    // The type of the member differs between C libraries.
    const DEVPTS: i128 = 0x1cd1;
    let is_device = fstat(fd).is_ok_and(|found| {
        found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits()
            && (major(found.st_rdev), minor(found.st_rdev)) == (5, 2)
    });
    is_device && fstatfs(fd).is_ok_and(|fs| i128::from(fs.filesystem_type().0) == DEVPTS)
}

/// Gives what is not the user's own to it, so that the process can open it again by
/// `/dev/stdout`.
pub fn give(streams: &[BorrowedFd<'_>; 3], uid: u32) -> Result<(), Failure> {
    for stream in streams {
        let there = fstat(stream).step(|| "look at a standard stream")?;
        // /dev/null is everybody's.
        let is_device = there.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits();
        if there.st_uid == uid || is_device && major(there.st_rdev) == 1 {
            continue;
        }
        match fchown(stream, Some(Uid::from_raw(uid)), None) {
            // Not every kind of file has an owner that can change.
            Ok(()) | Err(Errno::EPERM | Errno::EINVAL | Errno::EROFS) => {}
            Err(errno) => return Err(errno).step(|| "give a standard stream to the user"),
        }
    }
    Ok(())
}

/// Makes the streams descriptors 0 to 2, and a terminal the controlling one of this session.
pub fn place(streams: [BorrowedFd<'_>; 3], terminal: bool) -> Result<(), Failure> {
    for (number, stream) in (0..).zip(streams) {
        fds::place(stream, number).step(|| format!("place standard stream {number}"))?;
    }
    if terminal {
        fds::control(streams[0]).step(|| "take the terminal")?;
    }
    Ok(())
}
