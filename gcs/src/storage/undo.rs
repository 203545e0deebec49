//! A change of several steps that happens whole or not at all.

use std::io;
use std::path::{Path, PathBuf};

use super::kernel::Kernel;
use super::{mapper, Roots};
use crate::error::Failure;

/// How one step is taken back.
#[derive(Debug, Clone)]
enum Step {
    RemoveDirectory(PathBuf),
    Unmount(PathBuf),
    Unmap(Roots, String),
}

impl Step {
    fn take_back(&self, kernel: &dyn Kernel) -> (PathBuf, io::Result<()>) {
        match self {
            Self::Unmount(path) => (path.clone(), kernel.unmount(path)),
            Self::Unmap(roots, name) => {
                let result = mapper::remove(kernel, roots, name);
                (mapper::node(roots, name), result)
            }
            Self::RemoveDirectory(path) => {
                let result = match kernel.rmdir(path) {
                    // Somebody else uses it by now, or has removed it.
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

/// What has been done so far. Dropped without [`Undo::run`] having succeeded (a panic), it
/// takes everything back too.
pub struct Undo<'k> {
    kernel: &'k dyn Kernel,
    steps: Vec<Step>,
}

impl<'k> Undo<'k> {
    /// Runs `work`. When it fails, the steps it noted are taken back, last one first; what
    /// cannot be taken back is added to the message.
    pub fn run<T>(
        kernel: &'k dyn Kernel,
        work: impl FnOnce(&mut Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut undo = Self {
            kernel,
            steps: Vec::new(),
        };
        match work(&mut undo) {
            Ok(value) => {
                undo.steps.clear();
                Ok(value)
            }
            Err(mut failure) => {
                for (path, error) in undo.take_back() {
                    failure.message += &format!("; not undone: {path:?}: {error}");
                }
                Err(failure)
            }
        }
    }

    pub fn kernel(&self) -> &'k dyn Kernel {
        self.kernel
    }

    /// To be called right after the mount, before anything else can fail.
    pub fn mounted(&mut self, target: &Path) {
        self.steps.push(Step::Unmount(target.to_owned()));
    }

    /// To be called right after the device was made.
    pub fn mapped(&mut self, roots: &Roots, name: &str) {
        self.steps.push(Step::Unmap(roots.clone(), name.to_owned()));
    }

    /// Takes the newest step back while the work goes on: a mapped device that was needed for a
    /// moment only.
    pub fn step_back(&mut self) -> io::Result<()> {
        let newest = self.steps.last();
        newest.map_or(Ok(()), |step| step.take_back(self.kernel).1)?;
        self.steps.pop();
        Ok(())
    }

    /// mkdir -p. Directories that were there stay when the work fails, with their modes.
    pub fn make_directories(&mut self, path: &Path, mode: u32) -> Result<(), Failure> {
        let mut missing: Vec<&Path> = path
            .ancestors()
            .take_while(|ancestor| !ancestor.exists())
            .collect();
        missing.reverse();
        for directory in missing {
            match self.kernel.mkdir(directory, mode) {
                Ok(()) => self.steps.push(Step::RemoveDirectory(directory.to_owned())),
                // Another request made it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
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
        let mut stays = Vec::new();
        while let Some(step) = self.steps.pop() {
            let (path, result) = step.take_back(self.kernel);
            if let Err(error) = result {
                stays.push((path, error));
            }
        }
        stays
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        for (path, error) in self.take_back() {
            log::error!("not undone: {path:?}: {error}");
        }
    }
}
