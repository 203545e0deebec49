//! What all mounts share: propagation, and the removal of a mount and its directory (protocol
//! section 7).

use std::io;
use std::path::Path;

use nix::mount::MsFlags;

use super::kernel::{Kernel, Linux, Mount};
use super::path::mount_point;
use super::{mapper, Roots};
use crate::error::Failure;

/// The only options of the host that take effect (P-254). For the rest `ReadOnly` decides.
const PROPAGATION: [(&str, MsFlags); 8] = [
    ("shared", MsFlags::MS_SHARED),
    ("rshared", MsFlags::MS_SHARED.union(MsFlags::MS_REC)),
    ("private", MsFlags::MS_PRIVATE),
    ("rprivate", MsFlags::MS_PRIVATE.union(MsFlags::MS_REC)),
    ("slave", MsFlags::MS_SLAVE),
    ("rslave", MsFlags::MS_SLAVE.union(MsFlags::MS_REC)),
    ("unbindable", MsFlags::MS_UNBINDABLE),
    ("runbindable", MsFlags::MS_UNBINDABLE.union(MsFlags::MS_REC)),
];

/// The most stacked mounts that are unmounted (protocol section 12.3).
const STACKED: usize = 5;

/// Applies the propagation options among `options` in their order, each by a call of its own.
pub fn propagate(kernel: &dyn Kernel, target: &Path, options: &[String]) -> Result<(), Failure> {
    let flags = options.iter().filter_map(|option| {
        PROPAGATION
            .iter()
            .find(|(name, _)| name == option)
            .map(|(_, flags)| (option, *flags))
    });
    for (option, flags) in flags {
        let change = Mount {
            source: target,
            target,
            kind: "",
            flags,
            data: "",
        };
        kernel.mount(change).map_err(|error| {
            Failure::unspecified(format!("cannot make {target:?} {option}: {error}"))
        })?;
    }
    Ok(())
}

/// Removes what an Add has mounted at `mount_path`, with its mapped devices. The device itself is
/// not needed. An empty path, or one without a mount, is a success.
pub fn remove(roots: &Roots, mount_path: &str, mappings: &[String]) -> Result<(), Failure> {
    remove_with(&Linux, roots, mount_path, mappings)
}

/// Removes mapped devices in reverse order. Some may be gone already.
pub fn remove_mappings(roots: &Roots, mappings: &[String]) -> Result<(), Failure> {
    mapper::remove_all(&Linux, roots, mappings)
}

pub(super) fn remove_with(
    kernel: &dyn Kernel,
    roots: &Roots,
    mount_path: &str,
    mappings: &[String],
) -> Result<(), Failure> {
    let Some(path) = mount_point(mount_path)? else {
        return Ok(());
    };
    let removed = match path.symlink_metadata() {
        // The link to a block device that stands for a mount.
        Ok(found) if found.is_symlink() => kernel.remove_node(&path).map_err(|error| {
            Failure::unspecified(format!("cannot remove the link {path:?}: {error}"))
        }),
        _ => unmount_and_remove(kernel, &path),
    };
    removed.and_then(|()| mapper::remove_all(kernel, roots, mappings))
}

/// Unmounts `path` and removes the directory. A missing or unmounted path is a success (P-252). A
/// directory that is not empty stays, because its content was there before the mount.
pub fn unmount_and_remove(kernel: &dyn Kernel, path: &Path) -> Result<(), Failure> {
    for _ in 0..STACKED {
        match kernel.unmount(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => {
                return Err(Failure::unspecified(format!(
                    "cannot unmount {path:?}: {error}"
                )))
            }
        }
    }
    match kernel.rmdir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            log::warn!("unmounted {path:?}, but left the directory: it is not empty");
            Ok(())
        }
        Err(error) => Err(Failure::unspecified(format!(
            "unmounted, but cannot remove the directory {path:?}: {error}"
        ))),
    }
}
