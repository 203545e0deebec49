//! Locks of files, against programs of this machine. Locks between programs of the guest are the
//! guest's kernel's; it asks here when it has granted one.
//!
//! A lock of the whole file is one by `flock`, for which a file may be open in any way. One of a
//! part is the open file's own (`F_OFD_SETLK`, fcntl(2)).

use std::os::fd::AsFd;

use nix::fcntl::{fcntl, FcntlArg};
use nix::libc;
use rustix::fs::{flock, FlockOperation};
use rustix::io::Errno;

use crate::fid::Node;
use crate::wire::Fields;

/// A lock of bytes; a length of 0 reaches to the end of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) kind: LockKind,
    pub(crate) start: u64,
    pub(crate) length: u64,
    /// Of the guest.
    pub(crate) process: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockKind {
    Read = 0,
    Write = 1,
    Unlock = 2,
}

impl LockKind {
    pub(crate) fn parse(kind: u8) -> Result<Self, Errno> {
        match kind {
            0 => Ok(Self::Read),
            1 => Ok(Self::Write),
            2 => Ok(Self::Unlock),
            _ => Err(Errno::INVAL),
        }
    }
}

impl Range {
    pub(crate) fn parse(kind: LockKind, f: &mut Fields<'_>) -> Result<Self, Errno> {
        Ok(Self {
            kind,
            start: f.u64()?,
            length: f.u64()?,
            process: f.u32()?,
        })
    }

    pub(crate) fn is_whole_file(self) -> bool {
        (self.start, self.length) == (0, 0)
    }
}

/// What an attempt ended with (`P9_LOCK_SUCCESS`, `P9_LOCK_BLOCKED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locked {
    Success = 0,
    Blocked = 1,
}

/// Does not wait: the client tries again by itself.
pub(crate) fn lock(node: &Node, lock: Range) -> Result<Locked, Errno> {
    let unlock = lock.kind == LockKind::Unlock;
    let tried = if lock.is_whole_file() {
        whole(node, lock.kind)
    } else {
        part(node, lock)
    };
    // An unlock of all that ends locks of parts as well.
    if unlock && lock.is_whole_file() {
        part(node, lock)?;
    }
    match tried {
        Ok(()) => Ok(Locked::Success),
        Err(Errno::WOULDBLOCK | Errno::ACCESS) => Ok(Locked::Blocked),
        Err(e) => Err(e),
    }
}

fn whole(node: &Node, kind: LockKind) -> Result<(), Errno> {
    flock(
        node,
        match kind {
            LockKind::Read => FlockOperation::NonBlockingLockShared,
            LockKind::Write => FlockOperation::NonBlockingLockExclusive,
            LockKind::Unlock => FlockOperation::NonBlockingUnlock,
        },
    )
}

fn part(node: &Node, lock: Range) -> Result<(), Errno> {
    let raw = raw(lock)?;
    control(node, FcntlArg::F_OFD_SETLK(&raw))
}

/// The lock that is in the way of this one, if there is one.
pub(crate) fn conflict(node: &Node, lock: Range) -> Result<Option<Range>, Errno> {
    let mut raw = raw(lock)?;
    control(node, FcntlArg::F_OFD_GETLK(&mut raw))?;
    let kind = match i32::from(raw.l_type) {
        libc::F_RDLCK => LockKind::Read,
        libc::F_WRLCK => LockKind::Write,
        _ => return Ok(None),
    };
    Ok(Some(Range {
        kind,
        start: raw.l_start as u64,
        length: raw.l_len as u64,
        process: raw.l_pid.max(0) as u32,
    }))
}

fn control(node: &Node, argument: FcntlArg<'_>) -> Result<(), Errno> {
    let done = fcntl(node.as_fd(), argument);
    done.map(drop)
        .map_err(|e| Errno::from_raw_os_error(e as i32))
}

fn raw(lock: Range) -> Result<libc::flock, Errno> {
    let number = |value| i64::try_from(value).map_err(|_| Errno::INVAL);
    let kind = match lock.kind {
        LockKind::Read => libc::F_RDLCK,
        LockKind::Write => libc::F_WRLCK,
        LockKind::Unlock => libc::F_UNLCK,
    };
    Ok(libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: number(lock.start)?,
        l_len: number(lock.length)?,
        // The kernel wants it so.
        l_pid: 0,
    })
}
