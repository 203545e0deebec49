//! A layer of an image as a disk, made with sight of the layers below it.
//!
//! ```text
//! entries ─ Builder ┬ tree: names and directories of this layer ─┐
//!                   ├ lower: what the layers below show          ├─ finish: directories
//!                   └ Writer: contents and inodes, at once ──────┘
//! ```
//!
//! The measure is the tree that `umoci unpack` and Docker make of the layers one after the other.
//! Thus a path goes through symbolic links of any layer, a directory that the layer does not list
//! keeps its owner, mode and attributes, and a hard link may name a file of a lower layer. What
//! differs from below becomes what overlayfs reads: a character device 0:0 hides one name,
//! `trusted.overlay.opaque=y` on a directory all that it covers.

mod finish;
mod lower;
mod path;
mod tree;
mod walk;
mod whiteout;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};

use crate::archive::Map;
use crate::erofs::{self, FileType, WriteError, Writer};
use crate::error::OciError;
use crate::meta::{Meta, Special, Why};
pub use lower::Lower;
use lower::{Found, LowerFile, OVERLAY};
use path::names;
pub use path::shown;
use tree::{Dir, Leaf, Node, NodeId, Tree, ROOT};
use walk::Seen;
pub use whiteout::Marker;

/// Why an entry could not be added.
#[derive(Debug)]
pub enum Fault {
    /// The entry is wrong, or cannot be carried over.
    Entry(Why),
    /// Its contents could not be read.
    Source(io::Error),
    /// The disk could not be written.
    Disk(io::Error),
    Other(OciError),
}

impl From<Why> for Fault {
    fn from(why: Why) -> Fault {
        Fault::Entry(why)
    }
}

impl From<OciError> for Fault {
    fn from(error: OciError) -> Fault {
        Fault::Other(error)
    }
}

impl From<WriteError> for Fault {
    fn from(error: WriteError) -> Fault {
        match error {
            WriteError::Source(error) => Fault::Source(error),
            WriteError::Disk(error) => Fault::Disk(error),
            WriteError::Unfit(why) => Fault::Entry(why),
        }
    }
}

type Result<T, E = Fault> = std::result::Result<T, E>;

/// What is not a directory.
pub enum Body<'a> {
    Special(Special),
    Symlink(&'a [u8]),
    /// Contents and their length in bytes.
    File(&'a mut dyn Read, u64),
    /// What is between the holes, and where those are.
    Sparse(&'a mut dyn Read, &'a Map),
}

/// A layer in the making. Entries come in the order of the archive; a later one replaces an earlier
/// one, except that a directory over a directory only brings its attributes.
pub struct Builder {
    tree: Tree,
    lower: Lower,
    disk: Writer,
    /// AUFS kept files with several names in a directory of its own; hard links name them there.
    kept: HashMap<Vec<u8>, NodeId>,
}

impl Builder {
    /// `file`: empty, becomes the disk.
    pub fn new(lower: Lower, file: File) -> Result<Builder, OciError> {
        let mut root = Dir::new(Meta::new(0o755));
        if let Some(below) = lower.root()? {
            root.meta = inherited(&below.top().inode.meta);
            root.lower = Some(below);
        }
        Ok(Builder {
            tree: Tree::new(root),
            lower,
            disk: Writer::new(file),
            kept: HashMap::new(),
        })
    }

    pub fn dir(&mut self, path: &[u8], meta: Meta) -> Result<()> {
        let meta = carried(meta);
        erofs::check(&meta)?;
        let names = names(path)?;
        let Some((name, parents)) = names.split_last() else {
            return Ok(self.tree.describe(ROOT, meta)?);
        };
        let parent = self.make(parents)?;
        let there = self.tree.child(parent, name);
        if let Some(id) = there.filter(|id| self.tree.dir(*id).is_some()) {
            return Ok(self.tree.describe(id, meta)?);
        }
        let mut dir = Dir::new(meta);
        dir.listed = true;
        if let Some(Found::Dir(below)) = self.below(parent, name)? {
            // What this layer had there until now has cut off what is below.
            match there {
                None => dir.lower = Some(below),
                Some(_) => dir.opaque = true,
            }
        }
        let id = self.tree.add(Node::Dir(dir))?;
        Ok(self.tree.name(parent, name, id)?)
    }

    pub fn leaf(&mut self, path: &[u8], meta: &Meta, body: Body<'_>) -> Result<()> {
        let names = names(path)?;
        let (name, parents) = names.split_last().ok_or_else(root_is_dir)?;
        let parent = self.make(parents)?;
        let id = self.write(meta, body)?;
        Ok(self.tree.name(parent, name, id)?)
    }

    /// Keeps a file without a name, for links to `key`.
    pub fn keep(&mut self, key: &[u8], meta: &Meta, body: Body<'_>) -> Result<()> {
        let id = self.write(meta, body)?;
        self.kept.insert(key.to_vec(), id);
        Ok(())
    }

    /// One more name for the file that was kept for `key`.
    pub fn link_kept(&mut self, path: &[u8], key: &[u8]) -> Result<()> {
        let id = self.kept.get(key).copied();
        let id = id.ok_or_else(|| not_there(key))?;
        self.link_to(path, id)
    }

    /// A hard link: one more name for the file at `target`, of this layer or of one below. The links
    /// on the way to it are followed, itself not.
    pub fn link(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        let target_names = names(target)?;
        let is_dir = || Why::from("is a hard link to a directory");
        let (name, parents) = target_names.split_last().ok_or_else(is_dir)?;
        let at = self.look(parents)?.ok_or_else(|| not_there(target))?;
        let id = match self.see(&at, name)?.ok_or_else(|| not_there(target))? {
            Seen::Dir(_) => return Err(is_dir().into()),
            Seen::Leaf(id) => id,
            Seen::Lower(Found::Dir(_)) => return Err(is_dir().into()),
            Seen::Lower(Found::Symlink(file) | Found::Other(file)) => {
                let parent = self.make(parents)?;
                let id = self.copy_up(&file)?;
                self.tree.name(parent, name, id)?;
                id
            }
        };
        self.link_to(path, id)
    }

    fn link_to(&mut self, path: &[u8], id: NodeId) -> Result<()> {
        let names = names(path)?;
        let (name, parents) = names.split_last().ok_or_else(root_is_dir)?;
        let parent = self.make(parents)?;
        Ok(self.tree.name(parent, name, id)?)
    }

    /// Puts a file on the disk; it has no name yet.
    fn write(&mut self, meta: &Meta, body: Body<'_>) -> Result<NodeId> {
        let meta = carried(meta.clone());
        let (nid, kind, target) = match body {
            Body::Special(special) => {
                let nid = self.disk.special(&meta, special)?;
                (nid, FileType::of(special), None)
            }
            Body::Symlink(target) => {
                let nid = self.disk.symlink(&meta, target)?;
                (nid, FileType::Symlink, Some(target.into()))
            }
            Body::File(contents, bytes) => {
                let nid = self.disk.regular(&meta, contents, bytes)?;
                (nid, FileType::Regular, None)
            }
            Body::Sparse(contents, map) => {
                let nid = self.disk.sparse(&meta, contents, map)?;
                (nid, FileType::Regular, None)
            }
        };
        Ok(self.tree.add(Node::Leaf(Leaf { nid, kind, target }))?)
    }

    /// A copy of a lower layer's file in this one, as overlayfs makes one before it links it.
    fn copy_up(&mut self, file: &LowerFile) -> Result<NodeId> {
        let disk = self.lower.disk(file);
        let meta = file.inode.meta.clone();
        let reading = disk.reading();
        let special = file.inode.special();
        let link = file.inode.kind() == FileType::Symlink;
        let target = if link {
            disk.target(&file.inode)?
        } else {
            Vec::new()
        };
        let (map, mut contents) = disk.contents(&file.inode)?;
        let body = match special {
            Some(special) => Body::Special(special),
            None if link => Body::Symlink(&target),
            None if map.stored() == map.bytes => Body::File(&mut contents, map.bytes),
            None => Body::Sparse(&mut contents, &map),
        };
        self.write(&meta, body).map_err(|fault| match fault {
            Fault::Source(error) => Fault::Other(OciError::Io {
                doing: reading,
                error,
            }),
            other => other,
        })
    }
}

/// The attributes of a layer that make sense on another machine and say nothing to overlayfs.
fn carried(mut meta: Meta) -> Meta {
    meta.xattrs.retain(|name, _| {
        erofs::storable(name) && !name.starts_with(OVERLAY) && name != b"security.selinux"
    });
    meta
}

fn inherited(meta: &Meta) -> Meta {
    carried(meta.clone())
}

fn not_there(target: &[u8]) -> Why {
    format!("is a hard link to {}, which is not there", shown(target))
}

fn root_is_dir() -> Why {
    "takes the place of the root, which must be a directory".into()
}
