//! QEMU as a child process, and nothing of what runs in it.
//!
//! ```text
//! Profile ── command_line ── QEMU ─┬─ qmp      plugs disks and memory, hears events
//!                                  ├─ console  kept, and searched for a panic
//!                                  └─ end      why it ended
//! ```
//!
//! A [`VsockWire`] says how the guest's vsock reaches this machine. This crate does not know who
//! listens there.

pub mod choice;
mod command_line;
pub mod console;
mod end;
mod initrd;
mod keeper;
mod kernel_line;
pub mod network;
pub mod profile;
pub mod qmp;
mod sys;
mod vm;

pub use command_line::VsockWire;
pub use end::{VmEnd, VmError, QEMU};
pub use sys::child;
pub use vm::Vm;
