//! SCSI addresses: from the host's controller index and LUN to the device node.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::arrival::is_absent;
use super::{Roots, Source};
use crate::error::Failure;
use crate::machine::uevent::{Device, Matcher, Uevent};

/// VMBus instance of each controller, fixed by the host's VM definition (section 7.1).
pub const CONTROLLERS: [&str; 4] = [
    "df6d0690-79e5-55b6-a5ec-c1e2f77f580a",
    "0110f83b-de10-5172-a266-78bca56bf50a",
    "b5d2d8d4-3a75-51bf-945b-3444dc6b8579",
    "305891a9-b251-5dfe-91a2-c25d9212275b",
];

/// Linux's number for the controller with the host's index. Does not wait. When none of the four
/// VMBus instances exists (QEMU, an older VM definition), the index is the number.
pub fn host_number(roots: &Roots, controller: u8) -> Result<u32, Failure> {
    let Some(guid) = CONTROLLERS.get(usize::from(controller)) else {
        return Err(Failure::unspecified(format!(
            "SCSI controller {controller} does not exist: a VM has controllers 0 to 3"
        )));
    };
    let vmbus = roots.sys.join("bus/vmbus/devices");
    if !vmbus.exists() || !CONTROLLERS.iter().any(|guid| vmbus.join(guid).exists()) {
        return Ok(u32::from(controller));
    }
    let directory = vmbus.join(guid);
    let entries = names(&directory).map_err(|error| {
        Failure::unspecified(format!(
            "SCSI controller {controller} is not attached: {directory:?}: {error}"
        ))
    })?;
    entries
        .iter()
        .find_map(|name| name.strip_prefix("host")?.parse().ok())
        .ok_or_else(|| {
            Failure::unspecified(format!(
                "SCSI controller {controller}: no host<N> in {directory:?}"
            ))
        })
}

/// One disk or partition as Linux addresses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    pub host: u32,
    pub lun: u8,
    /// 0 is the whole disk.
    pub partition: u64,
}

impl Address {
    /// The form that the names of mapped devices have (protocol section 7.1).
    pub fn name(self) -> String {
        format!("contr{}-lun{}-p{}", self.host, self.lun, self.partition)
    }

    fn directory(self, roots: &Roots) -> PathBuf {
        roots
            .sys
            .join(format!("bus/scsi/devices/{}:0:0:{}", self.host, self.lun))
    }

    /// Whether the kernel has made the disk. It may not be ready. Does not block.
    fn is_announced(self, roots: &Roots) -> bool {
        let disks = names(&self.directory(roots).join("block")).unwrap_or_default();
        disks.iter().any(|disk| roots.dev.join(disk).exists())
    }

    /// Makes the kernel ask the disk for its size again. Returns whether it did.
    fn rescan(self, roots: &Roots) -> bool {
        let file = self.directory(roots).join("rescan");
        let file = fs::OpenOptions::new().write(true).open(file);
        file.and_then(|mut file| io::Write::write_all(&mut file, b"1"))
            .is_ok()
    }

    /// The device node if it is there by now.
    fn look(self, roots: &Roots) -> Result<Option<PathBuf>, Failure> {
        let block = self.directory(roots).join("block");
        let disks = match names(&block) {
            Ok(disks) => disks,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => {
                return Err(Failure::unspecified(format!(
                    "cannot list {block:?}: {error}"
                )))
            }
        };
        let disk = match disks.as_slice() {
            [] => return Ok(None),
            [disk] => disk,
            several => {
                return Err(Failure::unspecified(format!(
                    "{block:?} has more than one disk: {}",
                    several.join(", ")
                )))
            }
        };
        // The kernel could not read its size, because the host changes what is plugged in at the
        // same time.
        let size = block.join(disk).join("size");
        let is_empty = || fs::read_to_string(&size).is_ok_and(|text| text.trim() == "0");
        if is_empty() && (!self.rescan(roots) || is_empty()) {
            return Ok(None);
        }
        let name = if self.partition == 0 {
            disk.clone()
        } else {
            let name = format!("{disk}{}", self.partition);
            if !block.join(disk).join(&name).exists() {
                return Ok(None);
            }
            name
        };
        let node = roots.dev.join(name);
        match fs::metadata(&node) {
            Ok(_) => Ok(Some(node)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(Failure::unspecified(format!(
                "cannot look at {node:?}: {error}"
            ))),
        }
    }
}

/// A disk or partition that the host has attached and that may not have appeared yet (P-244).
#[derive(Debug, Clone)]
pub struct ExpectedDisk {
    pub(super) roots: Roots,
    pub(super) address: Address,
    /// As the host names it.
    pub(super) source: Source,
}

impl ExpectedDisk {
    /// # Errors
    /// There is no such controller.
    pub fn new(roots: &Roots, controller: u8, lun: u8, partition: u64) -> Result<Self, Failure> {
        let host = host_number(roots, controller)?;
        Ok(Self {
            roots: roots.clone(),
            address: Address {
                host,
                lun,
                partition,
            },
            source: Source::Disk {
                controller,
                lun,
                partition,
            },
        })
    }

    /// The device node if it is there by now.
    pub fn look(&self) -> Result<Option<PathBuf>, Failure> {
        self.address.look(&self.roots)
    }
}

/// Events of the disk with this address and of its partitions.
impl Matcher for ExpectedDisk {
    fn is_match(&self, event: &Uevent) -> bool {
        let Address { host, lun, .. } = self.address;
        let disk = format!("/{host}:0:0:{lun}/block/");
        event.subsystem == "block" && event.devpath.contains(&disk)
    }
}

impl Device for ExpectedDisk {
    fn is_announced(&self) -> bool {
        self.address.is_announced(&self.roots)
    }

    fn missing(&self, waited: Duration) -> Option<Failure> {
        let text = format!(
            "adding {}: no disk{} at {:?} after {:.1} s: was it attached to the VM?",
            self.source,
            match self.address.partition {
                0 => String::new(),
                partition => format!(" with a partition {partition}"),
            },
            self.address.directory(&self.roots),
            waited.as_secs_f64(),
        );
        match self.look() {
            Ok(Some(_)) => None,
            Ok(None) | Err(_) => Some(Failure::unspecified(text)),
        }
    }
}

/// SCSIDevice Remove (section 7.2): makes the kernel forget the disk before the host unplugs it. A
/// disk that is gone already is a success (P-255).
pub fn remove(roots: &Roots, controller: u8, lun: u8) -> Result<(), Failure> {
    let address = Address {
        host: host_number(roots, controller)?,
        lun,
        partition: 0,
    };
    let delete = address.directory(roots).join("delete");
    // The file is not created, because a made-up tree without it must stay as it is.
    let written = fs::OpenOptions::new()
        .write(true)
        .open(&delete)
        .and_then(|mut file| io::Write::write_all(&mut file, b"1\n"));
    match written {
        Ok(()) => Ok(()),
        Err(error) if is_absent(&error) => Ok(()),
        Err(error) => Err(Failure::unspecified(format!(
            "cannot detach the disk: {delete:?}: {error}"
        ))),
    }
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = fs::read_dir(directory)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

#[cfg(test)]
#[path = "scsi_tests.rs"]
mod tests;
