//! Attributes of files, and of the file system below them.

use nix::unistd;
use rustix::fs::{self, AtFlags, Gid, Mode, Timespec, Timestamps, Uid, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;

use crate::fid::{qid, Fid, Node, State};
use crate::wire::{Fields, Reply};

/// All attributes that `stat` has (`P9_STATS_BASIC`).
const BASIC: u64 = 0x7ff;
/// A share's own, and not that of what it lies on (`V9FS_MAGIC`).
const MAGIC: u32 = 0x0102_1997;

/// New attributes of a file; what is absent stays.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) mode: Option<u32>,
    pub(crate) user: Option<u32>,
    pub(crate) group: Option<u32>,
    /// In bytes.
    pub(crate) size: Option<u64>,
    pub(crate) accessed: Option<Time>,
    pub(crate) modified: Option<Time>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Time {
    Now,
    At { seconds: u64, nanoseconds: u64 },
}

impl Change {
    pub(crate) fn parse(f: &mut Fields<'_>) -> Result<Self, Errno> {
        let valid = f.u32()?;
        let (mode, user, group, size) = (f.u32()?, f.u32()?, f.u32()?, f.u64()?);
        let mut time = |set: u32, given: u32| -> Result<Option<Time>, Errno> {
            let (seconds, nanoseconds) = (f.u64()?, f.u64()?);
            Ok(match (valid & set != 0, valid & given != 0) {
                (false, _) => None,
                (true, false) => Some(Time::Now),
                (true, true) => Some(Time::At {
                    seconds,
                    nanoseconds,
                }),
            })
        };
        Ok(Self {
            mode: (valid & 1 != 0).then_some(mode),
            user: (valid & 2 != 0).then_some(user),
            group: (valid & 4 != 0).then_some(group),
            size: (valid & 8 != 0).then_some(size),
            accessed: time(0x10, 0x80)?,
            modified: time(0x20, 0x100)?,
        })
    }
}

pub(crate) fn tell(node: &Node, reply: &mut Reply) -> Result<(), Errno> {
    let stat = node.stat()?;
    reply.u64(BASIC);
    reply.qid(qid(&stat));
    for value in [stat.st_mode, stat.st_uid, stat.st_gid] {
        reply.u32(value);
    }
    for value in [
        stat.st_nlink,
        stat.st_rdev,
        stat.st_size as u64,
        stat.st_blksize as u64,
        stat.st_blocks as u64,
        stat.st_atime as u64,
        stat.st_atime_nsec,
        stat.st_mtime as u64,
        stat.st_mtime_nsec,
        stat.st_ctime as u64,
        stat.st_ctime_nsec,
        // Time of birth, generation and version of the data, which are not told.
        0,
        0,
        0,
        0,
    ] {
        reply.u64(value);
    }
    Ok(())
}

pub(crate) fn change(fid: &Fid, change: Change) -> Result<(), Errno> {
    let node = fid.node()?;
    // First the owner: a change of it takes bits off the mode.
    if change.user.is_some() || change.group.is_some() {
        let (user, group) = (
            change.user.map(Uid::from_raw),
            change.group.map(Gid::from_raw),
        );
        fs::chownat(node, c"", user, group, AtFlags::EMPTY_PATH)?;
    }
    if let Some(mode) = change.mode {
        fs::chmod(node.path(), Mode::from_raw_mode(mode & 0o7777))?;
    }
    if let Some(size) = change.size {
        resize(fid, node, size)?;
    }
    if change.accessed.is_some() || change.modified.is_some() {
        let times = Timestamps {
            last_access: timespec(change.accessed),
            last_modification: timespec(change.modified),
        };
        fs::utimensat(fs::CWD, node.path(), &times, AtFlags::empty())?;
    }
    Ok(())
}

/// Who has the file open for writing may do this whatever its mode has become.
fn resize(fid: &Fid, node: &Node, size: u64) -> Result<(), Errno> {
    let writable = match &fid.state {
        State::Open(_, flags) => flags.intersects(fs::OFlags::WRONLY | fs::OFlags::RDWR),
        _ => false,
    };
    if writable {
        return fs::ftruncate(node, size);
    }
    let size = i64::try_from(size).map_err(|_| Errno::FBIG)?;
    if node.kind()? != fs::FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    unistd::truncate(node.path().as_str(), size).map_err(|e| Errno::from_raw_os_error(e as i32))
}

fn timespec(time: Option<Time>) -> Timespec {
    let of = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    match time {
        None => of(0, UTIME_OMIT),
        Some(Time::Now) => of(0, UTIME_NOW),
        // A number that is no number of nanoseconds is refused by the kernel.
        Some(Time::At {
            seconds,
            nanoseconds,
        }) => of(seconds as i64, nanoseconds.min(1_000_000_000) as fs::Nsecs),
    }
}

pub(crate) fn tell_file_system(node: &Node, reply: &mut Reply) -> Result<(), Errno> {
    let all = fs::fstatfs(node)?;
    reply.u32(MAGIC);
    reply.u32(all.f_bsize as u32);
    for value in [
        all.f_blocks,
        all.f_bfree,
        all.f_bavail,
        all.f_files,
        all.f_ffree,
    ] {
        reply.u64(value);
    }
    reply.u64(0);
    reply.u32(all.f_namelen as u32);
    Ok(())
}
