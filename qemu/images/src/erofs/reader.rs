//! Reads the disks that [`super::Writer`] wrote: a layer is made with sight of those below it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::directory;
use super::format::{root_of, u32_at, FileType, Layout, Nid, RawInode};
use super::format::{BLOCK, HOLE, INODE, SLOT, SUPERBLOCK, SUPERBLOCK_AT};
use super::xattr;
use crate::archive::{Extent, Map};
use crate::error::{Doing, OciError, Result};
use crate::meta::{Device, Meta, Special};

pub struct Disk {
    path: PathBuf,
    file: Rc<File>,
    root: Nid,
    /// Directories that were looked into, as bytes.
    dirs: HashMap<Nid, Rc<[u8]>>,
}

/// A file, with all that is said of it.
#[derive(Debug, Clone)]
pub struct Inode {
    pub nid: Nid,
    pub meta: Meta,
    raw: RawInode,
}

impl Inode {
    pub fn kind(&self) -> FileType {
        self.raw.kind
    }

    /// What it is, if it has no contents.
    pub fn special(&self) -> Option<Special> {
        let device = match self.raw.layout {
            Layout::Device(number) => Device::decode(number),
            _ => Device::decode(0),
        };
        match self.raw.kind {
            FileType::Char => Some(Special::Char(device)),
            FileType::Block => Some(Special::Block(device)),
            FileType::Fifo => Some(Special::Fifo),
            FileType::Regular | FileType::Dir | FileType::Symlink => None,
        }
    }
}

impl Disk {
    pub fn open(path: &Path) -> Result<Disk> {
        let file = File::open(path).doing(|| format!("opening the layer {}", path.display()))?;
        let mut disk = Disk {
            path: path.to_path_buf(),
            file: Rc::new(file),
            root: 0,
            dirs: HashMap::new(),
        };
        let mut bytes = [0; SUPERBLOCK];
        disk.read(&mut bytes, SUPERBLOCK_AT)?;
        disk.root = root_of(&bytes).ok_or_else(|| disk.spoilt())?;
        Ok(disk)
    }

    pub fn root(&self) -> Nid {
        self.root
    }

    pub fn inode(&self, nid: Nid) -> Result<Inode> {
        let raw = self.raw(nid)?;
        let mut bytes = vec![0; raw.xattr_bytes as usize];
        self.read(&mut bytes, nid * SLOT + INODE)?;
        let xattrs = xattr::decode(&bytes).ok_or_else(|| self.spoilt())?;
        let meta = Meta {
            mode: raw.mode,
            uid: raw.uid,
            gid: raw.gid,
            mtime: raw.mtime,
            xattrs,
        };
        Ok(Inode { nid, meta, raw })
    }

    /// The file `name` in directory `dir`.
    pub fn find(&mut self, dir: Nid, name: &[u8]) -> Result<Option<Nid>> {
        let bytes = self.dir(dir)?;
        Ok(directory::find(&bytes, name))
    }

    pub fn names(&mut self, dir: Nid) -> Result<Vec<Vec<u8>>> {
        let bytes = self.dir(dir)?;
        Ok(directory::list(&bytes)
            .map(|(name, _)| name.to_vec())
            .collect())
    }

    /// Which parts of a file have contents, and a reader of those.
    pub fn contents(&self, inode: &Inode) -> Result<(Map, Contents)> {
        let bytes = inode.raw.bytes;
        let inline = inode.nid * SLOT + INODE + inode.raw.xattr_bytes;
        let whole = bytes / BLOCK * BLOCK;
        // Offset and length in the file, place on the disk.
        let mut pieces = Vec::new();
        match inode.raw.layout {
            Layout::Plain(first) => pieces.push((0, bytes, u64::from(first) * BLOCK)),
            Layout::Inline(first) => {
                pieces.push((0, whole, u64::from(first) * BLOCK));
                pieces.push((whole, bytes - whole, inline));
            }
            Layout::Chunks { bits } => {
                let size = BLOCK << bits;
                let mut list = vec![0; bytes.div_ceil(size) as usize * 4];
                self.read(&mut list, inline)?;
                for (start, place) in (0..).map(|at| at * size).zip(list.chunks_exact(4)) {
                    let place = u32_at(place, 0);
                    if place != HOLE {
                        let length = size.min(bytes - start);
                        pieces.push((start, length, u64::from(place) * BLOCK));
                    }
                }
            }
            Layout::Device(_) => {}
        }
        pieces.retain(|(_, bytes, _)| *bytes > 0);
        let extent = |&(offset, bytes, _): &(u64, u64, u64)| Extent { offset, bytes };
        let extents = pieces.iter().map(extent).collect();
        let mut places: Vec<_> = pieces.iter().map(|(_, bytes, at)| (*at, *bytes)).collect();
        places.reverse();
        let contents = Contents {
            file: Rc::clone(&self.file),
            left: places,
        };
        Ok((Map { extents, bytes }, contents))
    }

    pub fn target(&self, inode: &Inode) -> Result<Vec<u8>> {
        let mut target = Vec::new();
        let (_, mut contents) = self.contents(inode)?;
        contents.read_to_end(&mut target).doing(|| self.reading())?;
        Ok(target)
    }

    pub fn reading(&self) -> String {
        format!("reading the layer {}", self.path.display())
    }

    fn dir(&mut self, nid: Nid) -> Result<Rc<[u8]>> {
        if let Some(bytes) = self.dirs.get(&nid) {
            return Ok(Rc::clone(bytes));
        }
        let inode = self.inode(nid)?;
        let bytes: Rc<[u8]> = self.target(&inode)?.into();
        self.dirs.insert(nid, Rc::clone(&bytes));
        Ok(bytes)
    }

    fn raw(&self, nid: Nid) -> Result<RawInode> {
        let mut bytes = [0; INODE as usize];
        self.read(&mut bytes, nid * SLOT)?;
        RawInode::decode(&bytes).ok_or_else(|| self.spoilt())
    }

    fn read(&self, bytes: &mut [u8], at: u64) -> Result<()> {
        self.file.read_exact_at(bytes, at).doing(|| self.reading())
    }

    fn spoilt(&self) -> OciError {
        let what = format!("the layer {}", self.path.display());
        OciError::corrupt(what, "it is no disk that was made here; remove it")
    }
}

/// Reads pieces of a disk one after the other.
pub struct Contents {
    file: Rc<File>,
    /// Places and lengths, the next one last.
    left: Vec<(u64, u64)>,
}

impl Read for Contents {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some((at, bytes)) = self.left.last_mut() else {
            return Ok(0);
        };
        let want = usize::try_from(*bytes).unwrap_or(usize::MAX).min(buf.len());
        let n = self.file.read_at(&mut buf[..want], *at)?;
        *at += n as u64;
        *bytes -= n as u64;
        if n == 0 && want > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if *bytes == 0 {
            self.left.pop();
        }
        Ok(n)
    }
}
