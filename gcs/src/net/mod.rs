//! Network of a pod: adapters of the utility VM, moved into the network namespace of a container
//! and set up there (protocol 7.8).
//!
//! ```text
//! prot.NetworkAdapter ── settings: parsed, or refused ── Adapter
//! Adapter ── device: VMBus instance → interface, waits for it
//! Adapter + its place among the others ── plan: pure ── steps ── assign ── netlink, lease
//! an address lent by DHCP ── lease ── prolonged, given back, asked for again
//! ```
//!
//! `device` and `assign` block, so they run in tasks. Only the process of a task enters another
//! network namespace.

pub mod assign;
pub mod device;
pub mod lease;
mod netlink;
mod plan;
pub mod settings;

pub use assign::{Assignment, Leased};
pub use settings::Adapter;
