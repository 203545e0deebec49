//! Plays the Windows host of a Linux utility VM: everything that the guest talks to, over whichever
//! vsock there is. Only the guest's end of a bridge is needed, not a VM: tests use a thread.
//!
//! ```text
//! port 1 (512 random bytes) · 109 (log records) · 0x40000000 (bridge) · any above it (stdio)
//!     ports ─→ threads that read ─→ state (one lock) ←─ callers wait, each with a deadline
//! ```
//!
//! Strict mode (the default) ends the run with a report on anything that makes a real host drop
//! the bridge (protocol 1.7). [`Host`] is a handle; clones share the guest.
//!
//! ```no_run
//! use std::time::Duration;
//! use uvm_host::{Host, HostConfig, Transport};
//!
//! # fn main() -> Result<(), uvm_host::HostError> {
//! // Listens at /tmp/vsock_1, /tmp/vsock_109 and /tmp/vsock_1073741824.
//! let host = Host::listen(HostConfig::new(Transport::Unix("/tmp/vsock".into())))?;
//! // … start the VM …
//! host.wait_connected(Duration::from_secs(120))?;
//! host.negotiate()?;
//! let out = host.external(&["/bin/uname", "-r"]).run()?;
//! println!("{} and exit code {}", out.text(), out.code);
//! host.shutdown_uvm()?;
//! # Ok(()) }
//! ```
//!
//! `examples/host.rs` is a whole program: with `uvm-vsock` or Firecracker's vsock below it, it is
//! the host of any VM with such a guest.

#![warn(missing_docs)]

mod bridge;
mod dials;
mod end;
mod host;
pub mod log;
mod own_stream;
mod ports;
mod process;
mod pump;
mod requests;
mod state;
pub mod strict;
pub mod trace;
pub mod wire;

pub use bridge::Pending;
pub use end::{End, HostError};
pub use host::{Connected, Host, HostConfig, LogSink, BRIDGE_PORT, ENTROPY_PORT, LOG_PORT};
pub use ports::{Ports, Transport};
pub use process::{Launch, Output, Process};
pub use pump::{relay, Drained, Stdio, STREAM_GRACE};
pub use requests::{MappedVirtualDisk, RPC_LIMIT, UVM_ID};
pub use state::{Answer, Notification, Tail};
