//! What a container gets besides its root file system: directories and disk images of this machine,
//! attached to the VM and bound into the container by its spec.

use std::path::{Path, PathBuf};

use serde_json::{json, Value};

use crate::attach_error::AttachError;
use crate::attachment::Attachment;
use crate::container;
use crate::uvm::Uvm;

/// The text of an option names no volume.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not of the form {form}")]
pub struct VolumeError {
    text: String,
    form: &'static str,
}

/// One thing for a container, as the command line names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    source: Source,
    /// Its path in the container.
    target: String,
    read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    /// A directory, or a file in one.
    Share(PathBuf),
    /// A disk image.
    Disk(PathBuf),
}

impl Volume {
    /// `HOST:CONTAINER[:ro]`
    pub fn share(text: &str) -> Result<Self, VolumeError> {
        Self::parse(text, "HOST:CONTAINER[:ro]", Source::Share)
    }

    /// `FILE:PATH[:ro]`
    pub fn disk(text: &str) -> Result<Self, VolumeError> {
        Self::parse(text, "FILE:PATH[:ro]", Source::Disk)
    }

    /// The file or directory of this machine.
    pub fn source(&self) -> &Path {
        match &self.source {
            Source::Share(path) | Source::Disk(path) => path,
        }
    }

    pub fn target(&self) -> &str {
        &self.target
    }

    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Attaches it to the VM as volume `number` of the container `id`. Returns the mount for the
    /// container's spec. The container must be gone before the attachment is removed.
    pub fn attach(
        &self,
        vm: &Uvm,
        id: &str,
        number: usize,
    ) -> Result<(Attachment, Value), AttachError> {
        // Where a host mounts them.
        let path = format!("{}/mounts/m{number}", container::bundle(id));
        let (attachment, source) = match &self.source {
            Source::Share(host) => {
                let file = file_name(host)?;
                let share = Attachment::share(vm, host, &path, self.read_only)?;
                let source = file.map_or(path.clone(), |file| format!("{path}/{file}"));
                (share, source)
            }
            Source::Disk(file) => {
                let disk = Attachment::disk(vm, file, &path, self.read_only)?;
                (disk, path)
            }
        };
        let access = if self.read_only { "ro" } else { "rw" };
        let mount = json!({"destination": self.target, "type": "none", "source": source,
            "options": ["rbind", access]});
        Ok((attachment, mount))
    }

    fn parse(
        text: &str,
        form: &'static str,
        source: impl FnOnce(PathBuf) -> Source,
    ) -> Result<Self, VolumeError> {
        let (rest, read_only) = match text.strip_suffix(":ro") {
            Some(rest) => (rest, true),
            None => (text.strip_suffix(":rw").unwrap_or(text), false),
        };
        match rest.rsplit_once(':') {
            Some((from, target)) if !from.is_empty() && target.starts_with('/') => Ok(Self {
                source: source(from.into()),
                target: target.to_owned(),
                read_only,
            }),
            _ => Err(VolumeError {
                text: text.to_owned(),
                form,
            }),
        }
    }
}

/// Puts mounts of a spec into the order in which none hides another: by the depth of their
/// destinations, otherwise as they were.
pub fn parents_first(mounts: &mut [Value]) {
    let depth = |mount: &Value| {
        let destination = mount["destination"].as_str().unwrap_or_default();
        Path::new(destination).components().count()
    };
    mounts.sort_by_key(depth);
}

/// The name of a file that is shared; none for a directory.
fn file_name(host: &Path) -> Result<Option<String>, AttachError> {
    let failed = |source| AttachError::Source {
        path: host.display().to_string(),
        source,
    };
    let path = host.canonicalize().map_err(failed)?;
    let name = path.file_name().filter(|_| !path.is_dir());
    Ok(name.map(|name| name.to_string_lossy().into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_mount_hides_another() {
        let mounts = |order: &[&str]| -> Vec<Value> {
            let mounts = order.iter();
            mounts.map(|path| json!({"destination": path})).collect()
        };
        let mut given = mounts(&["/p/a/b", "/q/c", "/p/", "/p//a", "/"]);
        parents_first(&mut given);
        assert_eq!(given, mounts(&["/", "/p/", "/q/c", "/p//a", "/p/a/b"]));
    }

    #[test]
    fn command_lines_name_volumes() {
        let share = |text| Volume::share(text).map(|v| (v.source, v.target, v.read_only));
        let path = |path: &str| Source::Share(path.into());
        assert_eq!(share("/a:/b").unwrap(), (path("/a"), "/b".into(), false));
        assert_eq!(share("a:/b:ro").unwrap(), (path("a"), "/b".into(), true));
        assert_eq!(
            share("/a:b:/c:rw").unwrap(),
            (path("/a:b"), "/c".into(), false)
        );
        for wrong in ["", "/a", "/a:", "/a:b", ":/b", "/a:ro", ":ro"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
        let disk = Volume::disk("x.vhdx:/data:ro").unwrap();
        assert_eq!(disk.source, Source::Disk("x.vhdx".into()));
    }
}
