//! Device nodes and the links beside them.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{readlinkat, AtFlags};
use nix::sys::stat::{fstatat, mknodat, Mode, SFlag};
use nix::unistd::{fchownat, symlinkat, unlinkat, Gid, Uid, UnlinkatFlags};

use super::walk::{Make, Root};
use crate::engine::fault::Step;
use crate::engine::plan::Node;
use crate::error::Failure;

/// What programs expect in `/dev` beside devices.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Makes the nodes, whose modes no umask may narrow, and the links.
pub fn all(root: &Root, nodes: &[Node]) -> Result<(), Failure> {
    let dev = root.place("/dev", Make::Directory).step(|| "open /dev")?.fd;
    for node in nodes {
        make(root, &dev, node).map_err(|failure| failure.during(&node.path))?;
    }
    for (name, to) in LINKS {
        link(&dev, name, to).step(|| format!("make /dev/{name}"))?;
    }
    if root.find("/proc/kcore").is_ok() {
        link(&dev, "core", "/proc/kcore").step(|| "make /dev/core")?;
    }
    Ok(())
}

fn make(root: &Root, dev: &OwnedFd, node: &Node) -> Result<(), Failure> {
    let elsewhere;
    let (directory, name) = match node.path.strip_prefix("/dev/") {
        Some(name) if !name.contains('/') => (dev, name),
        _ => {
            let (directory, name) = root
                .parent(&node.path)
                .step(|| "make the directory of the device")?;
            elsewhere = directory;
            (&elsewhere, name)
        }
    };
    let mode = Mode::from_bits_truncate(node.mode);
    match mknodat(directory, name, node.kind, mode, node.number) {
        Ok(()) => {}
        // What a root has already is as good, if it is the same device.
        Err(Errno::EEXIST) if is(directory, name, node) => {}
        Err(errno) => return Err(errno).step(|| "make the device"),
    }
    if (node.uid, node.gid) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        fchownat(directory, name, Some(uid), Some(gid), flags)
            .step(|| format!("give the device to {uid}:{gid}"))?;
    }
    Ok(())
}

fn is(directory: &OwnedFd, name: &str, node: &Node) -> bool {
    fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|found| {
        found.st_mode & SFlag::S_IFMT.bits() == node.kind.bits() && found.st_rdev == node.number
    })
}

/// Replaces a link or file of that name that leads elsewhere; a directory stays an error.
fn link(dev: &OwnedFd, name: &str, to: &str) -> nix::Result<()> {
    match symlinkat(to, dev, name) {
        Err(Errno::EEXIST) if readlinkat(dev, name).is_ok_and(|there| there == to) => Ok(()),
        Err(Errno::EEXIST) => {
            unlinkat(dev, name, UnlinkatFlags::NoRemoveDir)?;
            symlinkat(to, dev, name)
        }
        result => result,
    }
}
