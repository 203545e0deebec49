//! `linux.seccomp`: from the OCI profile to the filter that the kernel runs at every system call.
//!
//! ```text
//! JSON ─ Profile (typed, all names known) ─ compile ─▶ Filter ─ load ─▶ kernel
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

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{memfd_create, MFdFlags};
use serde_json::Value;

use crate::sys::seccomp::{self, Instruction};

/// A compiled profile: classic BPF and the flags it is to be loaded with.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    instructions: Vec<Instruction>,
    flags: u32,
}

/// The program of the object `linux.seccomp` (runtime-spec, config-linux.md, "Seccomp"). The
/// error names the member.
pub fn compile(profile: &Value) -> Result<Filter, String> {
    let profile = profile::Profile::parse(profile)?;
    Ok(Filter {
        instructions: compile::program(&profile)?,
        flags: profile.flags,
    })
}

impl Filter {
    /// For who loads it later: [`Filter::read`].
    pub fn keep(&self) -> io::Result<OwnedFd> {
        let words = self.instructions.iter().flat_map(|instruction| {
            let (operation, yes, no, value) = instruction.parts();
            let [a, b] = operation.to_ne_bytes();
            [[a, b, yes, no], value.to_ne_bytes()]
        });
        let all = [self.flags.to_ne_bytes()].into_iter().chain(words);
        let bytes: Vec<u8> = all.flatten().collect();
        let mut file = File::from(memfd_create(c"seccomp", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(&bytes)?;
        Ok(file.into())
    }

    /// What [`Filter::keep`] gave.
    pub fn read(kept: &OwnedFd) -> io::Result<Self> {
        let file = File::from(kept.try_clone()?);
        let size = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let mut bytes = vec![0; size];
        file.read_exact_at(&mut bytes, 0)?;
        let (flags, rest) = bytes
            .split_first_chunk()
            .ok_or(io::ErrorKind::InvalidData)?;
        let instructions = rest.chunks_exact(8).map(|word| {
            let value = u32::from_ne_bytes([word[4], word[5], word[6], word[7]]);
            Instruction::new(
                u16::from_ne_bytes([word[0], word[1]]),
                word[2],
                word[3],
                value,
            )
        });
        Ok(Self {
            instructions: instructions.collect(),
            flags: u32::from_ne_bytes(*flags),
        })
    }

    /// Puts this process under the program for good. It needs `no_new_privs` or CAP_SYS_ADMIN.
    /// Makes one system call and allocates nothing.
    pub fn load(&self) -> io::Result<()> {
        seccomp::load(&self.instructions, self.flags)
    }
}

#[cfg(test)]
mod tests;
