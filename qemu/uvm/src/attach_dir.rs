//! A directory of a container in which something of this machine can appear while it runs.
//!
//! ```text
//! small disk, mounted shared in the VM ── bound into the container, rslave and read-only
//!   └─ NAME: mounted here by an attach ── propagates to the container, and so does its unmount
//! ```
//!
//! It is read-only, because the VM mounts at paths below it. A container that could write there
//! could redirect the mounts with symbolic links.

use serde_json::{json, Value};

use crate::attach_error::AttachError;
use crate::attachment::Attachment;
use crate::container;
use crate::uvm::Uvm;
use uvm_images::{Cache, OciError};

#[derive(Debug, thiserror::Error)]
pub enum AttachDirError {
    #[error(transparent)]
    Disk(#[from] OciError),
    #[error(transparent)]
    Attach(#[from] AttachError),
}

/// The directory's two paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachDir {
    /// The path in the container.
    pub inside: String,
    /// The path in the VM.
    pub outside: String,
}

impl AttachDir {
    /// Makes one for the container `id`; `inside` is an absolute path. The container, and all that
    /// was attached there, must be gone before its disk is removed.
    pub fn attach(
        vm: &Uvm,
        cache: &Cache,
        id: &str,
        inside: String,
    ) -> Result<(Self, Attachment), AttachDirError> {
        let file = vm.dir().join("attach.ext4");
        cache.empty(&file)?;
        let outside = format!("{}/attached", container::bundle(id));
        let disk = Attachment::shared_disk(vm, &file, &outside)?;
        Ok((Self { inside, outside }, disk))
    }

    /// For the container's spec.
    pub fn mount(&self) -> Value {
        json!({"destination": self.inside, "type": "none", "source": self.outside,
            "options": ["rbind", "rslave", "ro"]})
    }
}
