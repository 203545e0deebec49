//! Files of a container's root file system, never followed out of it (P-126): its image may
//! hold any symbolic link.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{open, openat2, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{fchmod, mkdirat, Mode};

/// A user database larger than this is none.
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
    // Not blocking: it may be a FIFO.
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

/// Makes the directory `path` and its missing parents with mode 0755.
pub(super) fn make_directories(root: &Path, path: &Path) -> io::Result<()> {
    let root = open_root(root)?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    // The usual case in one call.
    if at(&root, path, flags).is_ok() {
        return Ok(());
    }
    let mut parent = at(&root, Path::new("/"), flags)?;
    let mut so_far = std::path::PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => {
                so_far.push(name);
                parent = match at(&root, &so_far, flags) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {
                        mkdirat(&parent, name, Mode::from_bits_truncate(0o755))?;
                        // As asked for, whatever our umask.
                        let made = at(
                            &parent,
                            Path::new(name),
                            OFlag::O_RDONLY | OFlag::O_DIRECTORY,
                        )?;
                        fchmod(&made, Mode::from_bits_truncate(0o755))?;
                        made
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
    Ok(())
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
        assert!(make_directories(&root, Path::new("/away/new")).is_err());
        assert!(!outside.join("new").exists());
    }

    #[test]
    fn missing_directories_are_made_0755() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("real")).unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        make_directories(dir.path(), Path::new("/link/a/../b/c")).unwrap();
        for made in ["real/a", "real/b", "real/b/c"] {
            let mode = fs::metadata(dir.path().join(made))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o7777, 0o755, "{made}");
        }
        make_directories(dir.path(), Path::new("/link/b/c")).unwrap();
        make_directories(dir.path(), Path::new("/")).unwrap();
    }
}
