//! The files of the layer that is being made: names and directories; all else is on its disk.
//!
//! An arena, walked with loops: a tree from a stranger may be deep.

use std::collections::BTreeMap;

use super::lower::LowerDir;
use crate::erofs::{FileType, Nid};
use crate::meta::{Meta, Why};

pub type NodeId = usize;
pub const ROOT: NodeId = 0;

/// Bytes of names, directories and links that are held at once; a layer with millions of files has
/// a tenth.
const HELD_MAX: usize = 1 << 30;
/// What a node costs beyond its name.
const NODE: usize = 160;

pub enum Node {
    Dir(Dir),
    Leaf(Leaf),
    /// Hides a name of the layers below.
    Whiteout,
}

pub struct Dir {
    pub meta: Meta,
    pub names: BTreeMap<Box<[u8]>, NodeId>,
    /// What shines through from below.
    pub lower: Option<LowerDir>,
    /// Hides a directory below.
    pub opaque: bool,
    /// An entry of the layer, not only the way to one.
    pub listed: bool,
}

/// A file that is on the disk already.
pub struct Leaf {
    pub nid: Nid,
    pub kind: FileType,
    /// Of a symbolic link.
    pub target: Option<Box<[u8]>>,
}

pub struct Tree {
    nodes: Vec<Node>,
    held: usize,
}

impl Dir {
    pub fn new(meta: Meta) -> Dir {
        Dir {
            meta,
            names: BTreeMap::new(),
            lower: None,
            opaque: false,
            listed: false,
        }
    }
}

impl Tree {
    pub fn new(root: Dir) -> Tree {
        Tree {
            nodes: vec![Node::Dir(root)],
            held: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    pub fn dir(&self, id: NodeId) -> Option<&Dir> {
        match &self.nodes[id] {
            Node::Dir(dir) => Some(dir),
            Node::Leaf(_) | Node::Whiteout => None,
        }
    }

    pub fn dir_mut(&mut self, id: NodeId) -> Option<&mut Dir> {
        match &mut self.nodes[id] {
            Node::Dir(dir) => Some(dir),
            Node::Leaf(_) | Node::Whiteout => None,
        }
    }

    pub fn child(&self, dir: NodeId, name: &[u8]) -> Option<NodeId> {
        self.dir(dir)?.names.get(name).copied()
    }

    /// A node without a name.
    pub fn add(&mut self, node: Node) -> Result<NodeId, Why> {
        let beside = match &node {
            Node::Dir(dir) => weight(&dir.meta),
            Node::Leaf(leaf) => leaf.target.as_ref().map_or(0, |target| target.len()),
            Node::Whiteout => 0,
        };
        self.hold(NODE + beside)?;
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    /// Gives a directory the attributes that the layer lists.
    pub fn describe(&mut self, id: NodeId, meta: Meta) -> Result<(), Why> {
        self.hold(weight(&meta))?;
        if let Some(dir) = self.dir_mut(id) {
            dir.meta = meta;
            dir.listed = true;
        }
        Ok(())
    }

    /// Names `id`; whatever had the name loses it.
    pub fn name(&mut self, dir: NodeId, name: &[u8], id: NodeId) -> Result<(), Why> {
        self.hold(name.len())?;
        let dir = self
            .dir_mut(dir)
            .ok_or("lies below what is not a directory")?;
        dir.names.insert(name.into(), id);
        Ok(())
    }

    pub fn unname(&mut self, dir: NodeId, name: &[u8]) {
        if let Some(dir) = self.dir_mut(dir) {
            dir.names.remove(name);
        }
    }

    /// Whether an entry of the layer is at `id` or below.
    pub fn has_entries(&self, id: NodeId) -> bool {
        let mut left = vec![id];
        while let Some(id) = left.pop() {
            match self.node(id) {
                Node::Leaf(_) => return true,
                Node::Dir(dir) if dir.listed => return true,
                Node::Dir(dir) => left.extend(dir.names.values()),
                Node::Whiteout => {}
            }
        }
        false
    }

    /// Takes what is below out of sight, in `id` and all directories in it.
    pub fn hide_lower(&mut self, id: NodeId) {
        let mut left = vec![id];
        while let Some(id) = left.pop() {
            if let Some(dir) = self.dir_mut(id) {
                dir.lower = None;
                left.extend(dir.names.values());
            }
        }
    }

    fn hold(&mut self, bytes: usize) -> Result<(), Why> {
        self.held += bytes;
        if self.held > HELD_MAX {
            return Err(format!(
                "is one too many: the names of a layer may take {} MiB",
                HELD_MAX >> 20
            ));
        }
        Ok(())
    }
}

fn weight(meta: &Meta) -> usize {
    let xattrs = meta.xattrs.iter();
    xattrs.map(|(name, value)| name.len() + value.len()).sum()
}
