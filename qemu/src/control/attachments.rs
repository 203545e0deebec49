//! What was attached to a running VM, and how it is detached.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::wire::{Attach, Kind, Target};
use uvm::attach_dir::AttachDir;
use uvm::attachment::Attachment;
use uvm::{AttachError, Uvm};

#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    #[error(
        "{0:?} is no path for it: it takes an absolute path without `.` and `..`, and not `/`"
    )]
    Path(String),
    #[error("{0} is taken: `uvm detach {0}` makes it free")]
    Taken(String),
    #[error("nothing is attached at {path}{}", at(.others))]
    NotAttached { path: String, others: Vec<String> },
    #[error("{0} is attached already, and one of the two would write to it")]
    Shared(String),
    #[error("{0} is not a directory: only directories are shared")]
    NotDirectory(String),
    #[error("{0} is not a file or block device")]
    NotFile(String),
    #[error("{path}: {source}")]
    Source {
        path: String,
        source: std::io::Error,
    },
    #[error(
        "container {0} takes nothing while it runs: start it with `uvm run --attach-dir \
         DIRECTORY`, or attach to a path of the VM"
    )]
    Closed(String),
    #[error("container {container} takes what is attached right below {inside} only")]
    Elsewhere { container: String, inside: String },
    #[error(transparent)]
    Attach(#[from] AttachError),
}

fn at(paths: &[String]) -> String {
    match paths {
        [] => String::new(),
        paths => format!(" (attached: {})", paths.join(", ")),
    }
}

struct Attached {
    order: Attach,
    /// Device and inode of its source.
    source: (u64, u64),
    attachment: Attachment,
}

/// All of a VM. One owner, so one change at a time.
#[derive(Default)]
pub struct Attachments {
    attached: Vec<Attached>,
}

impl Attachments {
    /// Does what is asked for, or leaves nothing. `container` is the target's id with its attach
    /// directory.
    pub fn attach(
        &mut self,
        vm: &Uvm,
        order: Attach,
        container: Option<(&str, Option<&AttachDir>)>,
    ) -> Result<(), OrderError> {
        let path = path_in_vm(&order.target, container)?;
        if self.attached.iter().any(|e| e.attachment.path() == path) {
            return Err(OrderError::Taken(order.target.path));
        }
        let source = self.source(&order)?;
        let file = Path::new(&order.source);
        let attachment = match order.kind {
            Kind::Disk => Attachment::disk(vm, file, &path, order.read_only)?,
            Kind::Share => Attachment::share(vm, file, &path, order.read_only)?,
            Kind::Pmem => Attachment::pmem(vm, file, &path)?,
        };
        self.attached.push(Attached {
            order,
            source,
            attachment,
        });
        Ok(())
    }

    /// Detaches it. After a failure it is still attached.
    pub fn detach(&mut self, vm: &Uvm, target: &Target) -> Result<(), OrderError> {
        let fits = |attached: &Attached| attached.order.target == *target;
        let Some(at) = self.attached.iter().position(fits) else {
            return Err(OrderError::NotAttached {
                path: target.path.clone(),
                others: self.list().into_iter().map(|o| o.target.path).collect(),
            });
        };
        self.attached[at].attachment.remove(vm)?;
        self.attached.remove(at);
        Ok(())
    }

    /// Detaches everything, the last one first. What cannot be detached is logged.
    pub fn detach_all(&mut self, vm: &Uvm) {
        for mut attached in self.attached.drain(..).rev() {
            if let Err(e) = attached.attachment.remove(vm) {
                log::warn!("{} stays attached: {e}", attached.order.source);
            }
        }
    }

    pub fn list(&self) -> Vec<Attach> {
        self.attached.iter().map(|e| e.order.clone()).collect()
    }

    /// Refuses what QEMU and the guest would accept and then damage: two systems that write to one
    /// disk.
    fn source(&self, order: &Attach) -> Result<(u64, u64), OrderError> {
        let path = || order.source.clone();
        let found = std::fs::metadata(&order.source).map_err(|source| OrderError::Source {
            path: path(),
            source,
        })?;
        let id = (found.dev(), found.ino());
        let kind = found.file_type();
        match order.kind {
            Kind::Share if !kind.is_dir() => return Err(OrderError::NotDirectory(path())),
            Kind::Share => return Ok(id),
            Kind::Disk | Kind::Pmem if !kind.is_file() && !kind.is_block_device() => {
                return Err(OrderError::NotFile(path()))
            }
            Kind::Disk | Kind::Pmem => {}
        }
        let clash = |e: &Attached| e.source == id && !(e.order.read_only && order.read_only);
        match self.attached.iter().any(clash) {
            true => Err(OrderError::Shared(path())),
            false => Ok(id),
        }
    }
}

/// The path in the VM.
fn path_in_vm(
    target: &Target,
    container: Option<(&str, Option<&AttachDir>)>,
) -> Result<String, OrderError> {
    let path = target.path.as_str();
    let words = path.strip_prefix('/').unwrap_or_default().split('/');
    if words
        .into_iter()
        .any(|word| ["", ".", ".."].contains(&word))
        || path.contains('\0')
    {
        return Err(OrderError::Path(path.to_owned()));
    }
    let Some((id, attach_dir)) = container else {
        return Ok(path.to_owned());
    };
    let attach_dir = attach_dir.ok_or_else(|| OrderError::Closed(id.to_owned()))?;
    let name = path
        .strip_prefix(&attach_dir.inside)
        .and_then(|rest| rest.strip_prefix('/'))
        .filter(|name| !name.contains('/'));
    let name = name.ok_or_else(|| OrderError::Elsewhere {
        container: id.to_owned(),
        inside: attach_dir.inside.clone(),
    })?;
    Ok(format!("{}/{name}", attach_dir.outside))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_plain() {
        let target = |path: &str| Target {
            path: path.into(),
            container: None,
        };
        assert_eq!(path_in_vm(&target("/a/b"), None).unwrap(), "/a/b");
        for bad in ["", "/", "a", "/a/", "//a", "/a/../b", "/./a", "/a\0"] {
            assert!(path_in_vm(&target(bad), None).is_err(), "{bad}");
        }
        let attach_dir = AttachDir {
            inside: "/mnt".into(),
            outside: "/run/x".into(),
        };
        let inside = |path: &str| path_in_vm(&target(path), Some(("c", Some(&attach_dir))));
        assert_eq!(inside("/mnt/a").unwrap(), "/run/x/a");
        for bad in ["/mnt", "/mntx/a", "/a", "/mnt/a/b"] {
            assert!(inside(bad).is_err(), "{bad}");
        }
        assert!(matches!(
            path_in_vm(&target("/mnt/a"), Some(("c", None))),
            Err(OrderError::Closed(_))
        ));
    }
}
