//! A directory of a container in which something of this machine can appear while it runs.
//!
//! ```text
//! small disk, mounted shared in the VM ── bound into the container, rslave and read-only
//!   └─ NAME: mounted here by an attach ── propagates to the container, and so does its unmount
//! ```
//!
//! Read-only, because mounts of the VM go to paths below: a container that could write there
//! could lead them astray with symbolic links.

use serde_json::{json, Value};

use crate::attachment::{AttachError, Attachment};
use crate::container;
use crate::Uvm;
use uvm_images::{Cache, OciError};

#[derive(Debug, thiserror::Error)]
pub enum AttachDirError {
    #[error(transparent)]
    Disk(#[from] OciError),
    #[error(transparent)]
    Attach(#[from] AttachError),
}

/// The directory, in the VM and about to be in a container.
pub struct AttachDir {
    /// In the container.
    pub inside: String,
    disk: Attachment,
}

impl AttachDir {
    /// Makes it for the container `id`; `inside` is an absolute path.
    pub fn new(vm: &Uvm, cache: &Cache, id: &str, inside: &str) -> Result<Self, AttachDirError> {
        let file = vm.dir().join("attach.ext4");
        cache.empty(&file)?;
        let path = format!("{}/attached", container::bundle(id));
        let disk = Attachment::shared_disk(vm, &file, &path)?;
        let inside = inside.to_owned();
        Ok(Self { inside, disk })
    }

    /// In the VM.
    pub fn outside(&self) -> &str {
        self.disk.path()
    }

    /// For the container's spec.
    pub fn mount(&self) -> Value {
        json!({"destination": self.inside, "type": "none", "source": self.outside(),
            "options": ["rbind", "rslave", "ro"]})
    }

    /// Takes it away; the container and all that was attached there must be gone.
    pub fn remove(mut self, vm: &Uvm) -> Result<(), AttachError> {
        self.disk.remove(vm)
    }
}
