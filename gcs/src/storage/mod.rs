//! Disks, layers and directories of the utility VM.
//!
//! Everything here blocks and therefore runs inside a task child, never in the loop; only
//! [`DiskTable`] lives in PID 1. A change is a transaction: what a failed request made is
//! undone, what was there before stays.
#![allow(clippy::disallowed_methods)] // Runs only inside task children, which may block.

mod mountinfo;
mod path;
#[cfg(test)]
mod testing;
pub mod tree;

pub use path::clean;
