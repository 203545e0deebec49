use std::io;
use std::path::PathBuf;

/// Why an image could not be made ready. Each text names the thing and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    #[error(
        "image {0}: no such file or directory (an OCI layout directory, an OCI or `docker save` archive, \
         a rootfs directory or a rootfs tar is wanted; from a registry: \
         'skopeo copy docker://NAME oci:DIRECTORY')"
    )]
    Missing(PathBuf),
    /// It exists, but is none of the known forms.
    #[error("image {image}: {why}")]
    Unknown { image: PathBuf, why: String },
    /// A part contradicts its digest, its length or its format.
    #[error("{what} is corrupt: {why}")]
    Corrupt { what: String, why: String },
    /// Well formed, but cannot be carried over.
    #[error("{what}: {why}")]
    Unsupported { what: String, why: String },
    #[error("{doing}: {error}")]
    Io { doing: String, error: io::Error },
    #[error("{doing}: {tool} {why}")]
    Tool {
        tool: &'static str,
        doing: String,
        why: String,
    },
}

pub type Result<T, E = OciError> = std::result::Result<T, E>;

impl OciError {
    pub(super) fn corrupt(what: impl Into<String>, why: impl Into<String>) -> Self {
        OciError::Corrupt {
            what: what.into(),
            why: why.into(),
        }
    }

    /// Puts the image's name before what is wrong in it.
    pub(super) fn within(self, image: &str) -> Self {
        let name = |what: String| format!("image {image}: {what}");
        match self {
            OciError::Corrupt { what, why } => OciError::Corrupt {
                what: name(what),
                why,
            },
            OciError::Unsupported { what, why } => OciError::Unsupported {
                what: name(what),
                why,
            },
            other => other,
        }
    }

    /// A disk could not be written.
    pub(super) fn disk(what: &str, error: io::Error) -> Self {
        let remedy = match error.kind() {
            io::ErrorKind::StorageFull => {
                " (free some space there, or name another directory: --cache-dir, UVM_LAYER_CACHE)"
            }
            _ => "",
        };
        OciError::Io {
            doing: format!("making a disk of {what} in the layer cache{remedy}"),
            error,
        }
    }

    pub(super) fn unsupported(what: impl Into<String>, why: impl Into<String>) -> Self {
        OciError::Unsupported {
            what: what.into(),
            why: why.into(),
        }
    }
}

/// Says what was being done when an `io::Error` came up.
pub(super) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| OciError::Io {
            doing: what(),
            error,
        })
    }
}
