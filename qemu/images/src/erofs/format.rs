//! The structures on the disk, as bytes.

use crate::meta::{Meta, Special, Time};

/// Bytes of a block.
pub const BLOCK: u64 = 4096;
/// Bytes of an inode in its long form, the only one that is written here.
pub const INODE: u64 = 64;
/// Inode numbers count these.
pub const SLOT: u64 = 32;
pub const SUPERBLOCK_AT: u64 = 1024;
pub const SUPERBLOCK: usize = 128;
/// Instead of a block's number: a piece of a file that is a hole.
pub const HOLE: u32 = u32::MAX;

const MAGIC: u32 = 0xe0f5_e1e2;
const BLOCK_BITS: u8 = 12;
/// Times in inodes are those of modification.
const COMPAT_MTIME: u32 = 2;
const INCOMPAT_CHUNKED_FILE: u32 = 4;

/// Where an inode is: byte 32 × `Nid` of the disk.
pub type Nid = u64;

/// As the kernel's `FT_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FileType {
    Regular = 1,
    Dir = 2,
    Char = 3,
    Block = 4,
    Fifo = 5,
    Symlink = 7,
}

impl FileType {
    const MODES: [(FileType, u32); 6] = [
        (FileType::Regular, 0o100000),
        (FileType::Dir, 0o040000),
        (FileType::Char, 0o020000),
        (FileType::Block, 0o060000),
        (FileType::Fifo, 0o010000),
        (FileType::Symlink, 0o120000),
    ];

    pub fn of(special: Special) -> FileType {
        match special {
            Special::Char(_) => FileType::Char,
            Special::Block(_) => FileType::Block,
            Special::Fifo => FileType::Fifo,
        }
    }

    pub fn mode(self) -> u32 {
        let found = Self::MODES.iter().find(|(kind, _)| *kind == self);
        found.map_or(0, |(_, mode)| *mode)
    }

    pub fn of_mode(mode: u32) -> Option<FileType> {
        let found = Self::MODES.iter().find(|(_, m)| *m == mode & 0o170000);
        found.map(|(kind, _)| *kind)
    }
}

/// Where the contents of an inode are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// In blocks from this one.
    Plain(u32),
    /// In blocks from this one, except what does not fill one: that follows the inode.
    Inline(u32),
    /// In chunks of `BLOCK << bits` bytes, whose first blocks are listed after the inode.
    Chunks { bits: u16 },
    /// No contents; the number of a device.
    Device(u32),
}

/// An inode without the attributes that may follow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawInode {
    pub kind: FileType,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    pub links: u32,
    pub bytes: u64,
    pub layout: Layout,
    /// Of the attributes that follow; 0 or 12 + a multiple of 4.
    pub xattr_bytes: u64,
}

/// Where [`RawInode::links`] is in the bytes.
pub const LINKS_AT: u64 = 44;

impl RawInode {
    pub fn new(kind: FileType, meta: &Meta, bytes: u64, layout: Layout, xattr_bytes: u64) -> Self {
        RawInode {
            kind,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            mtime: meta.mtime,
            links: 1,
            bytes,
            layout,
            xattr_bytes,
        }
    }

    /// `ino`: what `stat` shows to 32-bit programs.
    pub fn encode(&self, ino: u32) -> Vec<u8> {
        let (layout, place) = match self.layout {
            Layout::Plain(block) => (0u16, block),
            Layout::Inline(block) => (2, block),
            Layout::Chunks { bits } => (4, u32::from(bits)),
            Layout::Device(number) => (0, number),
        };
        let xattr_count = match self.xattr_bytes {
            0 => 0,
            bytes => (bytes - 12) / 4 + 1,
        };
        let mut out = Vec::with_capacity(INODE as usize);
        out.extend_from_slice(&(layout << 1 | 1).to_le_bytes());
        out.extend_from_slice(&(xattr_count as u16).to_le_bytes());
        out.extend_from_slice(&((self.kind.mode() | self.mode) as u16).to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&place.to_le_bytes());
        out.extend_from_slice(&ino.to_le_bytes());
        out.extend_from_slice(&self.uid.to_le_bytes());
        out.extend_from_slice(&self.gid.to_le_bytes());
        out.extend_from_slice(&self.mtime.seconds.to_le_bytes());
        out.extend_from_slice(&self.mtime.nanos.to_le_bytes());
        out.extend_from_slice(&self.links.to_le_bytes());
        out.resize(INODE as usize, 0);
        out
    }

    /// `None` for what this module does not write.
    pub fn decode(bytes: &[u8; INODE as usize]) -> Option<RawInode> {
        let mode = u32::from(u16_at(bytes, 4));
        let kind = FileType::of_mode(mode)?;
        let place = u32_at(bytes, 16);
        let layout = match (u16_at(bytes, 0), kind) {
            (1, FileType::Char | FileType::Block) => Layout::Device(place),
            (1, _) => Layout::Plain(place),
            (5, _) => Layout::Inline(place),
            (9, _) => Layout::Chunks {
                bits: place as u16 & 0x1f,
            },
            _ => return None,
        };
        Some(RawInode {
            kind,
            mode: mode & 0o7777,
            uid: u32_at(bytes, 24),
            gid: u32_at(bytes, 28),
            mtime: Time {
                seconds: u64_at(bytes, 32).cast_signed(),
                nanos: u32_at(bytes, 40),
            },
            links: u32_at(bytes, LINKS_AT as usize),
            bytes: u64_at(bytes, 8),
            layout,
            xattr_bytes: match u64::from(u16_at(bytes, 2)) {
                0 => 0,
                count => 12 + (count - 1) * 4,
            },
        })
    }
}

/// The superblock of a disk of `blocks` blocks.
pub fn superblock(root: u16, inodes: u64, blocks: u32) -> [u8; SUPERBLOCK] {
    let mut out = [0; SUPERBLOCK];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &MAGIC.to_le_bytes());
    put(8, &COMPAT_MTIME.to_le_bytes());
    put(12, &[BLOCK_BITS]);
    put(14, &root.to_le_bytes());
    put(16, &inodes.to_le_bytes());
    put(36, &blocks.to_le_bytes());
    put(80, &INCOMPAT_CHUNKED_FILE.to_le_bytes());
    out
}

/// The root of a disk that was written here; `None` for any other.
pub fn root_of(superblock: &[u8; SUPERBLOCK]) -> Option<Nid> {
    let ours = u32_at(superblock, 0) == MAGIC
        && superblock[12] == BLOCK_BITS
        && u32_at(superblock, 40) == 0
        && u32_at(superblock, 80) == INCOMPAT_CHUNKED_FILE;
    ours.then(|| u64::from(u16_at(superblock, 14)))
}

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
