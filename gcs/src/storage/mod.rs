//! Disks, layers and directories of the utility VM.
//!
//! Everything here blocks and therefore runs inside a task child, never in the loop; only
//! [`DiskTable`] lives in PID 1. A change is a transaction: what a failed request made is
//! undone, what was there before stays.
#![allow(clippy::disallowed_methods)] // Runs only inside task children, which may block.

use std::path::PathBuf;

pub mod disk;
mod filesystem;
mod kernel;
pub mod layers;
mod mountinfo;
mod mounts;
mod overlay;
mod path;
pub mod scsi;
mod table;
#[cfg(test)]
pub(crate) mod testing;
pub mod tree;
mod undo;

pub use disk::{Disk, Record};
pub use layers::CombinedLayers;
pub use path::clean;
pub use table::DiskTable;
use undo::Undo;

/// Where the kernel shows its devices; tests put a tree of their own there.
#[derive(Debug, Clone)]
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
