//! A root that `pivot_root(2)` accepts, also when the system runs from its initramfs.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::mount::{mount, umount2, MntFlags, MsFlags};
use nix::sched::{unshare, CloneFlags};
use nix::unistd::{chroot, fchdir};

/// Moves the calling process into a mount namespace of its own. When `/` there is the
/// initramfs, which cannot be pivoted away, puts a copy of the mount tree on top of it and
/// drops the tree below, so that the namespace holds no second reference to any mount.
pub fn pivotable() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let Some(children) = initramfs_children(&fs::read_to_string("/proc/self/mountinfo")?) else {
        return Ok(());
    };
    let copy = clone_tree()?;
    // Only the tree below (the copy is not attached yet): dropping its mounts must not
    // drop those of the other namespaces.
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )?;
    attach_at_root(&copy)?;
    // "/" as such is still the old root: a path does not step onto what covers it.
    for child in children {
        umount2(child.as_str(), MntFlags::MNT_DETACH)?;
    }
    fchdir(&copy)?;
    chroot(".")?;
    Ok(())
}

/// The mount points right below the initramfs, last mounted first; `None` when the root is
/// something else (proc_pid_mountinfo(5)).
pub fn initramfs_children(mountinfo: &str) -> Option<Vec<String>> {
    let mut lines = mountinfo.lines().map(|line| {
        let mut fields = line.split(' ');
        let id = fields.next()?;
        let parent = fields.next()?;
        let point = fields.nth(2)?;
        let kind = line.split_once(" - ")?.1.split(' ').next()?;
        Some((id, parent, point, kind))
    });
    let root = lines
        .clone()
        .flatten()
        .find(|(_, _, point, kind)| *point == "/" && *kind == "rootfs")?
        .0;
    let mut children: Vec<String> = lines
        .by_ref()
        .flatten()
        .filter(|(id, parent, ..)| *parent == root && *id != root)
        .map(|(_, _, point, _)| unescape(point))
        .collect();
    // Something covers it already: then "/" is that, and can be pivoted.
    if children.iter().any(|point| point == "/") {
        return None;
    }
    children.reverse();
    Some(children)
}

/// Undoes `\040` and the like.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = (byte == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(value) => {
                out.push(value);
                rest = &tail[3..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A detached copy of the whole mount tree.
fn clone_tree() -> io::Result<OwnedFd> {
    let flags =
        libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE.cast_unsigned();
    // SAFETY: the path is a static C string.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, c"/".as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: just returned by the kernel, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn attach_at_root(tree: &OwnedFd) -> io::Result<()> {
    // SAFETY: both paths are static C strings, the fd is open.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            c"/".as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_uncovered_initramfs_has_to_be_covered() {
        let initramfs = "1 1 0:2 / / rw - rootfs rootfs rw\n\
                         20 1 0:20 / /proc rw - proc proc rw\n\
                         21 1 0:21 / /run rw - tmpfs tmpfs rw\n\
                         22 21 0:22 / /run/a\\040b rw - tmpfs tmpfs rw\n";
        assert_eq!(
            initramfs_children(initramfs),
            Some(vec!["/run".to_owned(), "/proc".to_owned()])
        );
        assert_eq!(
            initramfs_children(
                "1 1 0:2 / / rw - rootfs rootfs rw\n30 1 8:1 / / rw - ext4 sda rw\n"
            ),
            None
        );
        assert_eq!(initramfs_children("30 1 8:1 / / rw - ext4 sda rw\n"), None);
    }

    #[test]
    fn blanks_in_mount_points_are_unescaped() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
        assert_eq!(unescape("/a\\04"), "/a\\04");
    }
}
