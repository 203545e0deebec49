//! Makes an empty ext4 on a whole device without a program. It computes and writes the few blocks
//! that matter. The kernel sets up inode tables and bitmaps of the other groups when it first uses
//! them (feature `uninit_bg`).
//!
//! Layout of the structures: the kernel's Documentation/filesystems/ext4. The shape is that of
//! `mkfs.ext4`: blocks of 4 KiB, inodes of 256 bytes, a journal. There are two differences. No
//! blocks are reserved, because a scratch disk belongs to its container. There is no `flex_bg`, so
//! each group has its own tables.

mod structures;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use structures::{bits, crc16, directory, extent, RawRecord};

const BLOCK: u64 = 4096;
const GROUP: u64 = 8 * BLOCK;
const INODE: u64 = 256;
const INODES_PER_BLOCK: u64 = BLOCK / INODE;
const DESCRIPTOR: u64 = 32;
/// Up to `lost+found`.
const USED_INODES: u64 = 11;
const ROOT: u32 = 2;
const JOURNAL: u32 = 8;
const LOST_FOUND: u32 = 11;
/// A last group with less room than this for data is left out.
const LEAST_ROOM: u64 = 64;
/// The group with the only copy of superblock and descriptors (`sparse_super2`).
const BACKUP: u64 = 1;

const COMPAT_JOURNAL: u32 = 0x4;
/// ext_attr, dir_index, sparse_super2
const COMPAT: u32 = 0x8 | 0x20 | 0x200;
/// filetype, extents
const INCOMPAT: u32 = 0x2 | 0x40;
/// large_file, huge_file, uninit_bg, dir_nlink, extra_isize
const RO_COMPAT: u32 = 0x2 | 0x8 | 0x10 | 0x20 | 0x40;

/// The blocks of the journal, from which size of the file system (in blocks) on. They are those of
/// `mkfs.ext4`, as far as they certainly fit in the first group.
const JOURNALS: [(u64, u64); 4] = [
    (524_288, 16_384),
    (262_144, 8192),
    (32_768, 4096),
    (2048, 1024),
];

const UNUSED_INODES: u16 = 1;
const UNUSED_BLOCKS: u16 = 2;

/// What distinguishes a file system from others of its size.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    pub uuid: [u8; 16],
    pub hash_seed: [u8; 16],
    /// Seconds since 1970.
    pub time: u32,
}

/// Why a file system cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    #[error("{0} bytes are too few for an ext4 file system")]
    TooSmall(u64),
    #[error("{0} bytes are over the 16 TiB that this ext4 can have")]
    TooLarge(u64),
}

/// A place and what belongs there.
pub type Piece = (u64, Vec<u8>);

/// Formats the device or file, which ends up synced.
pub fn format(device: &File, size: u64, stamp: &Stamp, journal: bool) -> io::Result<()> {
    let pieces = pieces(size, stamp, journal).map_err(io::Error::other)?;
    // The superblock is written last. Before that there is no file system.
    for (offset, bytes) in pieces.iter().rev() {
        device.write_all_at(bytes, *offset)?;
    }
    device.sync_all()
}

/// What a device of `size` bytes has to hold, the block with the superblock first.
pub fn pieces(size: u64, stamp: &Stamp, journal: bool) -> Result<Vec<Piece>, SizeError> {
    let plan = Ext4Layout::new(size, journal)?;
    let table = plan.descriptors(stamp);
    let mut pieces = Vec::new();
    // Whole blocks are written, because the rest of a block may not be readable when it was never
    // written.
    let mut put = |block: u64, mut bytes: Vec<u8>| {
        bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
        pieces.push((block * BLOCK, bytes));
    };

    // The boot area before the superblock is cleared, because another file system may have its
    // magic there.
    let mut first = vec![0; 1024];
    first.extend(plan.superblock(stamp, 0));
    put(0, first);
    put(1, table.clone());
    if plan.groups > BACKUP {
        put(BACKUP * GROUP, plan.superblock(stamp, BACKUP));
        put(BACKUP * GROUP + 1, table);
    }
    put(plan.block_bitmap(0), plan.block_bits(0));
    put(plan.inode_bitmap(0), plan.inode_bits());
    let last = plan.groups - 1;
    if last > 0 {
        put(plan.block_bitmap(last), plan.block_bits(last));
    }
    put(plan.inode_table(0), plan.inodes(stamp));
    let names = [(ROOT, "."), (ROOT, ".."), (LOST_FOUND, "lost+found")];
    put(plan.root_block(), directory(&names));
    put(
        plan.root_block() + 1,
        directory(&[(LOST_FOUND, "."), (ROOT, "..")]),
    );
    if plan.journal > 0 {
        put(plan.journal_block(), plan.journal_superblock(stamp));
    }
    Ok(pieces)
}

struct Ext4Layout {
    blocks: u64,
    groups: u64,
    inodes_per_group: u64,
    descriptor_blocks: u64,
    /// Blocks; 0 is none.
    journal: u64,
}

impl Ext4Layout {
    fn new(size: u64, journal: bool) -> Result<Self, SizeError> {
        let blocks = size / BLOCK;
        if blocks > u64::from(u32::MAX) {
            return Err(SizeError::TooLarge(size));
        }
        let groups = blocks.div_ceil(GROUP).max(1);
        // The values of mke2fs.conf for small file systems and for others.
        let per_inode = if size < 512 << 20 { 4096 } else { 16_384 };
        let inodes = (blocks * BLOCK / per_inode).div_ceil(groups);
        let mut plan = Self {
            blocks,
            groups,
            inodes_per_group: inodes
                .next_multiple_of(INODES_PER_BLOCK)
                .clamp(INODES_PER_BLOCK, GROUP),
            descriptor_blocks: (groups * DESCRIPTOR).div_ceil(BLOCK),
            journal: 0,
        };
        let last = groups - 1;
        if plan.size(last) < plan.tables(last) + LEAST_ROOM {
            if last == 0 {
                return Err(SizeError::TooSmall(size));
            }
            plan.blocks = last * GROUP;
            plan.groups = last;
            plan.descriptor_blocks = (last * DESCRIPTOR).div_ceil(BLOCK);
        }
        if journal {
            let fitting = JOURNALS.iter().find(|(from, _)| plan.blocks >= *from);
            let room = plan.size(0) - plan.tables(0) - 2;
            plan.journal = fitting.map_or(0, |(_, blocks)| *blocks);
            if plan.journal > room / 2 {
                plan.journal = 0;
            }
        }
        Ok(plan)
    }

    /// Blocks of the group.
    fn size(&self, group: u64) -> u64 {
        (self.blocks - group * GROUP).min(GROUP)
    }

    /// Superblock and descriptors at the start of the group.
    fn base(&self, group: u64) -> u64 {
        if group == 0 || group == BACKUP {
            1 + self.descriptor_blocks
        } else {
            0
        }
    }

    /// All blocks of the group that are not for data.
    fn tables(&self, group: u64) -> u64 {
        self.base(group) + 2 + self.inodes_per_group / INODES_PER_BLOCK
    }

    fn used(&self, group: u64) -> u64 {
        let data = if group == 0 { 2 + self.journal } else { 0 };
        self.tables(group) + data
    }

    fn block_bitmap(&self, group: u64) -> u64 {
        group * GROUP + self.base(group)
    }

    fn inode_bitmap(&self, group: u64) -> u64 {
        self.block_bitmap(group) + 1
    }

    fn inode_table(&self, group: u64) -> u64 {
        self.block_bitmap(group) + 2
    }

    fn root_block(&self) -> u64 {
        self.tables(0)
    }

    fn journal_block(&self) -> u64 {
        self.root_block() + 2
    }

    fn free_inodes(&self, group: u64) -> u64 {
        self.inodes_per_group - if group == 0 { USED_INODES } else { 0 }
    }

    fn superblock(&self, stamp: &Stamp, group: u64) -> Vec<u8> {
        let free: u64 = (0..self.groups)
            .map(|group| self.size(group) - self.used(group))
            .sum();
        let inodes = self.groups * self.inodes_per_group;
        let mut block = RawRecord(vec![0; 1024]);
        block.u32(0, inodes);
        block.u32(4, self.blocks);
        block.u32(12, free);
        block.u32(16, inodes - USED_INODES);
        block.u32(24, 2); // 1024 << 2 is the block size, also of clusters
        block.u32(28, 2);
        block.u32(32, GROUP);
        block.u32(36, GROUP);
        block.u32(40, self.inodes_per_group);
        block.u32(48, stamp.time.into()); // written
        block.u16(54, u16::MAX); // no check after so many mounts
        block.u16(56, 0xef53);
        block.u16(58, 1); // clean
        block.u16(60, 1); // go on after errors
        block.u32(64, stamp.time.into()); // checked
        block.u32(76, 1); // revision with features
        block.u32(84, USED_INODES); // first inode that is not special
        block.u16(88, INODE as u16);
        block.u16(90, group as u16);
        block.u32(
            92,
            (COMPAT | if self.journal > 0 { COMPAT_JOURNAL } else { 0 }).into(),
        );
        block.u32(96, INCOMPAT.into());
        block.u32(100, RO_COMPAT.into());
        block.bytes(104, &stamp.uuid);
        block.bytes(236, &stamp.hash_seed);
        block.0[252] = 1; // half MD4
        block.u32(256, 0xc); // user_xattr, acl
        block.u32(264, stamp.time.into()); // made
        if self.journal > 0 {
            block.u32(224, JOURNAL.into());
            block.0[253] = 1; // the inode's blocks and size follow
            block.bytes(268, &extent(self.journal_block(), self.journal));
            block.u32(268 + 64, self.journal * BLOCK);
        }
        block.u16(348, 32); // extra inode size
        block.u16(350, 32);
        block.u32(352, 1); // directory hashes of signed characters
        if self.groups > BACKUP {
            block.u32(588, BACKUP);
        }
        block.0
    }

    fn descriptors(&self, stamp: &Stamp) -> Vec<u8> {
        let mut table = Vec::new();
        for group in 0..self.groups {
            let last = group + 1 == self.groups;
            let flags = match group {
                0 => 0,
                _ if last => UNUSED_INODES,
                _ => UNUSED_INODES | UNUSED_BLOCKS,
            };
            let mut one = RawRecord(vec![0; DESCRIPTOR as usize]);
            one.u32(0, self.block_bitmap(group));
            one.u32(4, self.inode_bitmap(group));
            one.u32(8, self.inode_table(group));
            one.u16(12, (self.size(group) - self.used(group)) as u16);
            one.u16(14, self.free_inodes(group) as u16);
            one.u16(16, if group == 0 { 2 } else { 0 }); // directories
            one.u16(18, flags);
            one.u16(28, self.free_inodes(group) as u16); // never used
            let number = (group as u32).to_le_bytes();
            let sum = [&stamp.uuid[..], &number, &one.0[..30]]
                .into_iter()
                .fold(0xffff, crc16);
            one.u16(30, sum);
            table.extend(one.0);
        }
        table
    }

    /// Used blocks, and those after the end of the group.
    fn block_bits(&self, group: u64) -> Vec<u8> {
        bits(self.used(group), self.size(group))
    }

    fn inode_bits(&self) -> Vec<u8> {
        bits(USED_INODES, self.inodes_per_group)
    }

    /// The first block of the inode table.
    fn inodes(&self, stamp: &Stamp) -> Vec<u8> {
        let mut table = vec![0; BLOCK as usize];
        let root = self.root_block();
        let mut put = |number: u32, mode: u16, links: u16, start: u64, blocks: u64| {
            let at = (u64::from(number - 1) * INODE) as usize;
            let mut inode = RawRecord(vec![0; INODE as usize]);
            inode.u16(0, mode);
            inode.u32(4, blocks * BLOCK);
            for time in [8, 12, 16, 144] {
                inode.u32(time, stamp.time.into());
            }
            inode.u16(26, links);
            inode.u32(28, blocks * BLOCK / 512);
            inode.u32(32, 0x8_0000); // extents
            inode.bytes(40, &extent(start, blocks));
            inode.u16(128, 32); // extra size
            table[at..at + INODE as usize].copy_from_slice(&inode.0);
        };
        put(ROOT, 0o040_755, 3, root, 1);
        put(LOST_FOUND, 0o040_700, 2, root + 1, 1);
        if self.journal > 0 {
            put(JOURNAL, 0o100_600, 1, self.journal_block(), self.journal);
        }
        table
    }

    /// An empty log, in big endian unlike everything else. Nobody reads its other blocks.
    fn journal_superblock(&self, stamp: &Stamp) -> Vec<u8> {
        let mut block = vec![0; BLOCK as usize];
        let numbers = [
            (0, 0xc03b_3998), // magic
            (4, 4),           // superblock, version 2
            (12, BLOCK as u32),
            (16, self.journal as u32),
            (20, 1), // first block of the log
            (24, 1), // first transaction expected
            (64, 1), // users
        ];
        for (at, number) in numbers {
            block[at..at + 4].copy_from_slice(&u32::to_be_bytes(number));
        }
        block[48..64].copy_from_slice(&stamp.uuid);
        block
    }
}

#[cfg(test)]
#[path = "ext4_tests.rs"]
mod tests;
