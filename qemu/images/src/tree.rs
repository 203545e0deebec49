//! The file tree of one layer, as metadata only; contents stay in host files.
//!
//! Paths come from strangers: a path is split into names, `..` is refused and a leading `/` means
//! the root of the layer. No host path is ever made from them, so nothing can escape.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// What is wrong with a path or an entry, for the caller to put the archive's name before.
pub type Why = String;
pub type NodeId = usize;

pub const ROOT: NodeId = 0;
/// What ext4 and the kernel allow for one name.
const NAME_MAX: usize = 255;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits with set-id and sticky (`0o7777`).
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Full names (`user.x`, `trusted.overlay.opaque`) and raw values.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Meta {
    pub fn new(mode: u32) -> Self {
        Meta {
            mode,
            ..Meta::default()
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Dir(BTreeMap<Vec<u8>, NodeId>),
    /// `data` is a host file that holds the contents.
    File {
        data: PathBuf,
        bytes: u64,
    },
    Symlink(Vec<u8>),
    Char {
        major: u32,
        minor: u32,
    },
    Block {
        major: u32,
        minor: u32,
    },
    Fifo,
}

impl Kind {
    pub fn dir() -> Self {
        Kind::Dir(BTreeMap::new())
    }

    /// How overlayfs marks a name that hides the layers below it.
    pub fn whiteout() -> Self {
        Kind::Char { major: 0, minor: 0 }
    }
}

#[derive(Debug, Clone)]
pub struct Node {
    pub meta: Meta,
    pub kind: Kind,
}

#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
}

impl Default for Tree {
    fn default() -> Self {
        Tree {
            nodes: vec![Node {
                meta: Meta::new(0o755),
                kind: Kind::dir(),
            }],
        }
    }
}

impl Tree {
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    /// The names in directory `id`; none for anything else.
    pub fn children(&self, id: NodeId) -> impl Iterator<Item = (&[u8], NodeId)> {
        let names = match &self.nodes[id].kind {
            Kind::Dir(names) => Some(names),
            _ => None,
        };
        names
            .into_iter()
            .flatten()
            .map(|(n, id)| (n.as_slice(), *id))
    }

    pub fn find(&self, path: &[u8]) -> Result<Option<NodeId>, Why> {
        let mut at = ROOT;
        for name in names(path)? {
            let Kind::Dir(children) = &self.nodes[at].kind else {
                return Ok(None);
            };
            match children.get(name) {
                Some(&child) => at = child,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    /// Puts an entry at `path`, with missing parents (0755, root). A later entry replaces an
    /// earlier one, except that a directory over a directory only takes the new metadata.
    pub fn insert(&mut self, path: &[u8], meta: Meta, kind: Kind) -> Result<NodeId, Why> {
        let names = names(path)?;
        let Some((name, parents)) = names.split_last() else {
            if !matches!(kind, Kind::Dir(_)) {
                return Err("the root of a layer must be a directory".into());
            }
            self.nodes[ROOT].meta = meta;
            return Ok(ROOT);
        };
        let parent = self.mkdirs(parents)?;
        if let (Some(&old), Kind::Dir(_)) = (self.names(parent).get(*name), &kind) {
            if matches!(self.nodes[old].kind, Kind::Dir(_)) {
                self.nodes[old].meta = meta;
                return Ok(old);
            }
        }
        let id = self.nodes.len();
        self.nodes.push(Node { meta, kind });
        self.names(parent).insert(name.to_vec(), id);
        Ok(id)
    }

    /// A hard link: one more name for the file at `target`.
    pub fn link(&mut self, path: &[u8], target: &[u8]) -> Result<(), Why> {
        let shown = String::from_utf8_lossy(target).into_owned();
        let id = self
            .find(target)?
            .ok_or_else(|| format!("is a hard link to {shown:?}, which is not in the layer"))?;
        if matches!(self.nodes[id].kind, Kind::Dir(_)) {
            return Err(format!("is a hard link to the directory {shown:?}"));
        }
        let names = names(path)?;
        let (name, parents) = names
            .split_last()
            .ok_or("the root of a layer must be a directory")?;
        let parent = self.mkdirs(parents)?;
        self.names(parent).insert(name.to_vec(), id);
        Ok(())
    }

    pub fn set_xattr(&mut self, id: NodeId, name: &str, value: &[u8]) {
        self.nodes[id]
            .meta
            .xattrs
            .insert(name.as_bytes().to_vec(), value.to_vec());
    }

    fn mkdirs(&mut self, parents: &[&[u8]]) -> Result<NodeId, Why> {
        let mut at = ROOT;
        for name in parents {
            at = match self.names(at).get(*name).copied() {
                Some(child) if matches!(self.nodes[child].kind, Kind::Dir(_)) => child,
                Some(_) => {
                    let shown = String::from_utf8_lossy(name);
                    return Err(format!("lies below {shown:?}, which is not a directory"));
                }
                None => {
                    let id = self.nodes.len();
                    self.nodes.push(Node {
                        meta: Meta::new(0o755),
                        kind: Kind::dir(),
                    });
                    self.names(at).insert(name.to_vec(), id);
                    id
                }
            };
        }
        Ok(at)
    }

    fn names(&mut self, dir: NodeId) -> &mut BTreeMap<Vec<u8>, NodeId> {
        match &mut self.nodes[dir].kind {
            Kind::Dir(names) => names,
            _ => unreachable!("only directories are walked into"),
        }
    }
}

/// The names of `path`: `.` and a leading `/` mean nothing, `..` is refused.
pub fn names(path: &[u8]) -> Result<Vec<&[u8]>, Why> {
    let mut names = Vec::new();
    for name in path.split(|&b| b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err("leaves the layer by `..`".into()),
            _ if name.len() > NAME_MAX => {
                return Err(format!(
                    "has a name of {} bytes; {NAME_MAX} are possible",
                    name.len()
                ))
            }
            _ if name.contains(&0) => return Err("has a NUL in its name".into()),
            _ => names.push(name),
        }
    }
    Ok(names)
}
