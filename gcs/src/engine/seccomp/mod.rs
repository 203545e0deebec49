//! `linux.seccomp`: from the OCI profile to the filter that the kernel runs at every system call.
//!
//! ```text
//! JSON ─ Profile (typed, all names known) ─ compile ─▶ Program ─ load ─▶ kernel
//! ```
//!
//! A profile is compiled once, when its container is created; what joins the container later
//! loads the same program.
//!
//! Holds: what cannot be enforced is an error that names it, never left out. The exception are
//! names of system calls that this machine does not have, which nothing can call.

mod compile;
mod names;
mod profile;

use std::io;

use serde_json::Value;

use crate::sys::seccomp::{self, Instruction};

/// A compiled profile: classic BPF and the flags it is to be loaded with.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    instructions: Vec<Instruction>,
    flags: u32,
}

/// The program of the object `linux.seccomp` (runtime-spec, config-linux.md, "Seccomp"). The
/// error names the member.
pub fn compile(profile: &Value) -> Result<Program, String> {
    let profile = profile::Profile::parse(profile)?;
    Ok(Program {
        instructions: compile::program(&profile)?,
        flags: profile.flags,
    })
}

impl Program {
    /// Puts this process under the program for good. It needs `no_new_privs` or CAP_SYS_ADMIN.
    /// Makes one system call and allocates nothing.
    pub fn load(&self) -> io::Result<()> {
        seccomp::load(&self.instructions, self.flags)
    }
}

#[cfg(test)]
mod tests;
