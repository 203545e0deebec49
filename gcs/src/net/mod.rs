//! Network of a pod: adapters of the utility VM, moved into the network namespace of a container
//! and set up there (protocol 7.8).
//!
//! ```text
//! prot.NetworkAdapter ── settings: parsed, or refused ── Adapter
//! Adapter ── device: VMBus instance → interface name, waits for it
//! Adapter + its place among the others ── plan: pure ── steps ── apply: netlink, in a task
//! ```

pub mod settings;

pub use settings::Adapter;
