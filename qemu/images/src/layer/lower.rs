//! What the layers below show, as overlayfs merges them.

use std::path::Path;

use crate::erofs::{Disk, FileType, Inode};
use crate::error::Result;
use crate::meta::{Device, Special};

/// The overlay's mark on a directory that hides all below it.
pub const OPAQUE: (&[u8], &[u8]) = (b"trusted.overlay.opaque", b"y");
/// Names that speak to overlayfs; they are not an image's to give.
pub const OVERLAY: &[u8] = b"trusted.overlay.";

/// The layers below, the topmost first.
#[derive(Default)]
pub struct Lower {
    disks: Vec<Disk>,
}

/// A file of the topmost layer that has it.
#[derive(Debug, Clone)]
pub struct LowerFile {
    pub disk: usize,
    pub inode: Inode,
}

/// A directory of one layer or of several that merge: the place in each, the topmost first.
#[derive(Debug, Clone)]
pub struct LowerDir(Vec<LowerFile>);

#[derive(Debug, Clone)]
pub enum Found {
    Dir(LowerDir),
    Symlink(LowerFile),
    Other(LowerFile),
}

impl LowerDir {
    /// Its owner, mode, time and attributes are those of the topmost.
    pub fn top(&self) -> &LowerFile {
        &self.0[0]
    }
}

impl Lower {
    /// `disks`: from the bottom up.
    pub fn open<'a>(disks: impl DoubleEndedIterator<Item = &'a Path>) -> Result<Lower> {
        let disks = disks.rev().map(Disk::open).collect::<Result<_>>()?;
        Ok(Lower { disks })
    }

    pub fn root(&self) -> Result<Option<LowerDir>> {
        let roots = self.disks.iter().enumerate().map(|(at, disk)| {
            Ok(LowerFile {
                disk: at,
                inode: disk.inode(disk.root())?,
            })
        });
        let roots = roots.collect::<Result<Vec<_>>>()?;
        Ok((!roots.is_empty()).then_some(LowerDir(roots)))
    }

    /// The file `name` in `dir`, unless a whiteout hides it.
    pub fn find(&mut self, dir: &LowerDir, name: &[u8]) -> Result<Option<Found>> {
        let mut dirs = Vec::new();
        for LowerFile { disk: at, inode } in &dir.0 {
            let disk = &mut self.disks[*at];
            let Some(nid) = disk.find(inode.nid, name)? else {
                continue;
            };
            let file = LowerFile {
                disk: *at,
                inode: disk.inode(nid)?,
            };
            if file.inode.kind() == FileType::Dir {
                let (mark, value) = OPAQUE;
                let opaque = file.inode.meta.xattrs.get(mark).is_some_and(|v| v == value);
                dirs.push(file);
                if opaque {
                    break;
                }
            } else if dirs.is_empty() {
                return Ok(match file.inode.kind() {
                    _ if is_whiteout(&file.inode) => None,
                    FileType::Symlink => Some(Found::Symlink(file)),
                    _ => Some(Found::Other(file)),
                });
            } else {
                break;
            }
        }
        Ok((!dirs.is_empty()).then_some(Found::Dir(LowerDir(dirs))))
    }

    /// All names in `dir` that some layer has, hidden ones too.
    pub fn names(&mut self, dir: &LowerDir) -> Result<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        for LowerFile { disk, inode } in &dir.0 {
            all.extend(self.disks[*disk].names(inode.nid)?);
        }
        all.sort();
        all.dedup();
        Ok(all)
    }

    pub fn target(&self, link: &LowerFile) -> Result<Vec<u8>> {
        self.disks[link.disk].target(&link.inode)
    }

    pub fn disk(&self, file: &LowerFile) -> &Disk {
        &self.disks[file.disk]
    }
}

pub fn whiteout() -> Special {
    Special::Char(Device::decode(0))
}

fn is_whiteout(inode: &Inode) -> bool {
    inode.special() == Some(whiteout())
}
