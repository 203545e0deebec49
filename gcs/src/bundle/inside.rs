//! Files in a container's root file system, or in a directory that containers write to. Both may
//! hold any symbolic link, and none is followed out of them (P-126).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{open, openat2, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{fchmod, mkdirat, Mode};

/// A larger file is not taken for a user database.
const READ_MAX: u64 = 16 << 20;

fn at(root: impl AsFd, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    loop {
        match openat2(root.as_fd(), path, how) {
            // Something was renamed meanwhile; the kernel asks to look again.
            Err(Errno::EAGAIN) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

fn open_root(root: &Path) -> io::Result<OwnedFd> {
    open(
        root,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(io::Error::from)
}

/// The text of a regular file.
pub(super) fn read(root: &Path, path: &str) -> io::Result<String> {
    let root = open_root(root)?;
    // It may be a FIFO, whose open would block.
    let file = File::from(at(
        &root,
        Path::new(path),
        OFlag::O_RDONLY | OFlag::O_NONBLOCK,
    )?);
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() > READ_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "not a regular file of reasonable size",
        ));
    }
    let mut bytes = Vec::new();
    file.take(READ_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The path with all links resolved. `None` when it does not exist.
pub(super) fn real_path(root: &Path, path: &Path) -> io::Result<Option<PathBuf>> {
    let root = open_root(root)?;
    // An empty path is the root itself.
    match at(&root, &Path::new("/").join(path), OFlag::O_PATH) {
        Ok(found) => place_of(&found).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn place_of(open: &OwnedFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/thread-self/fd/{}", open.as_raw_fd()))
}

/// Makes the directory `path` and its missing parents with `mode`, whatever the umask is. Returns
/// the resolved path. The new directories are added to `made`, parents first, also on failure.
pub(super) fn make_directories(
    root: &Path,
    path: &Path,
    mode: u32,
    made: &mut Vec<PathBuf>,
) -> io::Result<PathBuf> {
    let root = open_root(root)?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    // The usual case in one call.
    if let Ok(there) = at(&root, &Path::new("/").join(path), flags) {
        return place_of(&there);
    }
    let mode = Mode::from_bits_truncate(mode);
    let mut parent = at(&root, Path::new("/"), flags)?;
    let mut so_far = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => {
                so_far.push(name);
                parent = match at(&root, &so_far, flags) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {
                        mkdirat(&parent, name, mode)?;
                        let new = at(
                            &parent,
                            Path::new(name),
                            OFlag::O_RDONLY | OFlag::O_DIRECTORY,
                        )?;
                        made.push(place_of(&new)?);
                        fchmod(&new, mode)?;
                        new
                    }
                    other => other?,
                };
            }
            Component::ParentDir => {
                so_far.push("..");
                parent = at(&root, &so_far, flags)?;
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    place_of(&parent)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{symlink, PermissionsExt};

    use super::*;

    #[test]
    fn links_stay_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("passwd"), "outside").unwrap();
        fs::write(root.join("real"), "inside").unwrap();
        symlink(outside.join("passwd"), root.join("etc/absolute")).unwrap();
        symlink("../../outside/passwd", root.join("etc/relative")).unwrap();
        symlink("/real", root.join("etc/good")).unwrap();
        symlink(&outside, root.join("away")).unwrap();

        assert_eq!(read(&root, "/etc/good").unwrap(), "inside");
        for path in [
            "/etc/absolute",
            "/etc/relative",
            "/../outside/passwd",
            "/etc",
        ] {
            assert!(read(&root, path).is_err(), "{path}");
        }
        let mut made = Vec::new();
        assert!(make_directories(&root, Path::new("/away/new"), 0o755, &mut made).is_err());
        assert!(!outside.join("new").exists() && made.is_empty());

        let real = |path: &str| real_path(&root, Path::new(path)).unwrap();
        let root = root.canonicalize().unwrap();
        assert_eq!(real("etc/good"), Some(root.join("real")));
        assert_eq!(real(""), Some(root.clone()));
        assert_eq!(real("away/passwd"), None);
    }

    #[test]
    fn missing_directories_are_made_with_their_mode() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("real")).unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        let top = dir.path().canonicalize().unwrap();
        let make = |path: &str, mode| {
            let mut made = Vec::new();
            let at = make_directories(&top, Path::new(path), mode, &mut made).unwrap();
            (at, made)
        };
        let new = ["real/a", "real/b", "real/b/c"].map(|name| top.join(name));
        assert_eq!(
            make("/link/a/../b/c", 0o755),
            (new[2].clone(), new.to_vec())
        );
        assert_eq!(make("link/b/c", 0o755), (new[2].clone(), vec![]));
        assert_eq!(make("/", 0o755), (top.clone(), vec![]));
        let (open, _) = make("open", 0o777);
        for (path, wanted) in [(&new[0], 0o755), (&new[2], 0o755), (&open, 0o777)] {
            let mode = fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, wanted, "{path:?}");
        }
    }
}
