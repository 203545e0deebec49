//! The root file system as disks: the content of an initrd on ext4, its hash tree, both as VHD.
//!
//! ```text
//! initrd.img → tree → ext4 ──┬─ + hash tree ─→ rootfs.vhd       (root=/dev/pmem0, /dev/sda, /dev/dm-0)
//!                            └─   hash tree ─→ rootfs.hash.vhd  (dm-0 with hashes on /dev/sdb)
//!                                 facts     ─→ rootfs.verity.json
//! ```
//!
//! One disk serves all forms: ext4 knows its own size and never reads what lies after it, and a
//! host whose disks come in any order needs the tree on the same disk.

use std::path::Path;

use crate::verity::{self, Facts};
use crate::{archive, ext4, id, pack, vhd, Error};

pub const DISK: &str = "rootfs.vhd";
pub const HASH_DISK: &str = "rootfs.hash.vhd";
pub const FACTS: &str = "rootfs.verity.json";

/// The files that a root file system is delivered as.
#[derive(Debug, PartialEq, Eq)]
pub struct Disks {
    /// [`DISK`]
    pub root: Vec<u8>,
    /// [`HASH_DISK`]
    pub hashes: Vec<u8>,
    /// [`FACTS`]
    pub facts: Facts,
}

/// Makes the disks of an initrd, whatever it is packed with.
///
/// # Errors
/// The initrd is broken, or e2fsprogs cannot make a file system of it.
pub fn of_initrd(initrd: &[u8], work: &Path) -> Result<Disks, Error> {
    let archive = pack::unpack(initrd)?;
    let members = archive::read(&archive)?;
    let epoch = members.iter().map(|member| member.mtime).max().unwrap_or(0);
    let tree = archive::tree(members)?;
    let uuid = id("ext4", &archive);
    let root = ext4::write(&tree, epoch, &uuid.to_string(), work)?;
    let verity = verity::protect(&root, DISK, HASH_DISK);
    let disk = |data: Vec<u8>| {
        let id = id("vhd", &data);
        vhd::fixed(data, epoch, *id.as_bytes())
    };
    Ok(Disks {
        hashes: disk(verity.tree.clone()),
        root: disk([root, verity.tree].concat()),
        facts: verity.facts,
    })
}
