//! The host side of a Linux utility VM: starts QEMU, carries its vsock, and plays the Windows
//! host towards the guest. The command `uvm` is a thin layer over this library.

pub mod attach_dir;
pub mod attachment;
pub mod bench;
pub mod choice;
pub mod cli;
pub mod conformance;
pub mod console;
pub mod container;
pub mod control;
pub mod exit;
pub mod host;
pub mod network;
pub mod oci;
pub mod plan9;
pub mod private_dir;
pub mod profile;
pub mod qmp;
mod sys;
pub mod trace;
pub mod uvm;
pub mod vm;
pub mod volume;
pub mod vsock;
