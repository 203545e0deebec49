//! The directory that holds all files of one VM. It is removed when its owner is dropped, and on a
//! signal ([`remove_all`]). The next tool removes what a killed one has left.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{Flock, FlockArg};

const PREFIX: &str = "uvm-";
/// Held locked while the owner lives.
const LOCK: &str = "lock";
/// Room that a Unix socket's path (107 bytes) has for the directory.
const LONGEST: usize = 70;

static ALL: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

#[derive(Debug)]
pub struct PrivateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl PrivateDir {
    pub fn new() -> io::Result<Self> {
        let mut parent = std::env::temp_dir();
        if parent.as_os_str().as_bytes().len() > LONGEST {
            parent = PathBuf::from("/tmp");
        }
        sweep(&parent);
        let dir = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(&parent)?;
        let file = File::create(dir.path().join(LOCK))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| e)?;
        let path = dir.keep();
        ALL.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(path.clone());
        Ok(Self { path, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        ALL.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|path| *path != self.path);
        remove(&self.path);
    }
}

/// Removes the directories of all VMs of this process, just before its end.
pub fn remove_all() {
    for path in ALL.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        remove(&path);
    }
}

/// Makes [`remove_all`] remove more paths.
pub fn remove_at_exit(paths: impl IntoIterator<Item = PathBuf>) {
    ALL.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .extend(paths);
}

fn remove(path: &Path) {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if !metadata.is_dir() => fs::remove_file(path),
        _ => fs::remove_dir_all(path),
    };
    if let Err(e) = removed {
        if e.kind() != io::ErrorKind::NotFound {
            log::warn!("{} cannot be removed: {e}", path.display());
        }
    }
}

/// Removes what killed tools left: directories of this prefix whose lock nobody holds.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry.file_name().as_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let Ok(file) = File::open(entry.path().join(LOCK)) else {
            // Somebody else's, or just being made.
            continue;
        };
        if Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok() {
            remove(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_goes_with_its_owner_and_an_orphan_with_the_next() {
        let first = PrivateDir::new().unwrap();
        let path = first.path().to_owned();
        fs::write(first.join("x"), "x").unwrap();
        let orphan = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir()
            .unwrap()
            .keep();
        File::create(orphan.join(LOCK)).unwrap();
        let second = PrivateDir::new().unwrap();
        assert!(path.exists(), "the directory of a living owner");
        assert!(!orphan.exists());
        drop((first, second));
        assert!(!path.exists());
    }
}
