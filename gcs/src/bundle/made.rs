//! What a Create has made, in order, so that it can be undone when a later step fails (P-131).

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::mount::{mount, umount2, MntFlags, MsFlags};
use serde::{Deserialize, Serialize};

use crate::error::Failure;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum MadePath {
    Directory(PathBuf),
    File(PathBuf),
    Mount(PathBuf),
}

impl MadePath {
    fn path(&self) -> &Path {
        match self {
            Self::Directory(path) | Self::File(path) | Self::Mount(path) => path,
        }
    }
}

/// It crosses process borders, because it may have to be undone long after the task that has made
/// it.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made(Vec<MadePath>);

impl Made {
    /// The directory and its missing parents, each with `mode`; existing ones are left alone.
    pub(super) fn directories(&mut self, path: &Path, mode: u32) -> Result<(), Failure> {
        let missing: Vec<&Path> = path.ancestors().take_while(|dir| !dir.exists()).collect();
        for dir in missing.into_iter().rev() {
            match DirBuilder::new().mode(mode).create(dir) {
                Ok(()) => self.made_directory(dir.to_path_buf()),
                // Another Create has made it at the same time.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(failed("make", dir, &e)),
            }
            set_mode(dir, mode)?;
        }
        Ok(())
    }

    /// A file with this content, instead of what was there.
    pub(super) fn file(&mut self, path: &Path, content: &[u8], mode: u32) -> Result<(), Failure> {
        self.0.push(MadePath::File(path.to_path_buf()));
        fs::write(path, content).map_err(|e| failed("write", path, &e))?;
        set_mode(path, mode)
    }

    /// A file system of its own at `target`; `data` are its options.
    pub(super) fn file_system(
        &mut self,
        kind: &str,
        target: &Path,
        data: &str,
    ) -> Result<(), Failure> {
        mount(
            Some("none"),
            target,
            Some(kind),
            MsFlags::empty(),
            Some(data),
        )
        .map_err(|e| failed(&format!("mount {kind} ({data}) at"), target, &e.into()))?;
        self.0.push(MadePath::Mount(target.to_path_buf()));
        Ok(())
    }

    /// Mounts the directory on itself.
    pub(super) fn bind_to_itself(&mut self, path: &Path) -> Result<(), Failure> {
        mount(
            Some(path),
            path,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .map_err(|e| failed("bind to itself", path, &e.into()))?;
        self.0.push(MadePath::Mount(path.to_path_buf()));
        Ok(())
    }

    /// Notes a directory that other code has made for this Create.
    pub(super) fn made_directory(&mut self, path: PathBuf) {
        self.0.push(MadePath::Directory(path));
    }

    /// Undoes everything in reverse order, except what `keep` says is used by others. Directories
    /// are removed only when they are empty. Blocks. What stays is logged.
    pub fn undo(self, keep: impl Fn(&Path) -> bool) {
        for step in self.0.iter().rev().filter(|step| !keep(step.path())) {
            let done = match step {
                MadePath::Directory(path) => fs::remove_dir(path),
                MadePath::File(path) => fs::remove_file(path),
                MadePath::Mount(path) => {
                    umount2(path, MntFlags::UMOUNT_NOFOLLOW).map_err(io::Error::from)
                }
            };
            match done {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    log::warn!("take back {}: {e}", step.path().display());
                }
                _ => {}
            }
        }
    }
}

/// Makes the mount at `path` and those below it shared, so that later mounts there are propagated.
pub(super) fn share(path: &Path) -> Result<(), Failure> {
    mount(
        None::<&str>,
        path,
        None::<&str>,
        MsFlags::MS_SHARED | MsFlags::MS_REC,
        None::<&str>,
    )
    .map_err(|e| failed("share the mounts of", path, &e.into()))
}

pub(super) fn set_mode(path: &Path, mode: u32) -> Result<(), Failure> {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(|e| failed("set the mode of", path, &e))
}

pub(super) fn failed(doing: &str, path: &Path, e: &io::Error) -> Failure {
    Failure::unspecified(format!("{doing} {}: {e}", path.display()))
}
