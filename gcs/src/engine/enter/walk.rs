//! Paths of a container, looked up from a descriptor of its root. Whatever its links say, they
//! lead to a place in the root: the kernel resolves them there, or they are walked by hand, one
//! name at a time, where something has to be made on the way.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{openat, openat2, readlinkat, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{fstat, mkdirat, Mode, SFlag};

/// As many as the kernel follows on one path.
const MOST_LINKS: usize = 40;

/// The root of a container.
#[derive(Debug)]
pub struct Root(OwnedFd);

/// What is made where nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    Directory,
    File,
}

/// A place in the root.
#[derive(Debug)]
pub struct Place {
    pub fd: OwnedFd,
    /// It was not there before.
    pub is_new: bool,
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Root {
    pub fn new(directory: OwnedFd) -> Self {
        Self(directory)
    }

    /// Opens what is at `path`; links are followed within the root, the magic ones of procfs not
    /// at all, because they lead past every root.
    pub fn open(&self, path: &str, flags: OFlag) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        loop {
            match openat2(&self.0, path, how) {
                // A rename somewhere in the machine made the kernel uncertain of "..".
                Err(Errno::EAGAIN) => {}
                result => return result,
            }
        }
    }

    /// What is at `path`, as a name for it only.
    pub fn find(&self, path: &str) -> nix::Result<OwnedFd> {
        self.open(path, OFlag::O_PATH)
    }

    /// What is at `path`; when nothing is, it is made with all directories on the way. Links
    /// that lead to nothing are followed, and what they lead to is made.
    pub fn place(&self, path: &str, make: Make) -> nix::Result<Place> {
        match self.find(path) {
            Ok(fd) => Ok(Place { fd, is_new: false }),
            Err(Errno::ENOENT) => {
                let fd = match self.make_last(path, make) {
                    Err(Errno::ENOENT | Errno::EEXIST) => self.walk(path, make)?,
                    result => result?,
                };
                Ok(Place { fd, is_new: true })
            }
            Err(errno) => Err(errno),
        }
    }

    /// The directory that `path` is in, made when it is missing, and the last name.
    pub fn parent<'a>(&self, path: &'a str) -> nix::Result<(OwnedFd, &'a str)> {
        let (above, name) = path.rsplit_once('/').ok_or(Errno::EINVAL)?;
        let above = if above.is_empty() { "/" } else { above };
        Ok((self.place(above, Make::Directory)?.fd, name))
    }

    /// The usual case: all is there but the last.
    fn make_last(&self, path: &str, make: Make) -> nix::Result<OwnedFd> {
        let (above, name) = path.rsplit_once('/').ok_or(Errno::EINVAL)?;
        let above = if above.is_empty() { "/" } else { above };
        let above = self.open(above, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        make_in(&above, name, make)?;
        look(&above, name)
    }

    /// Goes from name to name. `..` is the directory that the walk came through.
    fn walk(&self, path: &str, make: Make) -> nix::Result<OwnedFd> {
        let mut above: Vec<OwnedFd> = Vec::new();
        let mut names = Vec::new();
        push(&mut names, path);
        let mut links = 0;
        while let Some(name) = names.pop() {
            if name == ".." {
                above.pop();
                continue;
            }
            let here = above.last().map_or(self.0.as_fd(), AsFd::as_fd);
            let found = match look(here, &name) {
                Err(Errno::ENOENT) => {
                    let what = if names.is_empty() {
                        make
                    } else {
                        Make::Directory
                    };
                    // Another process of the pod may have been faster.
                    match make_in(here, &name, what) {
                        Ok(()) | Err(Errno::EEXIST) => look(here, &name)?,
                        Err(errno) => return Err(errno),
                    }
                }
                found => found?,
            };
            let mode = fstat(&found)?.st_mode;
            match SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) {
                SFlag::S_IFLNK => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Errno::ELOOP);
                    }
                    let to = readlinkat(&found, "")?;
                    let to = to.to_str().ok_or(Errno::EILSEQ)?;
                    if to.starts_with('/') {
                        above.clear();
                    }
                    push(&mut names, to);
                }
                SFlag::S_IFDIR => above.push(found),
                _ if names.is_empty() => return Ok(found),
                _ => return Err(Errno::ENOTDIR),
            }
        }
        above.pop().map_or_else(|| self.find("/"), Ok)
    }
}

/// Puts the names of `path` on the stack of those to come.
fn push(names: &mut Vec<String>, path: &str) {
    let parts = path.rsplit('/').filter(|part| !matches!(*part, "" | "."));
    names.extend(parts.map(str::to_owned));
}

fn look(directory: impl AsFd, name: &str) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(directory, name, flags, Mode::empty())
}

fn make_in(directory: impl AsFd, name: &str, make: Make) -> nix::Result<()> {
    let mode = Mode::from_bits_truncate(0o755);
    match make {
        Make::Directory => mkdirat(directory, name, mode),
        Make::File => {
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            openat(directory, name, flags, mode).map(drop)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_missing_is_made_in_the_root_wherever_links_lead() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        let root_dir = dir.path().join("root");
        fs::create_dir_all(root_dir.join("etc")).unwrap();
        let link = |to: &str, at: &str| symlink(to, root_dir.join(at)).unwrap();
        link("../../../outside", "up");
        link(outside.to_str().unwrap(), "away");
        link("../run/systemd/resolv.conf", "etc/resolv.conf");
        link("loop", "loop");
        let root = Root::new(fs::File::open(&root_dir).unwrap().into());
        for (path, make, at) in [
            ("/etc/resolv.conf", Make::File, "run/systemd/resolv.conf"),
            ("/up/a/b", Make::Directory, "outside/a/b"),
            ("/new/deep/file", Make::File, "new/deep/file"),
            ("/../../x", Make::Directory, "x"),
        ] {
            let made = root.place(path, make).unwrap();
            assert!(made.is_new, "{path}");
            let there = fs::metadata(root_dir.join(at)).unwrap();
            assert_eq!(there.is_dir(), make == Make::Directory, "{path}");
            assert!(!root.place(path, make).unwrap().is_new, "{path}");
        }
        root.place("/away/z", Make::Directory).unwrap();
        assert_eq!(root.place("/loop/x", Make::File).unwrap_err(), Errno::ELOOP);
        assert_eq!(
            root.place("/new/deep/file/x", Make::File).unwrap_err(),
            Errno::ENOTDIR
        );
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
}
