//! Every `unsafe` of this crate: raw system calls behind safe functions that take and give
//! owned or borrowed descriptors. No policy here.
#![allow(unsafe_code)] // the one place where raw system calls live

pub mod bpf;
pub mod channel;
pub mod clock;
pub mod clone;
pub mod dm;
pub mod fds;
pub mod identity;
pub mod loopback;
pub mod mount;
pub mod mountfd;
pub mod pidfd;
pub mod process;
pub mod root;
pub mod seccomp;
