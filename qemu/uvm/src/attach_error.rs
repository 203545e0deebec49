//! What giving a VM something of this machine can fail with.

use std::io;

use uvm_host::HostError;

use crate::error::UvmError;

#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("{path} cannot be given to a VM: {source}")]
    Source { path: String, source: io::Error },
    #[error("the 9P server of {path} cannot be started: {source}")]
    Server { path: String, source: io::Error },
    #[error(
        "{path} holds no file system that the guest mounts (ext4, xfs, EROFS, SquashFS); it was \
         not plugged in, because QEMU cannot unplug persistent memory"
    )]
    NoFileSystem { path: String },
    #[error("mounting {path}: {source}")]
    Mount { path: String, source: HostError },
    #[error("unmounting {path}: {source}")]
    Unmount { path: String, source: HostError },
    #[error(transparent)]
    Uvm(#[from] UvmError),
}

impl AttachError {
    /// For `map_err`: the guest was to mount something at `path`.
    pub(crate) fn mount(path: &str) -> impl FnOnce(HostError) -> Self {
        let path = path.to_owned();
        move |source| Self::Mount { path, source }
    }

    /// For `map_err`: the guest was to unmount what is at `path`.
    pub(crate) fn unmount(path: &str) -> impl FnOnce(HostError) -> Self {
        let path = path.to_owned();
        move |source| Self::Unmount { path, source }
    }
}
