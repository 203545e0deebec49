//! The guest compute service (GCS): everything a Linux utility VM does for its Windows host,
//! as a library that builds and tests on any Linux.
//!
//! ```text
//! bytes → bridge::frame → bridge::codec → Request → uvm (state) → Reply | pending ticket
//!                                                     │  child, timer or stream fires the ticket
//! bytes ← bridge::outbox ←────────────────────────────┘
//! ```
//!
//! There is one thread, one epoll loop (`reactor`) and one owner of state (`uvm`). What may block
//! runs in a child (`task`). Only `bridge` knows frames, and nothing in `prot` does I/O.
//!
//! The modules are three rooms, and a floor that all of them stand on. No room uses one above it:
//!
//! | room | modules |
//! |---|---|
//! | the VM's state, and what each request does to it | `service`, `uvm` |
//! | what acts on Linux | `bundle`, `engine`, `machine`, `net`, `stdio`, `storage` |
//! | the wire to the host | `bridge`, `transport` |
//! | the floor | `config`, `error`, `log`, `prot`, `reactor`, `stage`, `sys`, `task` |
//!
//! `README.md` of this crate has a map, and `PROTOCOL.md` is what comments mean by "protocol 6.5"
//! and "P-041".

pub mod bridge;
pub mod bundle;
pub mod config;
pub mod engine;
pub mod error;
pub mod log;
pub mod machine;
pub mod net;
pub mod prot;
pub mod reactor;
pub mod service;
pub mod stage;
pub mod stdio;
pub mod storage;
pub mod sys;
pub mod task;
pub mod transport;
pub mod uvm;
