//! The fake Windows host: everything a Linux guest talks to, over whichever vsock there is.
//!
//! ```text
//! port 1 (512 random bytes) · 109 (log records) · 0x40000000 (bridge) · 0x40000001.. (stdio)
//!     ports ─→ threads that read ─→ state (one lock) ←─ callers wait, each with a deadline
//! ```
//!
//! Strict mode (the default) ends the run with a report on anything that makes a real host drop
//! the bridge (protocol.md 1.7). [`Host`] is a handle; clones share the guest.

mod bridge;
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
