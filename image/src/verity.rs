//! dm-verity: the hash tree over a file system, with which a kernel refuses what was changed.
//!
//! Layout (kernel: `admin-guide/device-mapper/verity.rst`; superblock: cryptsetup's
//! `lib/verity/verity.c`): a superblock of one block, then the levels of the tree from the root
//! down. A hash is SHA-256 over the salt and a block of 4096 bytes; a block holds 128 hashes.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub const BLOCK: usize = 4096;
const SALT: usize = 32;
const SECTOR: u64 = 512;
/// The name that LCOW hosts give the root's device.
const NAME: &str = "dmverity";

/// A hash tree and what the kernel must be told to use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verity {
    /// Superblock and tree.
    pub tree: Vec<u8>,
    pub facts: Facts,
}

/// `rootfs.verity.json`: everything that is not in the tree itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub algorithm: String,
    /// The hash of the whole tree in lower-case hexadecimal. It vouches for every block.
    pub root_hash: String,
    pub salt: String,
    pub uuid: String,
    /// Bytes, of the data and of the hashes.
    pub block_size: u64,
    /// Blocks of the file system that are protected.
    pub data_blocks: u64,
    /// `dm-mod.create` for a tree after its file system on one disk.
    pub combined: Form,
    /// The same for the tree on a disk of its own.
    pub separate: Form,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Form {
    /// The disks in the order of their places on the first controller.
    pub disks: Vec<String>,
    /// The first block of the tree on the hash disk, after its superblock.
    pub hash_start: u64,
    /// The value of the kernel option, without quotes.
    pub create: String,
}

/// Hashes `data`, whole blocks. `disk` and `hash_disk` are the names in the two forms.
pub fn protect(data: &[u8], disk: &str, hash_disk: &str) -> Verity {
    debug_assert!(!data.is_empty() && data.len().is_multiple_of(BLOCK));
    // The salt is derived from the data, so that the same data has the same tree. It only has to
    // differ between images.
    let salt: [u8; SALT] = Sha256::new()
        .chain_update(b"salt")
        .chain_update(data)
        .finalize()
        .into();
    let hash = |block: &[u8]| -> [u8; 32] {
        Sha256::new()
            .chain_update(salt)
            .chain_update(block)
            .finalize()
            .into()
    };
    let mut levels = vec![level(data, hash)];
    while let Some(last) = levels.last().filter(|last| last.len() > BLOCK) {
        let next = level(last, hash);
        levels.push(next);
    }
    let root = levels.last().map(|root| hash(root)).unwrap_or_default();
    let blocks = (data.len() / BLOCK) as u64;
    let id = crate::id("verity", &root);
    let mut tree = superblock(blocks, &salt, id.as_bytes()).to_vec();
    for level in levels.iter().rev() {
        tree.extend_from_slice(level);
    }
    let (root_hash, salt) = (hex::encode(root), hex::encode(salt));
    let form = |disks: &[&str], hash_device: &str, hash_start: u64| {
        Form {
        disks: disks.iter().map(|disk| (*disk).to_owned()).collect(),
        hash_start,
        create: format!(
            "{NAME},,,ro,0 {} verity 1 /dev/sda {hash_device} {BLOCK} {BLOCK} {blocks} {hash_start} \
             sha256 {root_hash} {salt}",
            data.len() as u64 / SECTOR
        ),
    }
    };
    Verity {
        tree,
        facts: Facts {
            algorithm: "sha256".into(),
            uuid: id.to_string(),
            block_size: BLOCK as u64,
            data_blocks: blocks,
            combined: form(&[disk], "/dev/sda", blocks + 1),
            separate: form(&[disk, hash_disk], "/dev/sdb", 1),
            root_hash,
            salt,
        },
    }
}

/// The hashes of all blocks, filled up to whole blocks.
fn level(blocks: &[u8], hash: impl Fn(&[u8]) -> [u8; 32]) -> Vec<u8> {
    let mut hashes: Vec<u8> = blocks.chunks(BLOCK).flat_map(hash).collect();
    hashes.resize(hashes.len().next_multiple_of(BLOCK), 0);
    hashes
}

fn superblock(blocks: u64, salt: &[u8; SALT], id: &[u8; 16]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    for (at, bytes) in [
        (0, &b"verity\0\0"[..]),
        // Version of the superblock, and of the hash: the salt comes first.
        (8, &1_u32.to_le_bytes()),
        (12, &1_u32.to_le_bytes()),
        (16, id),
        (32, b"sha256"),
        (64, &(BLOCK as u32).to_le_bytes()),
        (68, &(BLOCK as u32).to_le_bytes()),
        (72, &blocks.to_le_bytes()),
        (80, &(SALT as u16).to_le_bytes()),
        (88, salt),
    ] {
        block[at..at + bytes.len()].copy_from_slice(bytes);
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_go_from_the_root_down() {
        // One block, one full block of hashes, one more than that.
        for (blocks, want) in [
            (1, 1),
            (128, 1),
            (129, 3),
            (128 * 128, 129),
            (128 * 128 + 1, 132),
        ] {
            let verity = protect(&vec![0; blocks * BLOCK], "a", "b");
            assert_eq!(verity.tree.len() / BLOCK, 1 + want, "{blocks} blocks");
            assert_eq!(verity.facts.data_blocks, blocks as u64);
        }
    }

    #[test]
    fn the_kernel_is_told_where_the_tree_is() {
        let facts = protect(&[0; 2 * BLOCK], "a", "b").facts;
        let tail = format!("sha256 {} {}", facts.root_hash, facts.salt);
        let combined = "dmverity,,,ro,0 16 verity 1 /dev/sda /dev/sda 4096 4096 2 3 ";
        let separate = "dmverity,,,ro,0 16 verity 1 /dev/sda /dev/sdb 4096 4096 2 1 ";
        assert_eq!(facts.combined.create, format!("{combined}{tail}"));
        assert_eq!(facts.separate.create, format!("{separate}{tail}"));
        assert_eq!(facts.separate.disks, ["a", "b"]);
    }
}
