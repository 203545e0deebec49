//! Removes a directory tree that a container may have written: a scratch directory, a bundle, or
//! what a failed Create has left (protocol section 6.11).
//!
//! Data below a mount is never deleted, not even below a bind mount of the same file system
//! (P-229). No symbolic link is followed. Depth costs neither stack nor descriptors.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{open, openat2, OFlag, OpenHow, ResolveFlag};
use nix::mount::{umount2, MntFlags};
use nix::sys::stat::{fstat, Mode};
use nix::unistd::{unlinkat, UnlinkatFlags};

use super::mountinfo::mount_points_below;
use super::path::clean;
use crate::error::Failure;

/// Unmounts everything mounted at or below `path`, last-mounted first. A path that does not
/// exist is a success; so is an empty one (P-232). A mount in use is an error that names it.
pub fn unmount_below(path: &Path) -> Result<(), Failure> {
    match resolve(path)? {
        Some(target) => unmount_resolved(&target.full),
        None => Ok(()),
    }
}

/// Unmounts what is mounted at or below `path`, then removes it with everything inside. A missing
/// or empty path is a success (P-232). Stops at the first thing that cannot be removed.
pub fn remove(path: &Path) -> Result<(), Failure> {
    let Some(target) = resolve(path)? else {
        return Ok(());
    };
    unmount_resolved(&target.full)?;
    let parent = match open(&target.parent, DIRECTORY, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(()),
        opened => opened.map_err(|error| failure("cannot open", &target.parent, error))?,
    };
    remove_at(parent, &target.name).map_err(|(name, error)| {
        let below = OsStr::from_bytes(name.to_bytes());
        let doing = match error {
            Errno::EXDEV | Errno::EBUSY => "still a mount point or in use, not removed",
            _ => "cannot remove",
        };
        failure(
            &format!("{doing}: {below:?} while removing"),
            &target.full,
            error,
        )
    })
}

/// A path whose parent is free of symbolic links, as the mount table shows paths.
struct ResolvedPath {
    parent: PathBuf,
    name: CString,
    full: PathBuf,
}

fn resolve(path: &Path) -> Result<Option<ResolvedPath>, Failure> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let path = clean(path)
        .map_err(|error| Failure::unspecified(format!("cannot remove {path:?}: {error}")))?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Failure::unspecified(
            "refusing to remove the root directory",
        ));
    };
    let parent = match std::fs::canonicalize(parent) {
        Ok(parent) => parent,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Failure::unspecified(format!(
                "cannot resolve {parent:?}: {error}"
            )))
        }
    };
    let full = parent.join(name);
    let name = CString::new(name.as_bytes())
        .map_err(|_| Failure::unspecified(format!("cannot remove {path:?}: NUL in the name")))?;
    Ok(Some(ResolvedPath { parent, name, full }))
}

/// One pass in reverse order is enough unless mounts were moved. A pass that frees nothing ends the
/// loop, so the number of mounts bounds it.
fn unmount_resolved(path: &Path) -> Result<(), Failure> {
    loop {
        let points = mount_points_below(path).map_err(|error| {
            Failure::unspecified(format!("cannot read the mount table: {error}"))
        })?;
        let mut freed = 0;
        let mut refused = None;
        for point in points.iter().rev() {
            match umount2(point, MntFlags::UMOUNT_NOFOLLOW) {
                Ok(()) => freed += 1,
                // Hidden below another mount, or gone with a propagated unmount.
                Err(Errno::ENOENT | Errno::EINVAL) => {}
                Err(error) => refused = Some((point, error)),
            }
        }
        match refused {
            _ if points.is_empty() => return Ok(()),
            _ if freed > 0 => {}
            Some((point, error)) => return Err(failure("cannot unmount", point, error)),
            None => {
                return Err(Failure::unspecified(format!(
                    "cannot unmount {:?}: it is hidden by another mount",
                    points[0]
                )))
            }
        }
    }
}

fn failure(doing: &str, path: &Path, error: Errno) -> Failure {
    Failure::unspecified(format!("{doing} {path:?}: {}", error.desc()))
}

const DIRECTORY: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC);

/// Opens a directory one level down; a mount point, also of the same device, is `EXDEV`.
fn descend(at: impl AsFd, name: &CStr) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(DIRECTORY | OFlag::O_NOFOLLOW).resolve(
        ResolveFlag::RESOLVE_NO_XDEV
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_BENEATH,
    );
    openat2(at, name, how)
}

fn identity(directory: impl AsFd) -> nix::Result<(u64, u64)> {
    fstat(directory).map(|stat| (stat.st_dev, stat.st_ino))
}

/// Removes `name` in `parent` with all that is below it. Two descriptors are open at any depth. The
/// way back up is `..`, which must be the directory that the walk came from.
fn remove_at(parent: OwnedFd, name: &CStr) -> Result<(), (CString, Errno)> {
    let mut here = parent;
    // The directories being emptied: name, and the identity of the one it lies in.
    let mut above: Vec<(CString, (u64, u64))> = Vec::new();
    let mut next = Some(name.to_owned());
    loop {
        if let Some(name) = next.take() {
            match remove_entry(&here, &name) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(Errno::ENOTEMPTY | Errno::EEXIST) => {
                    let at = |error| (name.clone(), error);
                    let origin = identity(&here).map_err(at)?;
                    here = descend(&here, &name).map_err(at)?;
                    above.push((name, origin));
                }
                Err(error) => return Err((name, error)),
            }
            if above.is_empty() {
                return Ok(());
            }
        }
        let Some((name, origin)) = above.last() else {
            return Ok(());
        };
        let at = |error| (name.clone(), error);
        next = empty(&here).map_err(|(name, error)| (name.unwrap_or_default(), error))?;
        if next.is_none() {
            let up = nix::fcntl::openat(&here, c"..", DIRECTORY, Mode::empty()).map_err(at)?;
            if identity(&up).map_err(at)? != *origin {
                // Somebody has moved the directory, and going on would remove files elsewhere.
                return Err(at(Errno::ESTALE));
            }
            here = up;
            next = above.pop().map(|(name, _)| name);
        }
    }
}

/// Removes every entry that can be removed at once. Returns the first sub-directory that has to be
/// emptied first, or `None` when the directory is empty.
fn empty(directory: &OwnedFd) -> Result<Option<CString>, (Option<CString>, Errno)> {
    let own = nix::fcntl::openat(directory, c".", DIRECTORY, Mode::empty())
        .map_err(|error| (None, error))?;
    let mut listing = Dir::from_fd(own).map_err(|error| (None, error))?;
    for entry in listing.iter() {
        let entry = entry.map_err(|error| (None, error))?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        match remove_entry(directory, name) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => return Ok(Some(name.to_owned())),
            Err(error) => return Err((Some(name.to_owned()), error)),
        }
    }
    Ok(None)
}

/// A file, link or empty directory. The kernel refuses mount points with `EBUSY`.
fn remove_entry(directory: &OwnedFd, name: &CStr) -> nix::Result<()> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::EISDIR) => unlinkat(directory, name, UnlinkatFlags::RemoveDir),
        other => other,
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
