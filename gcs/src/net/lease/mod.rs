//! Addresses that DHCP servers lend to adapters (7.8): asked for, prolonged while the container
//! lives, given back and asked for again when a lease ends.
//!
//! ```text
//! message: bytes ↔ Lease, pure     client: conversations, which block
//! tenancy: a lease and its adapter → when to do what, pure → the change, in the container's namespace
//! ```

pub mod client;
mod message;
pub mod tenancy;

pub use message::Lease;
pub use tenancy::Tenancy;
