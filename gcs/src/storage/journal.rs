//! What an attach has done so far, in memory that it shares with its supervisor. When the task is
//! killed half-way, another task uses it to undo what the first has done.
//!
//! A step is noted before it is begun. So the last step may not have happened, and undoing it must
//! be harmless. A note wakes nobody.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{memfd_create, MFdFlags};
use serde::{Deserialize, Serialize};

use super::undo::UndoStep;

/// More than the longest attach writes: some hundred bytes for each of a few hundred steps.
const LONGEST: u64 = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
enum Note {
    Begun(UndoStep),
    /// The newest step has failed or was undone.
    Gone,
}

/// Written by the task, read when it has died.
#[derive(Debug)]
pub struct Journal(Option<File>);

impl Journal {
    pub fn new() -> io::Result<Self> {
        Ok(Self(Some(
            memfd_create(c"journal", MFdFlags::MFD_CLOEXEC)?.into(),
        )))
    }

    /// A journal that keeps nothing, for work that cannot be killed.
    pub fn none() -> Self {
        Self(None)
    }

    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(File::as_fd)
    }

    pub(super) fn begun(&self, step: &UndoStep) {
        self.note(&Note::Begun(step.clone()));
    }

    pub(super) fn gone(&self) {
        self.note(&Note::Gone);
    }

    /// When there is no memory for a note, the work goes on, because the note matters only if the
    /// task is killed too.
    fn note(&self, note: &Note) {
        let Some(mut file) = self.0.as_ref() else {
            return;
        };
        let line = serde_json::to_vec(note).map_err(io::Error::from);
        let written = line.and_then(|mut line| {
            line.push(b'\n');
            file.write_all(&line)
        });
        if let Err(error) = written {
            log::error!("noting a step that may have to be undone: {error}");
        }
    }

    /// The steps that may still be there, in the order in which they were begun.
    pub(super) fn steps(&self) -> io::Result<Vec<UndoStep>> {
        let Some(file) = &self.0 else {
            return Ok(Vec::new());
        };
        let length = file.metadata()?.len().min(LONGEST);
        // Not more than `LONGEST`.
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, 0)?;
        let mut steps = Vec::new();
        // A line without its end belongs to a step that was not begun.
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if line.ends_with(b"\n") {
                match serde_json::from_slice(line)? {
                    Note::Begun(step) => steps.push(step),
                    Note::Gone => drop(steps.pop()),
                }
            }
        }
        Ok(steps)
    }
}
