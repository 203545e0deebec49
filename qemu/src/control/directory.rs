//! Where the control sockets of a user's VMs are: `lcow-uvm` in `XDG_RUNTIME_DIR`, else
//! `lcow-uvm-UID` in the directory for temporary files. Only its owner may enter it.
//!
//! A socket that nobody listens on belongs to a process that was killed. The process that finds it
//! removes it. The directory is locked meanwhile, so that a socket that is just being made is safe.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::fcntl::{Flock, FlockArg};

use super::ControlError;

const SUBDIRECTORY: &str = "lcow-uvm";
/// The room that a Unix socket's path (107 bytes) has for the directory besides the longest name.
const LONGEST: usize = 60;
const LONGEST_NAME: usize = 40;
/// Another process may remove the empty directory between two steps of this one.
const ATTEMPTS: usize = 10;

/// The name of a VM, which is that of its socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// A name that hardly any other VM has.
    pub fn generate() -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        Self(format!("vm-{}", &id[..6]))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = ControlError;

    fn from_str(text: &str) -> Result<Self, ControlError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let good = !text.is_empty()
            && text.len() <= LONGEST_NAME
            && !text.starts_with(['.', '-'])
            && text.chars().all(fits);
        match good {
            true => Ok(Self(text.to_owned())),
            false => Err(ControlError::Name(text.to_owned())),
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The directory of this user; it need not be there yet.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    pub fn of_user() -> Self {
        let user = nix::unistd::geteuid();
        let fits = |parent: &Path| parent.as_os_str().len() <= LONGEST;
        // With `sudo` it is another user's.
        let ours = |parent: &Path| {
            fs::metadata(parent).is_ok_and(|found| found.is_dir() && found.uid() == user.as_raw())
        };
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let runtime = runtime.filter(|p| p.is_absolute() && fits(p) && ours(p));
        let path = match runtime {
            Some(parent) => parent.join(SUBDIRECTORY),
            None => {
                let mut parent = std::env::temp_dir();
                if !fits(&parent) {
                    parent = PathBuf::from("/tmp");
                }
                parent.join(format!("{SUBDIRECTORY}-{user}"))
            }
        };
        Self { path }
    }

    /// Another one, for tests.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Listens under a name that no other VM has.
    pub fn listen(&self, name: &Name) -> Result<Socket, ControlError> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            match DirBuilder::new().mode(0o700).create(&self.path) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(self.failed(&e)),
            }
            self.check()?;
            match self.bind(name) {
                Ok(socket) => return Ok(socket),
                Err(e) if e.kind() == io::ErrorKind::NotFound => last = Some(e),
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                    return Err(ControlError::Taken(name.0.clone()))
                }
                Err(e) => return Err(self.failed(&e)),
            }
        }
        let last = last.unwrap_or_else(|| io::ErrorKind::NotFound.into());
        Err(self.failed(&last))
    }

    /// Fails when a VM has this name.
    pub fn check_free(&self, name: &Name) -> Result<(), ControlError> {
        match UnixStream::connect(self.path.join(name.as_str())) {
            Ok(_) => Err(ControlError::Taken(name.0.clone())),
            Err(_) => Ok(()),
        }
    }

    /// The VMs that run, by name; sockets of those that were killed are removed.
    pub fn names(&self) -> Result<Vec<String>, ControlError> {
        if !self.path.exists() {
            return Ok(Vec::new());
        }
        self.check()?;
        let lock = self.lock().map_err(|e| self.failed(&e))?;
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(|e| self.failed(&e))? {
            let entry = entry.map_err(|e| self.failed(&e))?;
            let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
            if let (true, Ok(name)) = (is_socket, entry.file_name().into_string()) {
                if remove_stale(&entry.path()).map_err(|e| self.failed(&e))? {
                    names.push(name);
                }
            }
        }
        drop(lock);
        names.sort();
        Ok(names)
    }

    /// Connects to the VM of this name, or to the only one.
    pub fn connect(&self, name: Option<&str>) -> Result<(String, UnixStream), ControlError> {
        let names = self.names()?;
        let name = match (name, names.as_slice()) {
            (Some(name), names) if names.iter().any(|n| n == name) => name.to_owned(),
            (Some(name), _) => {
                let (name, others) = (name.to_owned(), names);
                return Err(ControlError::Unknown { name, others });
            }
            (None, []) => return Err(ControlError::NoneRunning),
            (None, [name]) => name.clone(),
            (None, _) => return Err(ControlError::Several(names)),
        };
        match UnixStream::connect(self.path.join(&name)) {
            Ok(stream) => Ok((name, stream)),
            Err(source) => Err(ControlError::Io { name, source }),
        }
    }

    fn bind(&self, name: &Name) -> io::Result<Socket> {
        let lock = self.lock()?;
        let path = self.path.join(name.as_str());
        if remove_stale(&path)? {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let listener = UnixListener::bind(&path)?;
        let socket = Socket {
            listener,
            path: path.clone(),
        };
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        crate::exit::at_exit(move || remove(&path));
        drop(lock);
        Ok(socket)
    }

    fn lock(&self) -> io::Result<Flock<File>> {
        let directory = File::open(&self.path)?;
        Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, e)| e.into())
    }

    /// Checks the owner, because in a directory for everybody somebody else may have made it first.
    fn check(&self) -> Result<(), ControlError> {
        let found = fs::symlink_metadata(&self.path).map_err(|e| self.failed(&e))?;
        let user = nix::unistd::geteuid().as_raw();
        let why = if !found.is_dir() {
            "it is not a directory"
        } else if found.uid() != user {
            "it belongs to somebody else"
        } else if found.mode() & 0o077 != 0 {
            "others may enter it (its mode must be 0700)"
        } else {
            return Ok(());
        };
        Err(ControlError::Directory {
            path: self.path.display().to_string(),
            why: why.into(),
        })
    }

    fn failed(&self, e: &io::Error) -> ControlError {
        ControlError::Directory {
            path: self.path.display().to_string(),
            why: e.to_string(),
        }
    }
}

/// Whether somebody listens; a socket on which nobody does is removed. The directory is locked.
fn remove_stale(path: &Path) -> io::Result<bool> {
    match UnixStream::connect(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path)?;
            Ok(false)
        }
        // A process listens, and its queue is full.
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(e) => Err(e),
    }
}

/// A socket that is listened on, and removed when this is dropped.
#[derive(Debug)]
pub struct Socket {
    pub listener: UnixListener,
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes a socket of this process, and the directory after the last one.
fn remove(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => log::warn!("{} cannot be removed: {e}", path.display()),
    }
    if let Some(directory) = path.parent() {
        // Not empty, as a rule.
        drop(fs::remove_dir(directory));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_into_a_directory() {
        for good in ["a", "vm-1", "A.b_c", Name::generate().as_str()] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        let long = "x".repeat(LONGEST_NAME + 1);
        for bad in ["", ".", "..", ".a", "-a", "a/b", "a b", "ä", &long] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn one_vm_has_a_name_until_it_ends_however_it_ends() {
        let top = tempfile::tempdir().unwrap();
        let directory = Directory::at(top.path().join("vms"));
        assert!(directory.names().unwrap().is_empty());
        let name: Name = "one".parse().unwrap();
        let first = directory.listen(&name).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&directory.path), 0o700);
        assert_eq!(mode(&directory.path.join("one")), 0o600);
        let again = directory.listen(&name).unwrap_err();
        assert!(matches!(again, ControlError::Taken(_)), "{again}");
        let (found, _stream) = directory.connect(None).unwrap();
        assert_eq!(found, "one");
        let unknown = directory.connect(Some("two")).unwrap_err().to_string();
        assert_eq!(unknown, "there is no VM two (running: one)");

        // A killed process leaves its socket: nobody is found there, and the name is free.
        let path = first.path.clone();
        std::mem::forget(directory.listen(&"two".parse().unwrap()).unwrap());
        drop(first);
        assert!(!path.exists() && directory.path.exists());
        drop(UnixListener::bind(&path).unwrap());
        assert_eq!(directory.names().unwrap(), ["two"]);
        assert!(!path.exists());
        drop(UnixListener::bind(&path).unwrap());
        let second = directory.listen(&name).unwrap();
        assert_eq!(directory.names().unwrap(), ["one", "two"]);
        let several = directory.connect(None).unwrap_err().to_string();
        assert!(several.contains("--vm (running: one, two)"), "{several}");
        fs::remove_file(directory.path.join("two")).unwrap();
        drop(second);
        assert!(!directory.path.exists(), "the last one takes it away");
    }

    #[test]
    fn a_directory_of_others_is_not_trusted() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("vms");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        let directory = Directory::at(path);
        let said = directory.listen(&Name::generate()).unwrap_err().to_string();
        assert!(said.contains("0700"), "{said}");
    }
}
