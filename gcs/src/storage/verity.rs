//! dm-verity: every block of a layer is checked against a hash tree when it is read (protocol
//! section 7.5). The tree lies after the layer's ext4 file system and begins with a superblock of
//! its own.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use sha2::{Digest, Sha256};

use super::mapper::{self, DmTarget, ReadOnly};
use super::{Roots, Undo};
use crate::error::Failure;

const BLOCK: usize = 4096;
const SECTOR: u64 = 512;
/// Where the superblock of ext4 is, and how much of it is looked at.
const EXT4_AT: u64 = 1024;
const EXT4_LENGTH: usize = 256;
const MAGIC: &[u8] = b"verity\0\0";
/// The kernel's `DM_VERITY_MAX_SALT` is larger than the member.
const SALT_MAX: usize = 256;

/// Why a layer cannot be verified.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerityError {
    #[error("the layer is no ext4 file system")]
    NotExt4,
    #[error("there is no verity superblock after the file system")]
    NoSuperblock,
    #[error("its hash tree says {0}")]
    Unsupported(String),
    #[error("its hash tree is about {tree} blocks, the file system has {filesystem}")]
    Disagreement { tree: u64, filesystem: u64 },
}

/// Bytes of the file system, from its superblock.
pub fn ext4_size(superblock: &[u8]) -> Result<u64, VerityError> {
    let number = |at: usize| {
        let bytes = superblock.get(at..at + 4).ok_or(VerityError::NotExt4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    if superblock.get(56..58) != Some(&[0x53, 0xef]) {
        return Err(VerityError::NotExt4);
    }
    let blocks = u64::from(number(4)?);
    match number(24)? {
        exponent @ 0..=6 => Ok(blocks * (1024 << exponent)),
        _ => Err(VerityError::NotExt4),
    }
}

/// A hash tree, as its superblock and the root of the tree describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashTree {
    version: u32,
    algorithm: String,
    blocks: u64,
    salt: Vec<u8>,
    /// The digest of the whole tree, which identifies the layer's contents.
    digest: String,
}

impl HashTree {
    /// From the block with the superblock and the first block of hashes.
    pub fn parse(superblock: &[u8], root: &[u8], ext4_size: u64) -> Result<Self, VerityError> {
        let bytes = superblock
            .get(..BLOCK)
            .filter(|bytes| bytes.starts_with(MAGIC))
            .ok_or(VerityError::NoSuperblock)?;
        let number = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let version = number(8);
        let unsupported = |what: String| Err(VerityError::Unsupported(what));
        if version != 1 {
            return unsupported(format!("version {version}, and only 1 is known"));
        }
        let algorithm: Vec<u8> = bytes[32..64]
            .iter()
            .copied()
            .take_while(|b| *b != 0)
            .collect();
        // The digest is computed here, and only with SHA-256.
        if algorithm != b"sha256" {
            let name = String::from_utf8_lossy(&algorithm);
            return unsupported(format!("algorithm {name:?}, and only sha256 is known"));
        }
        let sizes = (number(64), number(68));
        if sizes != (4096, 4096) {
            return unsupported(format!(
                "blocks of {} and {} bytes, and only 4096 is known",
                sizes.0, sizes.1
            ));
        }
        let blocks = u64::from(number(72)) | u64::from(number(76)) << 32;
        let filesystem = ext4_size / BLOCK as u64;
        if blocks != filesystem {
            return Err(VerityError::Disagreement {
                tree: blocks,
                filesystem,
            });
        }
        let length = usize::from(u16::from_le_bytes([bytes[80], bytes[81]]));
        if length > SALT_MAX {
            return unsupported(format!("{length} bytes of salt"));
        }
        let salt = bytes[88..88 + length].to_vec();
        let digest = Sha256::new()
            .chain_update(&salt)
            .chain_update(root)
            .finalize();
        Ok(Self {
            version,
            algorithm: "sha256".into(),
            blocks,
            salt,
            digest: hex(&digest),
        })
    }

    fn sectors(&self) -> u64 {
        self.blocks * (BLOCK as u64 / SECTOR)
    }

    /// The tree begins one block after its superblock.
    fn parameters(&self, device: &Path) -> String {
        let device = device.display();
        let salt = match self.salt.as_slice() {
            [] => "-".to_owned(),
            salt => hex(salt),
        };
        format!(
            "{} {device} {device} {BLOCK} {BLOCK} {} {} {} {} {salt}",
            self.version,
            self.blocks,
            self.blocks + 1,
            self.algorithm,
            self.digest,
        )
    }
}

/// Lower case.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").ok();
    }
    text
}

/// The hash tree of the device's layer.
pub fn read(device: &Path) -> Result<HashTree, Failure> {
    let unreadable =
        |error: io::Error| Failure::unspecified(format!("cannot read {device:?}: {error}"));
    let refused = |error: VerityError| {
        Failure::unspecified(format!("{device:?} cannot be verified: {error}"))
    };
    let file = File::open(device).map_err(unreadable)?;
    let mut ext4 = [0; EXT4_LENGTH];
    file.read_exact_at(&mut ext4, EXT4_AT).map_err(unreadable)?;
    let size = ext4_size(&ext4).map_err(refused)?;
    let mut blocks = vec![0; 2 * BLOCK];
    match file.read_exact_at(&mut blocks, size) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(refused(VerityError::NoSuperblock))
        }
        read => read.map_err(unreadable)?,
    }
    let (superblock, root) = blocks.split_at(BLOCK);
    HashTree::parse(superblock, root, size).map_err(refused)
}

/// Makes `<prefix>-<digest>`, a device that gives an I/O error for every block that does not match
/// the tree. Returns its name and node.
pub fn create(
    undo: &mut Undo<'_>,
    roots: &Roots,
    prefix: &str,
    device: &Path,
    deadline: Instant,
) -> Result<(String, PathBuf), Failure> {
    let tree = read(device)?;
    let name = format!("{prefix}-{}", tree.digest);
    let target = DmTarget {
        sectors: tree.sectors(),
        kind: "verity",
        parameters: &tree.parameters(device),
    };
    let node = mapper::create(undo, roots, &name, target, ReadOnly(true), deadline)?;
    Ok((name, node))
}

#[cfg(test)]
pub mod testing {
    use super::*;
    use crate::storage::ext4;

    pub const SALT: [u8; 4] = [0xab, 0, 1, 2];

    /// A superblock of a tree about this many blocks.
    pub fn superblock(blocks: u64) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, MAGIC);
        put(8, &1_u32.to_le_bytes());
        put(32, b"sha256");
        put(64, &4096_u32.to_le_bytes());
        put(68, &4096_u32.to_le_bytes());
        put(72, &blocks.to_le_bytes());
        put(80, &4_u16.to_le_bytes());
        put(88, &SALT);
        bytes
    }

    /// Writes an ext4 file system, and after it a superblock and a root of hashes. Returns the
    /// digest.
    pub fn layer(device: &Path) -> String {
        let file = File::options().write(true).open(device).unwrap();
        let size = 8_u64 << 20;
        let stamp = ext4::Stamp {
            uuid: [1; 16],
            hash_seed: [2; 16],
            time: 0,
        };
        ext4::format(&file, size, &stamp, false).unwrap();
        file.write_all_at(&superblock(size / 4096), size).unwrap();
        file.write_all_at(&[7; BLOCK], size + 4096).unwrap();
        hex(&Sha256::digest([&SALT[..], &[7; BLOCK]].concat()))
    }
}

#[cfg(test)]
#[path = "verity_tests.rs"]
mod tests;
