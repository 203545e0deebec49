//! The command `uvm`: its command line, and the control socket by which other calls reach a VM
//! that runs.

pub mod cli;
pub mod control;
mod exit;
