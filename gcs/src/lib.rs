//! The guest compute service (GCS): everything a Linux utility VM does for its Windows host,
//! as a library that builds and tests on any Linux.
//!
//! ```text
//! bytes → bridge::frame → bridge::codec → Request → host (state) → Reply | pending ticket
//!                                                     │  child, timer or stream fires the ticket
//! bytes ← bridge::outbox ←────────────────────────────┘
//! ```
//!
//! One thread, one epoll loop (`reactor`), one owner of state (`host`). Whatever may block
//! runs in a child (`task`). Nothing below `bridge` knows JSON frames, nothing in `prot` does I/O.

pub mod bridge;
pub mod bundle;
pub mod clock;
pub mod config;
pub mod engine;
pub mod error;
pub mod kmsg;
pub mod log;
pub mod memory;
pub mod net;
pub mod prot;
pub mod reactor;
pub mod runtime;
pub mod service;
pub mod stage;
pub mod stdio;
pub mod storage;
pub mod sys;
pub mod task;
pub mod transport;
pub mod uevent;
pub mod uvm;
