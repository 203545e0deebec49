//! Programs that the kernel has verified, to be attached again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys::bpf::{self, Insn};

/// How many are kept. Nearly all containers have the same rules; a privileged one has others.
const KEPT: usize = 8;
/// The longest that is loaded and kept here, in instructions: some forty rules. To verify
/// one takes the kernel less than a millisecond.
const LONGEST: usize = 256;

/// The programs used last, each loaded once.
#[derive(Debug, Default)]
pub struct Programs {
    /// The most recent one last.
    loaded: Vec<(Vec<Insn>, OwnedFd)>,
}

impl Programs {
    /// The loaded `program`. `None` when it is so long that the kernel may take its time: who may
    /// wait loads such a one itself ([`load`](bpf::load_device_program)).
    pub fn get(&mut self, program: &[Insn]) -> io::Result<Option<BorrowedFd<'_>>> {
        if program.len() > LONGEST {
            return Ok(None);
        }
        let known = self.loaded.iter().position(|(code, _)| code == program);
        let entry = match known {
            Some(at) => self.loaded.remove(at),
            None => (program.to_vec(), bpf::load_device_program(program)?),
        };
        if self.loaded.len() == KEPT {
            self.loaded.remove(0);
        }
        self.loaded.push(entry);
        Ok(self.loaded.last().map(|(_, fd)| fd.as_fd()))
    }

    /// One that is loaded.
    #[must_use]
    pub fn find(&self, program: &[Insn]) -> Option<BorrowedFd<'_>> {
        let known = self.loaded.iter().find(|(code, _)| code == program);
        known.map(|(_, fd)| fd.as_fd())
    }

    /// The descriptors of all, for a child that is to have them.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.loaded.iter().map(|(_, fd)| fd.as_fd())
    }

    /// How many are loaded.
    #[must_use]
    pub fn len(&self) -> usize {
        self.loaded.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.loaded.is_empty()
    }
}
