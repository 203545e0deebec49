//! Disks, persistent memory, layers and directories of the utility VM.
//!
//! Everything here blocks, so it runs in the child of a task and never in the loop. Only
//! [`MountTable`] lives in PID 1. A change is a transaction: what a failed request has made is
//! undone, and what was there before stays. A task notes each step before it takes it, so that its
//! supervisor can have the steps undone when the task was killed.
#![allow(clippy::disallowed_methods)] // Runs only inside task children, which may block.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub mod arrival;
mod crypt;
pub mod directory;
pub mod disk;
mod ext4;
#[cfg(test)]
mod failing;
mod filesystem;
mod formatter;
mod journal;
mod kernel;
pub mod layers;
mod mapper;
pub mod mkfs;
mod mountinfo;
mod mounts;
mod overlay;
mod path;
pub mod pci;
pub mod pmem;
mod record;
pub mod scsi;
mod table;
#[cfg(test)]
pub(crate) mod testing;
pub mod tree;
mod undo;
mod verity;

pub use directory::Directory;
pub use disk::Disk;
pub use journal::Journal;
pub use layers::CombinedLayers;
pub use mounts::{remove, remove_mappings};
pub use path::clean;
pub use pmem::Pmem;
pub use record::{MountRecord, Source};
pub use table::MountTable;
use undo::Undo;
pub use undo::{make_directory, replay};

/// Where the kernel shows its devices. Tests use a tree of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roots {
    pub sys: PathBuf,
    pub dev: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            sys: "/sys".into(),
            dev: "/dev".into(),
        }
    }
}
