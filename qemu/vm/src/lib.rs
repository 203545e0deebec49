//! QEMU as a child process, and nothing of what runs in it.
//!
//! ```text
//! Profile ── command_line ── QEMU ─┬─ qmp      plugs disks and memory, hears events
//!                                  ├─ console  kept, searched for a panic
//!                                  └─ the end  why it ended, told once it is known
//! ```
//!
//! A [`VsockWire`] says how a guest's vsock reaches this machine; this crate does not listen there.

pub mod choice;
mod command_line;
pub mod console;
mod end;
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
