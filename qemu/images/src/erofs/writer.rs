use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use super::directory::{self, Name};
use super::format::{superblock, FileType, Layout, Nid, RawInode};
use super::format::{BLOCK, HOLE, INODE, LINKS_AT, SLOT, SUPERBLOCK_AT};
use super::xattr;
use crate::archive::Map;
use crate::meta::{Meta, Special, Why};

/// Where the root's inode is: block 1.
const ROOT: Nid = BLOCK / SLOT;
/// The longest target of a symbolic link that Linux makes.
const TARGET_MAX: usize = 4095;
/// As ext4 has it; it also keeps the list of a sparse file's chunks short.
const FILE_MAX: u64 = 1 << 44;
const CHUNKS_MAX: u64 = 1 << 18;
const BUFFER: usize = 256 << 10;
/// A layer must leave this much of the file system that it is written to, in bytes; looked at each
/// time as much has been written.
const KEEP_FREE: u64 = 64 << 20;

#[derive(Debug)]
pub enum WriteError {
    /// The contents could not be read.
    Source(io::Error),
    /// The disk could not be written.
    Disk(io::Error),
    /// A file that the format cannot hold.
    Unfit(Why),
}

/// Writes a disk from its front to its end; contents are never held in memory.
pub struct Writer {
    file: File,
    /// The first block that is not in use.
    next: u64,
    /// Free bytes of a block of inodes.
    open: std::ops::Range<u64>,
    inodes: u64,
    buffer: Vec<u8>,
    unchecked: u64,
}

/// The place of a directory whose names are not written yet.
#[derive(Debug, Clone, Copy)]
pub struct Reserved {
    pub nid: Nid,
    bytes: u64,
    layout: Layout,
}

impl Writer {
    /// `file` is empty.
    pub fn new(file: File) -> Writer {
        Writer {
            file,
            next: 2,
            open: 0..0,
            inodes: 0,
            buffer: vec![0; BUFFER],
            unchecked: KEEP_FREE,
        }
    }

    pub fn special(&mut self, meta: &Meta, special: Special) -> Result<Nid, WriteError> {
        let number = match special {
            Special::Char(device) | Special::Block(device) => device.encode(),
            Special::Fifo => 0,
        };
        let xattrs = attributes(meta)?;
        let kind = FileType::of(special);
        self.leaf(kind, meta, 0, Layout::Device(number), &xattrs, &[])
    }

    pub fn symlink(&mut self, meta: &Meta, target: &[u8]) -> Result<Nid, WriteError> {
        if target.len() > TARGET_MAX {
            let length = target.len();
            return Err(WriteError::Unfit(format!(
                "is a link to a path of {length} bytes; Linux has {TARGET_MAX} at most"
            )));
        }
        self.file(
            FileType::Symlink,
            meta,
            &mut { target },
            target.len() as u64,
        )
    }

    /// A file of `bytes` bytes, all of which `contents` has.
    pub fn regular(
        &mut self,
        meta: &Meta,
        contents: &mut dyn Read,
        bytes: u64,
    ) -> Result<Nid, WriteError> {
        self.file(FileType::Regular, meta, contents, bytes)
    }

    /// A file with holes; `contents` has what is between them.
    pub fn sparse(
        &mut self,
        meta: &Meta,
        contents: &mut dyn Read,
        map: &Map,
    ) -> Result<Nid, WriteError> {
        if map.bytes > FILE_MAX {
            return Err(too_large(map.bytes));
        }
        let xattrs = attributes(meta)?;
        let mut bits = 0;
        while map.bytes.div_ceil(BLOCK << bits) > CHUNKS_MAX {
            bits += 1;
        }
        let size = BLOCK << bits;
        let mut chunks = vec![HOLE; map.bytes.div_ceil(size) as usize];
        for extent in &map.extents {
            let (mut at, end) = (extent.offset, extent.offset + extent.bytes);
            while at < end {
                let chunk = &mut chunks[(at / size) as usize];
                let start = at / size * size;
                if *chunk == HOLE {
                    *chunk = self.blocks((map.bytes - start).min(size).div_ceil(BLOCK))?;
                }
                let stop = end.min(start + size);
                let place = u64::from(*chunk) * BLOCK + (at - start);
                self.copy(contents, place, stop - at)?;
                at = stop;
            }
        }
        let list: Vec<u8> = chunks
            .iter()
            .flat_map(|block| block.to_le_bytes())
            .collect();
        let layout = Layout::Chunks { bits };
        self.leaf(FileType::Regular, meta, map.bytes, layout, &xattrs, &list)
    }

    /// Says how many names a file has; it has one until then.
    pub fn links(&mut self, nid: Nid, links: u32) -> Result<(), WriteError> {
        self.put(&links.to_le_bytes(), nid * SLOT + LINKS_AT)
    }

    /// Takes a place for a directory of these names (sorted, with `.` and `..`).
    pub fn reserve<'a>(
        &mut self,
        meta: &Meta,
        sorted: impl IntoIterator<Item = &'a [u8]>,
        root: bool,
    ) -> Result<Reserved, WriteError> {
        let fixed = INODE + attributes(meta)?.len() as u64;
        let bytes = directory::size(sorted);
        if root && fixed > BLOCK {
            let why = "the root has more attributes than fit into its block".into();
            return Err(WriteError::Unfit(why));
        }
        let tail = bytes % BLOCK;
        let inline = tail > 0 && fixed + tail <= BLOCK;
        let blocks = if inline {
            bytes / BLOCK
        } else {
            bytes.div_ceil(BLOCK)
        };
        let first = self.blocks(blocks)?;
        let (layout, tail) = if inline {
            (Layout::Inline(first), tail)
        } else {
            (Layout::Plain(first), 0)
        };
        let nid = if root { ROOT } else { self.place(fixed, tail)? };
        Ok(Reserved { nid, bytes, layout })
    }

    /// Writes a directory to its place; `links`: 2 and one for each directory in it.
    pub fn directory(
        &mut self,
        reserved: &Reserved,
        meta: &Meta,
        links: u32,
        sorted: &[Name<'_>],
    ) -> Result<(), WriteError> {
        let xattrs = attributes(meta)?;
        let bytes = directory::encode(sorted);
        assert_eq!(
            bytes.len() as u64,
            reserved.bytes,
            "the place fits the names"
        );
        let (first, whole) = match reserved.layout {
            Layout::Inline(first) => (first, bytes.len() / BLOCK as usize * BLOCK as usize),
            Layout::Plain(first) => (first, bytes.len()),
            Layout::Chunks { .. } | Layout::Device(_) => unreachable!("reserve() gives none"),
        };
        let (blocks, tail) = bytes.split_at(whole);
        self.put(blocks, u64::from(first) * BLOCK)?;
        let length = xattrs.len() as u64;
        let mut inode = RawInode::new(FileType::Dir, meta, reserved.bytes, reserved.layout, length);
        inode.links = links;
        self.inode(reserved.nid, &inode, &xattrs, tail)
    }

    /// Writes what is left; the disk's length in bytes.
    pub fn finish(self) -> Result<u64, WriteError> {
        let blocks = self.block_number(self.next)?;
        let root = u16::try_from(ROOT).expect("block 1 is in front");
        let bytes = superblock(root, self.inodes, blocks);
        self.file
            .write_all_at(&bytes, SUPERBLOCK_AT)
            .map_err(WriteError::Disk)?;
        self.file
            .set_len(self.next * BLOCK)
            .map_err(WriteError::Disk)?;
        self.file.sync_all().map_err(WriteError::Disk)?;
        Ok(self.next * BLOCK)
    }

    /// What has contents and no holes.
    fn file(
        &mut self,
        kind: FileType,
        meta: &Meta,
        contents: &mut dyn Read,
        bytes: u64,
    ) -> Result<Nid, WriteError> {
        if bytes > FILE_MAX {
            return Err(too_large(bytes));
        }
        let xattrs = attributes(meta)?;
        let tail = bytes % BLOCK;
        let inline = tail > 0 && INODE + xattrs.len() as u64 + tail <= BLOCK;
        let whole = if inline { bytes - tail } else { bytes };
        let first = self.blocks(whole.div_ceil(BLOCK))?;
        self.copy(contents, u64::from(first) * BLOCK, whole)?;
        if !inline {
            return self.leaf(kind, meta, bytes, Layout::Plain(first), &xattrs, &[]);
        }
        let mut last = [0; BLOCK as usize];
        let last = &mut last[..tail as usize];
        contents.read_exact(last).map_err(WriteError::Source)?;
        let fixed = INODE + xattrs.len() as u64;
        let nid = self.place(fixed, tail)?;
        let length = xattrs.len() as u64;
        let inode = RawInode::new(kind, meta, bytes, Layout::Inline(first), length);
        self.inode(nid, &inode, &xattrs, last)?;
        Ok(nid)
    }

    /// An inode and what follows it, at any place.
    fn leaf(
        &mut self,
        kind: FileType,
        meta: &Meta,
        bytes: u64,
        layout: Layout,
        xattrs: &[u8],
        list: &[u8],
    ) -> Result<Nid, WriteError> {
        let length = xattrs.len() as u64;
        let nid = self.place(INODE + length + list.len() as u64, 0)?;
        let inode = RawInode::new(kind, meta, bytes, layout, length);
        self.inode(nid, &inode, xattrs, list)?;
        Ok(nid)
    }

    fn inode(
        &mut self,
        nid: Nid,
        inode: &RawInode,
        xattrs: &[u8],
        after: &[u8],
    ) -> Result<(), WriteError> {
        self.inodes += 1;
        let mut bytes = inode.encode(self.inodes as u32);
        bytes.extend_from_slice(xattrs);
        bytes.extend_from_slice(after);
        self.put(&bytes, nid * SLOT)
    }

    /// A place for `fixed` bytes that begin with an inode, which lies in one block, and `tail` bytes
    /// of contents after them, which do too. In a new block there is one if both together fit into
    /// a block or there is no tail.
    fn place(&mut self, fixed: u64, tail: u64) -> Result<Nid, WriteError> {
        let total = fixed + tail;
        let at = self.open.start.next_multiple_of(SLOT);
        if at + total <= self.open.end {
            self.open.start = at + total;
            return Ok(at / SLOT);
        }
        let first = u64::from(self.blocks(total.div_ceil(BLOCK))?);
        let end = self.next * BLOCK;
        self.open = first * BLOCK + total..end;
        Ok(first * BLOCK / SLOT)
    }

    /// Takes `count` blocks in a row.
    fn blocks(&mut self, count: u64) -> Result<u32, WriteError> {
        let first = self.block_number(self.next)?;
        self.block_number(self.next.saturating_add(count))?;
        self.next += count;
        Ok(first)
    }

    fn block_number(&self, block: u64) -> Result<u32, WriteError> {
        let number = u32::try_from(block).ok().filter(|number| *number != HOLE);
        number.ok_or_else(|| WriteError::Unfit("makes the layer larger than 16 TiB".into()))
    }

    /// Copies contents to a place on the disk; long runs of zeros become holes of the disk's file.
    fn copy(&mut self, from: &mut dyn Read, mut to: u64, mut bytes: u64) -> Result<(), WriteError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        while bytes > 0 {
            let want = usize::try_from(bytes).unwrap_or(BUFFER).min(BUFFER);
            let piece = &mut buffer[..want];
            from.read_exact(piece).map_err(WriteError::Source)?;
            if piece.iter().any(|byte| *byte != 0) {
                self.put(piece, to)?;
            }
            to += want as u64;
            bytes -= want as u64;
        }
        self.buffer = buffer;
        Ok(())
    }

    fn put(&mut self, bytes: &[u8], at: u64) -> Result<(), WriteError> {
        self.unchecked += bytes.len() as u64;
        if self.unchecked >= KEEP_FREE {
            self.unchecked = 0;
            let about = nix::sys::statvfs::fstatvfs(self.file.as_fd());
            let about = about.map_err(|errno| WriteError::Disk(errno.into()))?;
            if about.blocks_available() * about.fragment_size() < 2 * KEEP_FREE {
                return Err(WriteError::Disk(io::ErrorKind::StorageFull.into()));
            }
        }
        self.file.write_all_at(bytes, at).map_err(WriteError::Disk)
    }
}

fn attributes(meta: &Meta) -> Result<Vec<u8>, WriteError> {
    xattr::encode(&meta.xattrs).map_err(WriteError::Unfit)
}

fn too_large(bytes: u64) -> WriteError {
    WriteError::Unfit(format!("is a file of {bytes} bytes; 16 TiB are possible"))
}
