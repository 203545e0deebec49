//! A running utility VM, whole: QEMU, its vsock, its Windows host, what it has of this machine,
//! and its containers.
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
pub mod attachment;
pub mod container;
mod machine;
pub mod network;
pub mod plan9;
pub mod private_dir;
pub mod volume;

pub use machine::{BootOptions, Timings, Uvm, UvmError};
