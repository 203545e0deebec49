//! Proof that this process runs inside a utility VM. On other machines nothing here may mount or
//! dial vsock. A developer's machine is often a VM itself, and context id 2 is then *its* host.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::child::PATH;

/// Set to 1 by a person or a start script that knows better than [`find`].
const OVERRIDE: &str = "UVM_ALLOW_VSOCK";
/// The inode of the first pid namespace, which is fixed in the kernel (`PROC_PID_INIT_INO`). With
/// any other, PID 1 belongs to a container and not to the machine.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Held by code that may act on the machine as its own. Only [`find`] gives one.
#[derive(Debug, Clone, Copy)]
pub struct Guest(());

/// A [`Guest`] if this is PID 1 of a machine, or PID 1 of the machine is this same binary, or
/// the environment says so. Needs `/proc`, except for PID 1, whose `/proc` is not there yet.
pub fn find() -> Option<Guest> {
    let allowed = std::env::var_os(OVERRIDE).is_some_and(|value| value == "1");
    let first_namespace = match fs::read_link("/proc/self/ns/pid") {
        Ok(name) => name.as_os_str() == FIRST_PID_NAMESPACE,
        Err(_) => std::process::id() == 1,
    };
    let ours = std::process::id() == 1 || same_file("/proc/1/exe", "/proc/self/exe");
    (allowed || (first_namespace && ours)).then_some(Guest(()))
}

fn same_file(one: impl AsRef<Path>, other: impl AsRef<Path>) -> bool {
    match (fs::metadata(one), fs::metadata(other)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

/// Where a program's name leads, as exec would find it.
pub fn program(name: &OsStr) -> Option<PathBuf> {
    let name = Path::new(name);
    if name.components().count() > 1 || name.is_absolute() {
        return name.is_file().then(|| name.to_owned());
    }
    PATH.split(':')
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.is_file())
}

/// Whether the name leads to this binary, under any name or link.
pub fn is_own_binary(name: &OsStr) -> bool {
    program(name).is_some_and(|path| same_file(path, "/proc/self/exe"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_machine_is_no_guest() {
        assert!(find().is_none());
    }

    #[test]
    fn own_binary_is_known_by_any_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let link = dir.path().join("gcs");
        std::os::unix::fs::symlink("/proc/self/exe", &link).expect("a link");
        assert!(is_own_binary(link.as_os_str()));
        assert!(!is_own_binary(OsStr::new("sh")));
        assert!(!is_own_binary(OsStr::new("/no/such/file")));
        assert!(program(OsStr::new("sh")).is_some());
    }
}
