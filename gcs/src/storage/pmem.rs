//! VPMemDevice: a layer on a persistent memory device, whole or one of several on it (protocol
//! section 7.4).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::MsFlags;

use super::arrival::{self, ARRIVAL};
use super::kernel::{Kernel, Linux, Mount};
use super::mapper::{self, DmTarget, ReadOnly};
use super::path::mount_point;
use super::{filesystem, verity, Journal, MountRecord, Roots, Undo};
use crate::error::Failure;
use crate::machine::uevent::{Device, Matcher, Uevent};

const SECTOR: u64 = 512;

/// What the host asks for.
#[derive(Debug, Clone)]
pub struct Pmem {
    pub device: u32,
    pub mount_path: String,
    /// `None` for the whole device.
    pub part: Option<Part>,
    /// Whether the layer is checked against the hash tree on it.
    pub verified: bool,
}

/// Bytes; multiples of a sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub offset: u64,
    pub size: u64,
}

impl Pmem {
    pub fn source(&self) -> super::Source {
        super::Source::Pmem {
            device: self.device,
            offset: self.part.map(|part| part.offset),
        }
    }
}

/// A device that the host has attached and that may not have appeared yet.
#[derive(Debug, Clone)]
pub struct ExpectedPmem {
    roots: Roots,
    device: u32,
}

impl ExpectedPmem {
    pub fn new(roots: &Roots, device: u32) -> Self {
        Self {
            roots: roots.clone(),
            device,
        }
    }

    fn node(&self) -> PathBuf {
        self.roots.dev.join(format!("pmem{}", self.device))
    }

    /// The device node if it is there.
    pub fn look(&self) -> Result<Option<PathBuf>, Failure> {
        let node = self.node();
        match fs::metadata(&node) {
            Ok(_) => Ok(Some(node)),
            Err(error) if arrival::is_absent(&error) => Ok(None),
            Err(error) => Err(Failure::unspecified(format!(
                "cannot look at {node:?}: {error}"
            ))),
        }
    }
}

impl Matcher for ExpectedPmem {
    fn is_match(&self, event: &Uevent) -> bool {
        let device = format!("/block/pmem{}", self.device);
        event.subsystem == "block" && event.devpath.ends_with(&device)
    }
}

impl Device for ExpectedPmem {
    fn is_announced(&self) -> bool {
        self.node().exists()
    }

    fn missing(&self, waited: Duration) -> Option<Failure> {
        if matches!(self.look(), Ok(Some(_))) {
            return None;
        }
        Some(Failure::unspecified(format!(
            "adding {}: no {:?} after {:.1} s: was it attached to the VM?",
            super::Source::Pmem {
                device: self.device,
                offset: None,
            },
            self.node(),
            waited.as_secs_f64()
        )))
    }
}

/// Checks what can be known without the device.
///
/// # Errors
/// No path, or a part that cannot be one.
pub fn check(pmem: &Pmem) -> Result<(), Failure> {
    CheckedPmem::new(pmem)
        .map(drop)
        .map_err(|failure| failure.during(format_args!("adding {}", pmem.source())))
}

/// Mounts the device read-only. `None` when it is not there yet and nothing was done.
pub fn add(
    expected: &ExpectedPmem,
    pmem: &Pmem,
    journal: &Journal,
) -> Result<Option<MountRecord>, Failure> {
    add_with(&Linux, journal, expected, pmem, Instant::now() + ARRIVAL)
}

/// `deadline` is for devices that are made from this one.
pub(super) fn add_with(
    kernel: &dyn Kernel,
    journal: &Journal,
    expected: &ExpectedPmem,
    pmem: &Pmem,
    deadline: Instant,
) -> Result<Option<MountRecord>, Failure> {
    let added = CheckedPmem::new(pmem).and_then(|checked| match expected.look()? {
        Some(device) => {
            mount(kernel, journal, expected, pmem, checked, &device, deadline).map(Some)
        }
        None => Ok(None),
    });
    added.map_err(|failure| failure.during(format_args!("adding {}", pmem.source())))
}

/// What the host asks for, checked.
struct CheckedPmem {
    target: PathBuf,
    linear: Option<Linear>,
}

impl CheckedPmem {
    fn new(pmem: &Pmem) -> Result<Self, Failure> {
        let Some(target) = mount_point(&pmem.mount_path)? else {
            return Err(Failure::unspecified("MountPath is missing"));
        };
        let linear = pmem.part.map(|part| Linear::new(pmem.device, part));
        let linear = linear.transpose()?;
        if linear.is_some() && pmem.verified {
            return Err(Failure::unspecified(
                "a part of a device cannot be verified: only whole devices carry a hash tree",
            ));
        }
        Ok(Self { target, linear })
    }
}

fn mount(
    kernel: &dyn Kernel,
    journal: &Journal,
    expected: &ExpectedPmem,
    pmem: &Pmem,
    CheckedPmem { target, linear }: CheckedPmem,
    device: &Path,
    deadline: Instant,
) -> Result<MountRecord, Failure> {
    let roots = &expected.roots;
    Undo::run(kernel, journal, |undo| {
        let mut mappings = Vec::new();
        let source = match &linear {
            Some(linear) => {
                mappings.push(linear.name.clone());
                linear.create(undo, roots, device, deadline)?
            }
            None if pmem.verified => {
                let prefix = format!("dm-verity-pmem{}", pmem.device);
                let (name, node) = verity::create(undo, roots, &prefix, device, deadline)?;
                mappings.push(name);
                node
            }
            None => device.to_owned(),
        };
        undo.make_directories(&target, 0o700)?;
        let kind = detect(&source)?;
        let plain = filesystem::mount_data(kind, true);
        let direct = !pmem.verified && is_direct(roots, pmem.device);
        let direct = direct.then(|| DIRECT.contains(&kind).then(|| format!("{plain},dax")));
        let ways = direct.flatten().into_iter().chain([plain.to_owned()]);
        let mut refused = None;
        for data in ways {
            let mount = Mount {
                source: &source,
                target: &target,
                kind,
                flags: MsFlags::MS_RDONLY,
                data: &data,
            };
            refused = undo.mount(mount).err();
            if refused.is_none() {
                break;
            }
        }
        if let Some(error) = refused {
            return Err(Failure::unspecified(format!(
                "cannot mount {source:?} on {target:?} as {kind}: {error}"
            )));
        }
        Ok(MountRecord {
            source: pmem.source(),
            mount_path: Some(target.clone()),
            device: Some(device.to_owned()),
            filesystem: kind.to_owned(),
            read_only: true,
            mappings,
        })
    })
}

/// File systems that can be read without a copy in memory (DAX) if device, part and block size
/// allow it. Only a try shows whether they do.
const DIRECT: [&str; 2] = ["ext4", "xfs"];

fn is_direct(roots: &Roots, device: u32) -> bool {
    let flag = format!("block/pmem{device}/queue/dax");
    fs::read_to_string(roots.sys.join(flag)).is_ok_and(|text| text.trim() == "1")
}

/// Hosts make layers of ext4 only. For an unknown type the kernel's error may say more.
fn detect(source: &Path) -> Result<&'static str, Failure> {
    let found = filesystem::detect(source)
        .map_err(|error| Failure::unspecified(format!("cannot read {source:?}: {error}")))?;
    Ok(found.unwrap_or("ext4"))
}

/// A part of the device as a device of its own.
#[derive(Debug, PartialEq, Eq)]
struct Linear {
    name: String,
    sectors: u64,
    first: u64,
}

impl Linear {
    fn new(device: u32, Part { offset, size }: Part) -> Result<Self, Failure> {
        if size == 0 || size % SECTOR != 0 || offset % SECTOR != 0 {
            return Err(Failure::unspecified(format!(
                "{size} bytes from byte {offset} are no whole sectors of {SECTOR} bytes"
            )));
        }
        Ok(Self {
            name: format!("dm-linear-pmem{device}-{offset}-{size}"),
            sectors: size / SECTOR,
            first: offset / SECTOR,
        })
    }

    fn parameters(&self, device: &Path) -> String {
        format!("{} {}", device.display(), self.first)
    }

    fn create(
        &self,
        undo: &mut Undo<'_>,
        roots: &Roots,
        device: &Path,
        deadline: Instant,
    ) -> Result<PathBuf, Failure> {
        let target = DmTarget {
            sectors: self.sectors,
            kind: "linear",
            parameters: &self.parameters(device),
        };
        mapper::create(undo, roots, &self.name, target, ReadOnly(true), deadline)
    }
}

#[cfg(test)]
#[path = "pmem_tests.rs"]
mod tests;
