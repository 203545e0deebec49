//! The directory that holds all files of one VM. It is removed when its owner is dropped, and on a
//! signal ([`remove_all`]). The next tool removes what a killed one has left.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{Flock, FlockArg, OFlag};

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

/// Removes what killed tools of this user left: directories of this prefix whose lock nobody holds.
/// Anybody can make such names here, so what is not this user's, or not as [`PrivateDir::new`] makes
/// it, is left alone.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let ours = entry.file_name().as_bytes().starts_with(PREFIX.as_bytes())
            && entry
                .metadata()
                .is_ok_and(|found| found.is_dir() && is_mine(&found));
        if !ours {
            continue;
        }
        // Just being made when there is no lock yet.
        let Ok(lock) = open_lock(&entry.path().join(LOCK)) else {
            continue;
        };
        if Flock::lock(lock, FlockArg::LockExclusiveNonblock).is_ok() {
            remove(&entry.path());
        }
    }
}

fn is_mine(found: &fs::Metadata) -> bool {
    found.uid() == nix::unistd::geteuid().as_raw()
}

/// Opens a lock, and nothing else that may stand there, without waiting.
fn open_lock(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
    let mut options = File::options();
    let file = options.read(true).custom_flags(flags.bits()).open(path)?;
    let found = file.metadata()?;
    match found.is_file() && is_mine(&found) {
        true => Ok(file),
        false => Err(io::ErrorKind::PermissionDenied.into()),
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

    /// Whoever shares the directory for temporary files with this user.
    #[test]
    fn what_others_put_there_is_neither_waited_for_nor_removed() {
        let top = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = top.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let pipe = make("uvm-pipe");
        nix::unistd::mkfifo(&pipe.join(LOCK), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let link = make("uvm-link");
        std::os::unix::fs::symlink("../elsewhere", link.join(LOCK)).unwrap();
        File::create(top.path().join("elsewhere")).unwrap();
        let target = make("target");
        File::create(target.join(LOCK)).unwrap();
        std::os::unix::fs::symlink("target", top.path().join("uvm-alias")).unwrap();
        let mut kept = vec![pipe, link, target];
        if nix::unistd::geteuid().is_root() {
            let foreign = make("uvm-foreign");
            File::create(foreign.join(LOCK)).unwrap();
            std::os::unix::fs::chown(&foreign, Some(12_345), None).unwrap();
            kept.push(foreign);
        }
        let mine = make("uvm-mine");
        File::create(mine.join(LOCK)).unwrap();
        sweep(top.path());
        for path in kept {
            assert!(path.exists(), "{path:?}");
        }
        assert!(!mine.exists());
    }
}
