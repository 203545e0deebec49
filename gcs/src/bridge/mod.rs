//! The bridge: frames from and to the host.

pub mod codec;
pub mod connection;
pub mod frame;
pub mod outbox;
pub mod text;
