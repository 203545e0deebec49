//! `linux.seccomp`: from the OCI profile to the filter that the kernel runs at every system call.
//!
//! ```text
//! JSON ─ Profile (typed, all names known) ─ compile ─▶ Filter ─ load ─▶ kernel
//! ```
//!
//! Holds: what cannot be enforced is an error that names it, never left out; but for names of
//! system calls that this machine does not have, which nothing can call.

mod compile;
mod names;
mod profile;

use std::io;

use serde_json::Value;

use crate::sys::seccomp::{self, Instruction};

/// A compiled profile.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Filter {
    program: Vec<Instruction>,
    flags: u32,
}

impl Filter {
    /// The filter of a profile; `None` for null. The error names the member.
    pub fn of(profile: &Value) -> Result<Option<Self>, String> {
        if profile.is_null() {
            return Ok(None);
        }
        let profile = profile::Profile::parse(profile)?;
        let program = compile::program(&profile)?;
        Ok(Some(Self {
            program,
            flags: profile.flags,
        }))
    }

    /// Puts this process under the filter for good. It needs `no_new_privs` or CAP_SYS_ADMIN.
    #[cfg_attr(not(feature = "engine"), allow(dead_code))] // only the helper runs programs
    pub fn load(&self) -> io::Result<()> {
        seccomp::load(&self.program, self.flags)
    }
}

#[cfg(test)]
mod tests;
