//! `maskedPaths` and `readonlyPaths`. What they hide has to be the kernel's own file at that
//! place: each is opened once, and that descriptor is what is covered.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::stat::{fstat, SFlag};

use super::walk::Root;
use crate::engine::bare::Covers;
use crate::engine::fault::Step;
use crate::engine::plan::READ_ONLY;
use crate::error::Failure;
use crate::sys::mountfd;

/// Covers files by an empty device and directories by an empty directory, both read-only.
pub fn mask(root: &Root, paths: &[String], covers: &Covers) -> Result<(), Failure> {
    each(root, paths, |place| {
        let mode = fstat(place)?.st_mode & SFlag::S_IFMT.bits();
        let cover = match mode == SFlag::S_IFDIR.bits() {
            true => &covers.directory,
            false => &covers.file,
        };
        mountfd::attach(mountfd::copy_of(cover, false)?, place)
    })
    .map_err(|failure| failure.during("linux.maskedPaths"))
}

/// Adds read-only to what the mount at the path has of flags, and takes none of them away.
pub fn read_only(root: &Root, paths: &[String]) -> Result<(), Failure> {
    each(root, paths, |place| {
        let copy = mountfd::copy_of(place, true)?;
        mountfd::change(&copy, &READ_ONLY, false)?;
        mountfd::attach(copy, place)
    })
    .map_err(|failure| failure.during("linux.readonlyPaths"))
}

/// What is not there needs nothing.
fn each(
    root: &Root,
    paths: &[String],
    cover: impl Fn(&OwnedFd) -> nix::Result<()>,
) -> Result<(), Failure> {
    for path in paths {
        match root.find(path) {
            Ok(place) => cover(&place).step(|| path.clone())?,
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(errno) => return Err(errno).step(|| path.clone()),
        }
    }
    Ok(())
}
