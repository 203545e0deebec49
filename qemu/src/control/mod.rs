//! A running VM reached from another process of the same user.
//!
//! ```text
//! uvm attach, exec, ps, …            the process that has the VM (run, boot, exec)
//!   client ── Unix socket, one per VM ── server ── a thread per connection ── Host, QMP
//!     one request per connection, as a line of JSON; answers the same way
//!     exec: the process's own streams come as descriptors, so no byte passes the server
//! ```
//!
//! Only the process that has booted a VM speaks with its guest and its QEMU. Its socket has the
//! VM's name, in a directory that only its user can enter ([`directory`]).

pub mod attachments;
pub mod client;
pub mod directory;
mod exec;
mod requests;
pub mod server;
pub mod wire;

pub use client::{Client, Remote};
pub use directory::{Directory, Name};
pub use server::{Known, Server, Urge};

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(
        "{0:?} is no name for a VM: letters, digits, `-`, `_` and `.`, at most 40, not a dot first"
    )]
    Name(String),
    #[error("the directory of control sockets {path}: {why}")]
    Directory { path: String, why: String },
    #[error("there is a VM {0} already")]
    Taken(String),
    #[error("there is no VM {name}{}", running(.others))]
    Unknown { name: String, others: Vec<String> },
    #[error("no VM is running (`uvm boot` and `uvm run` start one)")]
    NoneRunning,
    #[error("several VMs are running: choose one by --vm{}", running(.0))]
    Several(Vec<String>),
    #[error("a process on this terminal: {0}")]
    Terminal(std::io::Error),
    #[error("the control socket of VM {name}: {source}")]
    Io {
        name: String,
        source: std::io::Error,
    },
    #[error("VM {name} ended while it was asked")]
    Gone { name: String },
    #[error("VM {name} gave no answer within {limit:?}")]
    Silent {
        name: String,
        limit: std::time::Duration,
    },
    #[error("VM {name}: {message}")]
    Refused {
        name: String,
        message: String,
        /// The exit code of the tool.
        code: Option<u8>,
    },
    #[error("VM {name} answered with {got}: another version of the tool has it")]
    Answer { name: String, got: String },
}

fn running(names: &[String]) -> String {
    match names {
        [] => String::new(),
        names => format!(" (running: {})", names.join(", ")),
    }
}
