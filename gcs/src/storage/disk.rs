//! MappedVirtualDisk: a SCSI disk of the host, mounted at a path (protocol section 7.1).

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::mount::MsFlags;

use super::arrival::ARRIVAL;
use super::filesystem;
use super::formatter::Formatter;
use super::kernel::{Kernel, Linux, Mount};
use super::path::mount_point;
use super::scsi::ExpectedDisk;
use super::{crypt, mounts, verity, Journal, MountRecord, Roots, Undo};
use crate::error::Failure;
use crate::machine::uevent::{self, EventSource};

/// How long to wait for one more event of a disk that cannot be read yet.
const SETTLE: Duration = Duration::from_millis(500);

/// What the host asks for: the members of the MappedVirtualDisk settings.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    pub controller: u8,
    pub lun: u8,
    /// 0 is the whole disk.
    pub partition: u64,
    /// Empty when the disk is only to be looked for.
    pub mount_path: String,
    pub read_only: bool,
    /// Whether the disk is encrypted with a throw-away key. What was on it before is lost.
    pub encrypted: bool,
    /// Whether MountPath becomes a link to the device node instead of a mount.
    pub block_device: bool,
    /// Whether a read-only disk is checked against the hash tree on it.
    pub verified: bool,
    pub options: Vec<String>,
    pub ensure_filesystem: bool,
    /// Empty for the file system that is on the disk.
    pub filesystem: String,
}

impl Disk {
    pub fn source(&self) -> super::Source {
        super::Source::Disk {
            controller: self.controller,
            lun: self.lun,
            partition: self.partition,
        }
    }
}

/// The disk that has to appear. `None` when nothing has to.
///
/// # Errors
/// What can be known without the disk: settings that contradict each other, or a controller that
/// does not exist.
pub fn expected(roots: &Roots, disk: &Disk) -> Result<Option<ExpectedDisk>, Failure> {
    let expected = || {
        if disk.encrypted && (disk.read_only || disk.block_device) {
            return Err(Failure::unspecified(
                "an encrypted disk is empty, so it cannot be read-only or without a file system",
            ));
        }
        if mount_point(&disk.mount_path)?.is_none() && disk.read_only {
            return Ok(None);
        }
        ExpectedDisk::new(roots, disk.controller, disk.lun, disk.partition).map(Some)
    };
    expected().map_err(|failure| failure.during(format_args!("adding {}", disk.source())))
}

/// Formats the disk if asked, and mounts it. `None` when the disk is not there yet and nothing was
/// done. Blocks as long as the disk does.
pub fn add(
    expected: &ExpectedDisk,
    disk: &Disk,
    journal: &Journal,
) -> Result<Option<MountRecord>, Failure> {
    let subscribe = uevent::Socket::subscribe;
    let deadline = Instant::now() + ARRIVAL;
    add_with(&Linux, journal, expected, subscribe, disk, deadline)
}

/// `deadline` is for devices that are made from the disk.
pub(super) fn add_with<S: EventSource>(
    kernel: &dyn Kernel,
    journal: &Journal,
    expected: &ExpectedDisk,
    subscribe: impl Fn() -> io::Result<S>,
    disk: &Disk,
    deadline: Instant,
) -> Result<Option<MountRecord>, Failure> {
    let done = mount_disk(kernel, journal, expected, subscribe, disk, deadline);
    done.map_err(|failure| failure.during(format_args!("adding {}", disk.source())))
}

fn mount_disk<S: EventSource>(
    kernel: &dyn Kernel,
    journal: &Journal,
    expected: &ExpectedDisk,
    subscribe: impl Fn() -> io::Result<S>,
    disk: &Disk,
    deadline: Instant,
) -> Result<Option<MountRecord>, Failure> {
    let Some(device) = expected.look()? else {
        return Ok(None);
    };
    let roots = &expected.roots;
    let mut record = MountRecord {
        source: disk.source(),
        mount_path: mount_point(&disk.mount_path)?,
        device: Some(device.clone()),
        filesystem: String::new(),
        read_only: disk.read_only,
        mappings: Vec::new(),
    };
    let Some(target) = record.mount_path.clone() else {
        return Ok(Some(record));
    };
    Undo::run(kernel, journal, |undo| {
        if disk.block_device {
            return link(undo, &device, &target);
        }
        let name = |kind| format!("dm-{kind}-scsi-{}", expected.address.name());
        let (source, found) = if disk.encrypted {
            let (mappings, node) = crypt::create(undo, roots, &name("crypt"), &device, deadline)?;
            record.mappings = mappings;
            (node, None)
        } else if disk.read_only && disk.verified {
            let (mapping, node) = verity::create(undo, roots, &name("verity"), &device, deadline)?;
            record.mappings = vec![mapping];
            let found = detect(&node, expected, &subscribe)?;
            (node, found)
        } else {
            (device.clone(), detect(&device, expected, &subscribe)?)
        };
        undo.make_directories(&target, 0o700)?;
        record.filesystem = prepare(kernel, &source, found, disk)?;
        mount(undo, &source, &target, &record.filesystem, disk)
    })?;
    Ok(Some(record))
}

fn mount(
    undo: &mut Undo<'_>,
    source: &Path,
    target: &Path,
    kind: &str,
    disk: &Disk,
) -> Result<(), Failure> {
    let flags = if disk.read_only {
        MsFlags::MS_RDONLY
    } else {
        MsFlags::empty()
    };
    let mount = Mount {
        source,
        target,
        kind,
        flags,
        data: filesystem::mount_data(kind, disk.read_only),
    };
    undo.mount(mount).map_err(|error| {
        Failure::unspecified(format!(
            "cannot mount {source:?} on {target:?} as {kind}: {error}"
        ))
    })?;
    mounts::propagate(undo.kernel(), target, &disk.options)
}

/// Makes a link instead of a mount.
fn link(undo: &mut Undo<'_>, device: &Path, target: &Path) -> Result<(), Failure> {
    if let Some(parent) = target.parent() {
        undo.make_directories(parent, 0o700)?;
    }
    undo.link(device, target).map_err(|error| {
        Failure::unspecified(format!(
            "cannot make the link {target:?} to {device:?}: {error}"
        ))
    })
}

/// Returns the type of the file system. Makes one first if the host asks for it (P-248).
fn prepare(
    kernel: &dyn Kernel,
    device: &Path,
    found: Option<&str>,
    disk: &Disk,
) -> Result<String, Failure> {
    if disk.ensure_filesystem && found != Some(disk.filesystem.as_str()) {
        kernel.format(&Formatter::of(&disk.filesystem)?, device)?;
    }
    match (disk.filesystem.as_str(), found) {
        ("", Some(found)) => Ok(found.to_owned()),
        ("", None) => Err(Failure::unspecified(format!(
            "{device:?} has no file system that is known here, and the host named none"
        ))),
        (wanted, _) => Ok(wanted.to_owned()),
    }
}

/// A disk that cannot be read is an error and never an unknown file system, because that would be
/// formatted.
fn detect<S: EventSource>(
    device: &Path,
    expected: &ExpectedDisk,
    subscribe: &impl Fn() -> io::Result<S>,
) -> Result<Option<&'static str>, Failure> {
    let mut last = None;
    let detected =
        uevent::wait_for(
            subscribe,
            expected,
            Instant::now() + SETTLE,
            || match filesystem::detect(device) {
                Ok(kind) => Ok(Some(kind)),
                Err(error) => {
                    last = Some(error);
                    Ok(None)
                }
            },
        );
    if let Some(kind) = detected? {
        return Ok(kind);
    }
    let why = last.map_or_else(|| "no answer".to_owned(), |error| error.to_string());
    Err(Failure::unspecified(format!(
        "cannot read {device:?}: {why}"
    )))
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
