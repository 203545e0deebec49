//! A complete running utility VM: QEMU, its vsock, its Windows host, its disks and directories, and
//! its containers.
//!
//! ```no_run
//! # use uvm::Uvm;
//! # use uvm_vm::profile::Profile;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let vm = Uvm::boot(Profile::new("out/vmlinux", Some("out/initrd.img".into())))?;
//! let out = vm.external(&["/bin/true"]).run()?;
//! assert_eq!(out.code, 0);
//! vm.power_off()?;
//! # Ok(()) }
//! ```

pub mod attach_dir;
mod attach_error;
pub mod attachment;
pub mod container;
mod error;
pub mod network;
pub mod plan9;
mod pmem;
pub mod private_dir;
mod scsi;
mod share;
mod uvm;
pub mod volume;

pub use attach_error::AttachError;
pub use error::UvmError;
pub use uvm::{BootOptions, Timings, Uvm};
