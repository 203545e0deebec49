//! Paths as the host sends them.

use std::path::{Component, Path, PathBuf};

use crate::error::Failure;

/// Why a path cannot be used as a mount point or for removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the path is not absolute")]
    NotAbsolute,
    #[error("the path contains a NUL byte")]
    Nul,
}

/// The shortest equal path, without `.`, `..` and doubled slashes, in which form mounted paths are
/// recorded. Symbolic links are not followed.
pub fn clean(path: &Path) -> Result<PathBuf, PathError> {
    if !path.is_absolute() {
        return Err(PathError::NotAbsolute);
    }
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(PathError::Nul);
    }
    let mut plain = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                plain.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(plain)
}

/// `MountPath` as records are kept: cleaned, none when empty.
///
/// # Errors
/// A path that is not absolute.
pub fn mount_point(mount_path: &str) -> Result<Option<PathBuf>, Failure> {
    if mount_path.is_empty() {
        return Ok(None);
    }
    clean(Path::new(mount_path)).map(Some).map_err(|error| {
        Failure::unspecified(format!("MountPath {mount_path:?} cannot be used: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_by_words() {
        for (given, expected) in [
            ("/", "/"),
            ("/a//b/./c/", "/a/b/c"),
            ("/a/../b", "/b"),
            ("/../..", "/"),
            ("/run/mounts/scsi/m0", "/run/mounts/scsi/m0"),
        ] {
            assert_eq!(
                clean(Path::new(given)),
                Ok(PathBuf::from(expected)),
                "{given}"
            );
        }
        assert_eq!(clean(Path::new("a/b")), Err(PathError::NotAbsolute));
        assert_eq!(clean(Path::new("")), Err(PathError::NotAbsolute));
        assert_eq!(clean(Path::new("/a\0b")), Err(PathError::Nul));
    }
}
