//! MappedVirtualDisk: a SCSI disk of the host, mounted at a path (protocol section 7.1).

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::MsFlags;
use serde::{Deserialize, Serialize};

use super::filesystem::{self, Formatter};
use super::kernel::{Kernel, Linux, Mount};
use super::scsi::{self, Address};
use super::{clean, mounts, Roots, Undo};
use crate::error::Failure;
use crate::uevent::{self, Source};

/// A disk that cannot be read may still be settling; one more event of it is waited for.
const SETTLE: Duration = Duration::from_millis(500);

/// What the host asks for: the members of the MappedVirtualDisk settings.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    pub controller: u8,
    pub lun: u8,
    /// 0 is the whole disk.
    pub partition: u64,
    /// Empty: the disk is only looked for.
    pub mount_path: String,
    pub read_only: bool,
    pub encrypted: bool,
    pub options: Vec<String>,
    pub ensure_filesystem: bool,
    /// Empty: whatever is on the disk.
    pub filesystem: String,
}

/// What an Add has mounted; all that Remove needs, so the disk may be gone by then (P-252).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Cleaned; none when the host named no path.
    pub mount_path: Option<PathBuf>,
    /// None when nothing had to be looked for.
    pub device: Option<PathBuf>,
    pub filesystem: String,
    pub controller: u8,
    pub lun: u8,
    pub partition: u64,
    pub read_only: bool,
}

/// Finds, formats where asked, and mounts the disk. Blocks up to [`scsi::ARRIVAL`] for the
/// disk, and as long as the disk itself does.
pub fn add(roots: &Roots, disk: &Disk) -> Result<Record, Failure> {
    add_with(
        &Linux,
        roots,
        uevent::Socket::subscribe,
        disk,
        Instant::now() + scsi::ARRIVAL,
    )
}

/// Unmounts the disk at `mount_path` and removes the directory. Does not need the disk.
/// Nothing mounted there, or an empty path: success.
pub fn remove(mount_path: &str) -> Result<(), Failure> {
    let Some(path) = mount_point(mount_path)? else {
        return Ok(());
    };
    mounts::unmount_and_remove(&Linux, &path).map_err(|failure| failure.during("removing a disk"))
}

/// `MountPath` as records are kept: cleaned, none when empty.
///
/// # Errors
/// A path that is not absolute.
pub fn mount_point(mount_path: &str) -> Result<Option<PathBuf>, Failure> {
    if mount_path.is_empty() {
        return Ok(None);
    }
    clean(Path::new(mount_path)).map(Some).map_err(|error| {
        Failure::unspecified(format!("MountPath {mount_path:?} cannot be used: {error}"))
    })
}

pub(super) fn add_with<S: Source>(
    kernel: &dyn Kernel,
    roots: &Roots,
    subscribe: impl Fn() -> io::Result<S>,
    disk: &Disk,
    deadline: Instant,
) -> Result<Record, Failure> {
    let mount_path = mount_point(&disk.mount_path)?;
    if disk.encrypted {
        return Err(Failure::unspecified(
            "an encrypted disk needs dm-crypt, which this guest does not have yet",
        ));
    }
    let mut record = Record {
        mount_path,
        device: None,
        filesystem: String::new(),
        controller: disk.controller,
        lun: disk.lun,
        partition: disk.partition,
        read_only: disk.read_only,
    };
    if record.mount_path.is_none() && disk.read_only {
        return Ok(record);
    }
    let address = Address {
        host: scsi::host_number(roots, disk.controller)?,
        lun: disk.lun,
        partition: disk.partition,
    };
    let device = scsi::find(roots, address, &subscribe, deadline)?;
    record.device = Some(device.clone());
    let Some(target) = &record.mount_path else {
        return Ok(record);
    };
    record.filesystem = Undo::run(kernel, |undo| {
        undo.make_directories(target, 0o700)?;
        let kind = prepare(kernel, &device, address, &subscribe, disk)?;
        let (flags, data) = if disk.read_only {
            (MsFlags::MS_RDONLY, filesystem::read_only_data(&kind))
        } else {
            (MsFlags::empty(), "")
        };
        let mount = Mount {
            source: &device,
            target,
            kind: &kind,
            flags,
            data,
        };
        kernel.mount(mount).map_err(|error| {
            Failure::unspecified(format!(
                "cannot mount {device:?} on {target:?} as {kind}: {error}"
            ))
        })?;
        undo.mounted(target);
        mounts::propagate(kernel, target, &disk.options)?;
        Ok(kind)
    })
    .map_err(|failure| {
        failure.during(format_args!(
            "adding the disk at controller {} LUN {}",
            disk.controller, disk.lun
        ))
    })?;
    Ok(record)
}

/// Settles the type of the file system, making one first where the host asks for it (P-248).
fn prepare<S: Source>(
    kernel: &dyn Kernel,
    device: &Path,
    address: Address,
    subscribe: &impl Fn() -> io::Result<S>,
    disk: &Disk,
) -> Result<String, Failure> {
    let found = detect(device, address, subscribe)?;
    if disk.ensure_filesystem && found != Some(disk.filesystem.as_str()) {
        kernel.format(Formatter::of(&disk.filesystem)?, device)?;
    }
    match (disk.filesystem.as_str(), found) {
        ("", Some(found)) => Ok(found.to_owned()),
        ("", None) => Err(Failure::unspecified(format!(
            "{device:?} has no file system that is known here, and the host named none"
        ))),
        (wanted, _) => Ok(wanted.to_owned()),
    }
}

/// A disk that cannot be read at all is an error, never an unknown file system: it would be
/// formatted otherwise.
fn detect<S: Source>(
    device: &Path,
    address: Address,
    subscribe: &impl Fn() -> io::Result<S>,
) -> Result<Option<&'static str>, Failure> {
    let mut last = None;
    let detected =
        uevent::wait_for(
            subscribe,
            &address,
            Instant::now() + SETTLE,
            || match filesystem::detect(device) {
                Ok(kind) => Ok(Some(kind)),
                Err(error) => {
                    last = Some(error);
                    Ok::<_, io::Error>(None)
                }
            },
        );
    let error = match detected {
        Ok(Some(kind)) => return Ok(kind),
        Ok(None) => last,
        Err(error) => Some(error),
    };
    let why = error.map_or_else(|| "no answer".to_owned(), |error| error.to_string());
    Err(Failure::unspecified(format!(
        "cannot read {device:?}: {why}"
    )))
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
