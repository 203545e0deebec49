//! The disks of a container of the retired protocol: how they are mounted and unmounted (8.3). This
//! blocks, so it runs in tasks.

#![allow(clippy::disallowed_methods)] // Runs only inside task children, which may block.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Failure;
use crate::machine::uevent::Device;
use crate::prot::v1::{MappedVirtualDisk, VmHostedContainerSettings};
use crate::storage::pmem::{self, ExpectedPmem};
use crate::storage::scsi::{self, ExpectedDisk};
use crate::storage::{
    disk, layers, make_directory, tree, CombinedLayers, Disk, Journal, MountRecord, Pmem, Roots,
};

/// Parent of the storage directories, which are numbered.
const CONTAINERS: &str = "/run/gcs/c";
/// The topmost layer of every container: what the guest puts over the host's.
pub const BASE: &str = "/tmp/base";
/// More containers than a VM of the retired protocol ever has.
const NUMBERS: u32 = 1000;

/// What is mounted for a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachedStorage {
    /// `/run/gcs/c/<index>`: layers, scratch, root and bundle.
    pub directory: PathBuf,
    layers: usize,
    has_scratch_disk: bool,
}

impl AttachedStorage {
    pub fn root(&self) -> PathBuf {
        self.directory.join("rootfs")
    }

    fn scratch(&self) -> PathBuf {
        self.directory.join("scratch")
    }
}

/// The disk that an id of the host names.
#[derive(Debug, PartialEq, Eq)]
enum DiskId {
    Scsi(u8),
    Pmem(u32),
}

impl DiskId {
    fn parse(text: &str) -> Result<Self, Failure> {
        let (kind, number) = text.split_once(':').unwrap_or(("scsi", text));
        let parsed = match kind {
            "scsi" => number.parse().ok().map(Self::Scsi),
            "pmem" => number.parse().ok().map(Self::Pmem),
            _ => None,
        };
        parsed.ok_or_else(|| {
            Failure::unspecified(format!("{text:?} names no disk: scsi:1, 1 and pmem:1 do"))
        })
    }

    fn expected(&self) -> Result<Box<dyn Device>, Failure> {
        let roots = Roots::default();
        Ok(match *self {
            Self::Scsi(lun) => Box::new(ExpectedDisk::new(&roots, 0, lun, 0)?),
            Self::Pmem(device) => Box::new(ExpectedPmem::new(&roots, device)),
        })
    }

    /// `None` when the disk is not there.
    fn mount(
        &self,
        path: &Path,
        read_only: bool,
        journal: &Journal,
    ) -> Result<Option<MountRecord>, Failure> {
        let mount_path = path.to_string_lossy().into_owned();
        let roots = Roots::default();
        match *self {
            Self::Scsi(lun) => {
                let disk = Disk {
                    lun,
                    mount_path,
                    read_only,
                    ..Disk::default()
                };
                let expected = ExpectedDisk::new(&roots, 0, lun, 0)?;
                disk::add(&expected, &disk, journal)
            }
            Self::Pmem(device) => {
                let pmem = Pmem {
                    device,
                    mount_path,
                    part: None,
                    verified: false,
                };
                pmem::add(&ExpectedPmem::new(&roots, device), &pmem, journal)
            }
        }
    }
}

/// The disks that have to be there before any is mounted.
pub fn expected(settings: &VmHostedContainerSettings) -> Result<Vec<Box<dyn Device>>, Failure> {
    let mut all = Vec::new();
    for disk in &settings.mapped_virtual_disks {
        if mapped_at(disk).is_some() {
            in_utility_vm(disk.create_in_utility_vm, &disk.container_path)?;
            all.push(DiskId::Scsi(disk.lun).expected()?);
        }
    }
    for layer in &settings.layers {
        all.push(DiskId::parse(&layer.path)?.expected()?);
    }
    if !settings.sandbox_data_path.is_empty() {
        all.push(DiskId::parse(&settings.sandbox_data_path)?.expected()?);
    }
    Ok(all)
}

/// Mounts all disks or none. Also returns the mapped disks, in their order. `None` when a disk is
/// not there yet.
pub fn attach(
    settings: &VmHostedContainerSettings,
    journal: &Journal,
) -> Result<Option<(AttachedStorage, Vec<MountRecord>)>, Failure> {
    let waited = Duration::ZERO;
    if expected(settings)?
        .iter()
        .any(|disk| disk.missing(waited).is_some())
    {
        return Ok(None);
    }
    let done = attach_all(settings, journal);
    done.map(Some).inspect_err(|_| {
        if let Err(left) = crate::storage::replay(journal) {
            log::error!("after a failed create: {left}");
        }
    })
}

fn attach_all(
    settings: &VmHostedContainerSettings,
    journal: &Journal,
) -> Result<(AttachedStorage, Vec<MountRecord>), Failure> {
    let directory = new_directory(journal)?;
    let attached = AttachedStorage {
        directory,
        layers: settings.layers.len(),
        has_scratch_disk: !settings.sandbox_data_path.is_empty(),
    };
    let mapped = mount_all(settings, &attached, journal)?;
    Ok((attached, mapped))
}

/// The directory with the smallest free number.
fn new_directory(journal: &Journal) -> Result<PathBuf, Failure> {
    for number in 0..NUMBERS {
        let path = Path::new(CONTAINERS).join(number.to_string());
        match make_directory(journal, &path, 0o700) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("make", &path, &error)),
        }
    }
    Err(Failure::unspecified(format!(
        "all storage directories below {CONTAINERS} are taken"
    )))
}

fn mount_all(
    settings: &VmHostedContainerSettings,
    attached: &AttachedStorage,
    journal: &Journal,
) -> Result<Vec<MountRecord>, Failure> {
    let disks = settings.mapped_virtual_disks.iter();
    let disks = disks.filter(|disk| mapped_at(disk).is_some());
    let mapped = disks.map(|disk| {
        let path = Path::new(&disk.container_path);
        there(DiskId::Scsi(disk.lun).mount(path, disk.read_only, journal)?)
    });
    let mapped = mapped.collect::<Result<Vec<_>, _>>()?;
    let mut paths = vec![PathBuf::from(BASE)];
    for (number, layer) in settings.layers.iter().enumerate() {
        let path = attached.directory.join(number.to_string());
        there(DiskId::parse(&layer.path)?.mount(&path, true, journal)?)?;
        paths.push(path);
    }
    let scratch = attached.scratch();
    if attached.has_scratch_disk {
        let disk = DiskId::parse(&settings.sandbox_data_path)?;
        there(disk.mount(&scratch, false, journal)?)?;
    } else {
        let made = make_directory(journal, &scratch, 0o755);
        made.map_err(|e| failed("make", &scratch, &e))?;
    }
    directory(&Path::new(BASE).join("etc"), 0o755)?;
    let (root, scratch) = (attached.root(), scratch);
    let combined =
        CombinedLayers::new(&root.to_string_lossy(), &paths, &scratch.to_string_lossy())?;
    layers::add(&combined, journal)?;
    Ok(mapped)
}

fn there(mounted: Option<MountRecord>) -> Result<MountRecord, Failure> {
    mounted.ok_or_else(|| Failure::unspecified("a disk that was there is gone"))
}

/// The disk of a later request, which is mounted at a path of the VM.
pub fn expected_later(disk: &MappedVirtualDisk) -> Result<ExpectedDisk, Failure> {
    in_utility_vm(disk.create_in_utility_vm, &disk.container_path)?;
    ExpectedDisk::new(&Roots::default(), 0, disk.lun, 0)
}

/// Mounts the disk. `None` when it is not there yet.
pub fn map_disk(
    disk: &MappedVirtualDisk,
    journal: &Journal,
) -> Result<Option<MountRecord>, Failure> {
    DiskId::Scsi(disk.lun).mount(Path::new(&disk.container_path), disk.read_only, journal)
}

/// Disks and directories can only be mapped in the utility VM.
pub fn in_utility_vm(there: bool, path: &str) -> Result<(), Failure> {
    if !there {
        return Err(Failure::unspecified(format!(
            "mapped in the utility VM only: {path:?} is to be in the container"
        )));
    }
    Ok(())
}

/// Where the disk is mounted, if it is to be.
pub fn mapped_at(disk: &MappedVirtualDisk) -> Option<PathBuf> {
    (!disk.attach_only).then(|| disk.container_path.as_str().into())
}

/// Unmounts disks and directories in reverse order. One that is not mounted is no error. Returns
/// the first failure.
pub fn unmap(paths: &[PathBuf]) -> Result<(), Failure> {
    let all = paths.iter().rev().map(|path| unmount(path));
    all.fold(Ok(()), Result::and)
}

fn unmount(path: &Path) -> Result<(), Failure> {
    crate::storage::remove(&Roots::default(), &path.to_string_lossy(), &[])
}

/// Lets go of a disk that the host is about to take away.
pub fn unplug(lun: u8) -> Result<(), Failure> {
    scsi::remove(&Roots::default(), 0, lun)
}

/// Unmounts root, scratch and layers, as `unmap` does.
pub fn detach(attached: &AttachedStorage) -> Result<(), Failure> {
    let layers = 0..attached.layers;
    let mut paths: Vec<PathBuf> = layers
        .map(|number| attached.directory.join(number.to_string()))
        .collect();
    if attached.has_scratch_disk {
        paths.push(attached.scratch());
    }
    paths.push(attached.root());
    unmap(&paths).and(tree::remove(&attached.directory))
}

/// The bundle, and the name servers of its network.
pub fn write_bundle(
    attached: &AttachedStorage,
    spec: &serde_json::Value,
    resolv_conf: Option<&str>,
) -> Result<(), Failure> {
    let path = attached.directory.join("config.json");
    let text = serde_json::to_vec(spec)
        .map_err(|e| Failure::unspecified(format!("encode config.json: {e}")))?;
    fs::write(&path, text).map_err(|e| failed("write", &path, &e))?;
    let path = Path::new(BASE).join("etc/resolv.conf");
    match resolv_conf {
        Some(text) => fs::write(&path, text).map_err(|e| failed("write", &path, &e)),
        // The VM's own file, when it has one and there is none at the path yet.
        None => match fs::hard_link("/etc/resolv.conf", &path) {
            Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => {
                log::warn!("{}: {e}", path.display());
                Ok(())
            }
            _ => Ok(()),
        },
    }
}

fn directory(path: &Path, mode: u32) -> Result<(), Failure> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(|e| failed("make", path, &e))
}

fn failed(doing: &str, path: &Path, e: &std::io::Error) -> Failure {
    Failure::unspecified(format!("{doing} {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_named_in_three_ways() {
        for (text, id) in [
            ("3", Some(DiskId::Scsi(3))),
            ("scsi:3", Some(DiskId::Scsi(3))),
            ("pmem:0", Some(DiskId::Pmem(0))),
            ("", None),
            ("scsi:", None),
            ("scsi:256", None),
            ("-1", None),
            ("nvme:1", None),
        ] {
            assert_eq!(DiskId::parse(text).ok(), id, "{text}");
        }
    }
}
