//! What the guest remembers of a mount that the host asked for.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// By the host's numbers; partition 0 is the whole disk.
    Disk {
        controller: u8,
        lun: u8,
        partition: u64,
    },
    /// A persistent memory device, or the part of it that starts at `offset`.
    Pmem { device: u32, offset: Option<u64> },
    /// A directory of the host.
    Directory,
    /// A container's root.
    Layers,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk {
                controller,
                lun,
                partition,
            } => {
                write!(f, "the disk at controller {controller} LUN {lun}")?;
                match partition {
                    0 => Ok(()),
                    partition => write!(f, " partition {partition}"),
                }
            }
            Self::Pmem { device, offset } => {
                write!(f, "persistent memory device {device}")?;
                offset.map_or(Ok(()), |offset| write!(f, " from byte {offset}"))
            }
            Self::Directory => f.write_str("a directory of the host"),
            Self::Layers => f.write_str("combined layers"),
        }
    }
}

/// What an Add has mounted. It is all that Remove needs, so the device may be gone by then (P-252,
/// P-253).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRecord {
    pub source: Source,
    /// Cleaned; none when the host named no path.
    pub mount_path: Option<PathBuf>,
    /// `None` when no device had to be found.
    pub device: Option<PathBuf>,
    pub filesystem: String,
    pub read_only: bool,
    /// Mapped devices between the device and the mount, the lowest first.
    pub mappings: Vec<String>,
}
