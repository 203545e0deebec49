//! `tmpcopyup`: what a new tmpfs covers is copied into it, by descriptors, without following links.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{openat, readlinkat, AtFlags, OFlag};
use nix::sys::stat::{fchmodat, fstatat, mkdirat, mknodat, FchmodatFlags, FileStat, Mode, SFlag};
use nix::unistd::{fchownat, symlinkat, Gid, Uid};

/// Deeper directories are refused: each holds two descriptors while it is copied.
const DEEPEST: usize = 64;

const DIRECTORY: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// Copies what is in the directory `from` into `to`, with owners and modes.
pub fn tree(from: &OwnedFd, to: &OwnedFd) -> nix::Result<()> {
    directory(from, to, 0)
}

fn directory(from: &OwnedFd, to: &OwnedFd, depth: usize) -> nix::Result<()> {
    if depth > DEEPEST {
        return Err(Errno::ELOOP);
    }
    let mut entries = Dir::openat(from, ".", DIRECTORY, Mode::empty())?;
    for entry in entries.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            copy(from, to, name, depth)?;
        }
    }
    Ok(())
}

fn copy(from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: usize) -> nix::Result<()> {
    let found = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let kind = SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits());
    let own = Mode::S_IRWXU;
    match kind {
        SFlag::S_IFDIR => {
            mkdirat(to, name, own)?;
            let below = openat(from, name, DIRECTORY, Mode::empty())?;
            let made = openat(to, name, DIRECTORY, Mode::empty())?;
            directory(&below, &made, depth + 1)?;
        }
        SFlag::S_IFLNK => symlinkat(readlinkat(from, name)?.as_os_str(), to, name)?,
        SFlag::S_IFREG => contents(from, to, name)?,
        _ => mknodat(to, name, kind, own, found.st_rdev)?,
    }
    give(to, name, &found, kind)
}

fn contents(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> nix::Result<()> {
    let read = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let write = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let mut source = File::from(openat(from, name, read, Mode::empty())?);
    let mut copy = File::from(openat(to, name, write, Mode::S_IRWXU)?);
    io::copy(&mut source, &mut copy)
        .map(drop)
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}

fn give(to: &OwnedFd, name: &CStr, found: &FileStat, kind: SFlag) -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid));
    fchownat(to, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if kind == SFlag::S_IFLNK {
        return Ok(());
    }
    let mode = Mode::from_bits_truncate(found.st_mode & 0o7777);
    fchmodat(to, name, mode, FchmodatFlags::FollowSymlink)
}
