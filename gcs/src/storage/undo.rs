//! A change of several steps that happens completely or not at all.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::journal::Journal;
use super::kernel::{Kernel, Linux, Mount};
use super::mapper::MapperRequest;
use super::mountinfo::mounts_at;
use super::overlay::Overlay;
use super::{mapper, tree, Roots};
use crate::error::Failure;

/// Another request may remove a directory that it has made, just before this one makes one inside.
const ATTEMPTS: usize = 10;

/// How one step is undone. It does no harm when the step did not happen or was undone already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UndoStep {
    RemoveDirectory(PathBuf),
    /// Also removes what the kernel has put into it.
    RemoveTree(PathBuf),
    Unmount {
        path: PathBuf,
        /// The number of mounts that were there before.
        below: usize,
    },
    Unmap(Roots, String),
    Unlink {
        path: PathBuf,
        to: PathBuf,
    },
}

impl UndoStep {
    fn take_back(&self, kernel: &dyn Kernel) -> (PathBuf, io::Result<()>) {
        match self {
            Self::Unmount { path, below } => (path.clone(), unmount(kernel, path, *below)),
            Self::Unmap(roots, name) => {
                let result = mapper::remove(kernel, roots, name);
                (mapper::node(roots, name), result)
            }
            Self::Unlink { path, to } => {
                let result = match std::fs::read_link(path) {
                    Ok(found) if found == *to => kernel.remove_node(path),
                    // The link was not made, or it is not this request's.
                    _ => Ok(()),
                };
                (path.clone(), result)
            }
            Self::RemoveTree(path) => {
                let result = tree::remove(path).map_err(io::Error::other);
                (path.clone(), result)
            }
            Self::RemoveDirectory(path) => {
                let result = match kernel.rmdir(path) {
                    // Somebody else uses it now, or has removed it.
                    Err(error)
                        if matches!(
                            error.kind(),
                            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound
                        ) =>
                    {
                        Ok(())
                    }
                    result => result,
                };
                (path.clone(), result)
            }
        }
    }
}

fn unmount(kernel: &dyn Kernel, path: &Path, below: usize) -> io::Result<()> {
    let more = mounts_at(path)?.saturating_sub(below);
    (0..more).try_for_each(|_| kernel.unmount(path))
}

/// What has been done so far. When it is dropped before [`Undo::run`] has succeeded (a panic), it
/// undoes everything too.
pub struct Undo<'k> {
    kernel: &'k dyn Kernel,
    journal: &'k Journal,
    steps: Vec<UndoStep>,
}

impl<'k> Undo<'k> {
    /// Runs `work`. When it fails, its steps are undone in reverse order, and a step that cannot be
    /// undone is added to the message. When the process is killed, another one undoes the steps in
    /// the journal ([`replay`]); this is so after a success too.
    pub fn run<T>(
        kernel: &'k dyn Kernel,
        journal: &'k Journal,
        work: impl FnOnce(&mut Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut undo = Self {
            kernel,
            journal,
            steps: Vec::new(),
        };
        match work(&mut undo) {
            Ok(value) => {
                undo.steps.clear();
                Ok(value)
            }
            Err(failure) => Err(with_rest(failure, undo.take_back())),
        }
    }

    pub fn kernel(&self) -> &'k dyn Kernel {
        self.kernel
    }

    /// Does one step, which is noted before it begins.
    fn step<T, E>(
        &mut self,
        step: UndoStep,
        action: impl FnOnce(&dyn Kernel) -> Result<T, E>,
    ) -> Result<T, E> {
        self.journal.begun(&step);
        let done = action(self.kernel);
        match done {
            Ok(_) => self.steps.push(step),
            Err(_) => self.journal.gone(),
        }
        done
    }

    /// A mount that is already at the target stays.
    pub fn mount(&mut self, mount: Mount<'_>) -> io::Result<()> {
        let step = self.unmount_later(mount.target)?;
        self.step(step, |kernel| kernel.mount(mount))
    }

    pub fn overlay(&mut self, overlay: &Overlay) -> Result<(), Failure> {
        let step = self.unmount_later(&overlay.target).map_err(|error| {
            Failure::unspecified(format!("cannot read the mount table: {error}"))
        })?;
        self.step(step, |kernel| kernel.overlay(overlay))
    }

    fn unmount_later(&self, target: &Path) -> io::Result<UndoStep> {
        let made_here =
            |step: &UndoStep| matches!(step, UndoStep::RemoveDirectory(path) if path == target);
        let below = match self.steps.iter().any(made_here) {
            // The directory is new, so nothing is mounted on it, and reading the table takes longer
            // than a mount.
            true => 0,
            false => mounts_at(target)?,
        };
        let path = target.to_owned();
        Ok(UndoStep::Unmount { path, below })
    }

    /// A mapped device of this name, without a table.
    pub fn create_device(&mut self, roots: &Roots, name: &str) -> io::Result<()> {
        let step = UndoStep::Unmap(roots.clone(), name.to_owned());
        self.step(step, |kernel| {
            kernel.map(roots, name, MapperRequest::Create).map(drop)
        })
    }

    pub fn link(&mut self, to: &Path, path: &Path) -> io::Result<()> {
        let step = UndoStep::Unlink {
            path: path.to_owned(),
            to: to.to_owned(),
        };
        self.step(step, |kernel| kernel.link(to, path))
    }

    /// Undoes the newest step while the work goes on, for a mapped device that was needed only for
    /// a moment.
    pub fn step_back(&mut self) -> io::Result<()> {
        let Some(newest) = self.steps.last() else {
            return Ok(());
        };
        newest.take_back(self.kernel).1?;
        self.steps.pop();
        self.journal.gone();
        Ok(())
    }

    /// mkdir -p. Directories that were there stay when the work fails, with their modes.
    pub fn make_directories(&mut self, path: &Path, mode: u32) -> Result<(), Failure> {
        self.make_missing(path, mode, UndoStep::RemoveDirectory)
    }

    /// The same for a directory into which the kernel puts something of its own.
    pub fn make_directories_for_kernel(&mut self, path: &Path, mode: u32) -> Result<(), Failure> {
        if let Some(parent) = path.parent() {
            self.make_directories(parent, mode)?;
        }
        self.make_missing(path, mode, UndoStep::RemoveTree)
    }

    fn make_missing(
        &mut self,
        path: &Path,
        mode: u32,
        step: fn(PathBuf) -> UndoStep,
    ) -> Result<(), Failure> {
        for attempt in 1.. {
            let missing = path.ancestors().take_while(|ancestor| !ancestor.exists());
            let missing: Vec<&Path> = missing.collect();
            let made = missing.iter().rev().try_for_each(|directory| {
                let step = step(directory.to_path_buf());
                match self.step(step, |kernel| kernel.mkdir(directory, mode)) {
                    // Another request made it meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                    made => made.map_err(|error| (directory, error)),
                }
            });
            match made {
                Ok(()) => break,
                Err((_, error))
                    if error.kind() == io::ErrorKind::NotFound && attempt < ATTEMPTS => {}
                Err((directory, error)) => {
                    return Err(Failure::unspecified(format!(
                        "cannot make the directory {directory:?}: {error}"
                    )))
                }
            }
        }
        if path.is_dir() {
            Ok(())
        } else {
            Err(Failure::unspecified(format!("{path:?} is not a directory")))
        }
    }

    fn take_back(&mut self) -> Vec<(PathBuf, io::Error)> {
        take_back(self.kernel, self.journal, &mut self.steps)
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        for (path, error) in self.take_back() {
            log::error!("not undone: {path:?}: {error}");
        }
    }
}

fn take_back(
    kernel: &dyn Kernel,
    journal: &Journal,
    steps: &mut Vec<UndoStep>,
) -> Vec<(PathBuf, io::Error)> {
    let mut stays = Vec::new();
    while let Some(step) = steps.pop() {
        let (path, result) = step.take_back(kernel);
        journal.gone();
        if let Err(error) = result {
            stays.push((path, error));
        }
    }
    stays
}

fn with_rest(mut failure: Failure, rest: Vec<(PathBuf, io::Error)>) -> Failure {
    for (path, error) in rest {
        failure.message += &format!("; not undone: {path:?}: {error}");
    }
    failure
}

/// Makes one directory, noted for [`replay`].
pub fn make_directory(journal: &Journal, path: &Path, mode: u32) -> io::Result<()> {
    journal.begun(&UndoStep::RemoveDirectory(path.to_owned()));
    Linux.mkdir(path, mode).inspect_err(|_| journal.gone())
}

/// Undoes what is noted in the journal of a task that was killed, or that has failed in one of
/// several `Undo`s.
pub fn replay(journal: &Journal) -> Result<(), Failure> {
    replay_with(&Linux, journal)
}

pub(super) fn replay_with(kernel: &dyn Kernel, journal: &Journal) -> Result<(), Failure> {
    let mut steps = journal.steps().map_err(|error| {
        Failure::unspecified(format!("cannot read what was done so far: {error}"))
    })?;
    match take_back(kernel, journal, &mut steps) {
        rest if rest.is_empty() => Ok(()),
        rest => Err(with_rest(
            Failure::unspecified("it was not undone completely"),
            rest,
        )),
    }
}

#[cfg(test)]
#[path = "undo_tests.rs"]
mod tests;
