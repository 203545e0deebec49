//! Writes what ships: the guest's initrd (a reproducible `newc` archive) and its manifest, the same
//! content as disks, the bill of materials, and the set of all of it for a Windows host.
//!
//! ```text
//! profile.json ─┐
//! inputs, values├→ profile → tree (checked, sorted) → archive → pack (none|gzip|zstd) → initrd.img
//! epoch ────────┘                      └────────────→ manifest.json                         │
//!                                                     rootfs.vhd ← verity ← ext4 ← tree ← archive
//! cargo's facts → sbom ─→ dist (list of artifacts) → manifest.json, SHA256SUMS, out/dist
//! ```
//!
//! From kernel and initrd it also makes a disk that UEFI boots, for Hyper-V machines of generation 2:
//!
//! ```text
//! stub, kernel, command line, initrd → uki (one program) → efi (GPT, FAT32) → vhdx → uvm-gen2.vhdx
//! ```
//!
//! The same profile, inputs, values and epoch give the same bytes, whatever the machine, user,
//! directory, umask or clock: only those four count. Needs no privileges.

pub mod archive;
pub mod crates;
pub mod disk;
pub mod dist;
pub mod efi;
pub mod ext4;
pub mod manifest;
pub mod modules;
pub mod pack;
pub mod profile;
pub mod sbom;
pub mod size;
pub mod tree;
pub mod uki;
pub mod verity;
pub mod vhd;
pub mod vhdx;

use std::path::{Path, PathBuf};

/// Why an image could not be made or did not pass its check.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing} {path}: {source}")]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the profile {path} cannot be read: {source}")]
    Syntax {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("the profile {profile} is wrong at {path}: {problem}")]
    Entry {
        profile: String,
        path: String,
        problem: String,
    },
    #[error("the image does not match its manifest: {0}")]
    Mismatch(String),
    #[error("making the root file system: {tool} {why}")]
    Tool { tool: &'static str, why: String },
    #[error("{0}")]
    Archive(String),
}

impl Error {
    /// What an operation on `path` failed with, for `map_err`.
    pub fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }
}

/// A GUID (version 8, as it is stored) that is the same for the same use of the same content. The
/// content's hash identifies it.
pub(crate) fn identity(of: &str, content: &str) -> [u8; 16] {
    use sha2::Digest;
    let hash = sha2::Sha256::digest(format!("{of} {content}"));
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    id[7] = id[7] & 0x0f | 0x80;
    id[8] = id[8] & 0x3f | 0x80;
    id
}

/// Lower-case hexadecimal SHA-256, as in the manifest.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(bytes))
}

/// A document for a file: pretty, with a line break at its end.
///
/// # Errors
/// A value that JSON cannot hold; `what` names the document.
pub fn json_text(what: &str, value: &impl serde::Serialize) -> Result<Vec<u8>, Error> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|error| Error::Archive(format!("cannot write the {what}: {error}")))?;
    text.push(b'\n');
    Ok(text)
}

/// An id that follows from what it is for and the bytes it is about.
pub(crate) fn id(of: &str, bytes: &[u8]) -> uuid::Uuid {
    use sha2::Digest;
    let hash = sha2::Sha256::new()
        .chain_update(of)
        .chain_update(bytes)
        .finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    uuid::Uuid::new_v8(id)
}
