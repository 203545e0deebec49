//! From names to places in the merged tree, symbolic links followed within its root.

use super::lower::{Found, LowerDir};
use super::path::shown;
use super::tree::{Dir, Node, NodeId, ROOT};
use super::{inherited, Builder, Result};
use crate::meta::Meta;

/// As Linux has it (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// A directory of the merged tree.
#[derive(Clone)]
pub enum At {
    Upper(NodeId),
    /// This layer says nothing of it.
    Lower(LowerDir),
}

/// A name of the merged tree.
pub enum Seen {
    Dir(NodeId),
    Leaf(NodeId),
    Lower(Found),
}

impl Builder {
    /// The directory at `names`, if there is one.
    pub(super) fn look(&mut self, names: &[&[u8]]) -> Result<Option<At>> {
        self.walk(names, false)
    }

    /// The directory at `names` as one of this layer: with the attributes that it has below, or new
    /// (0755, root).
    pub(super) fn make(&mut self, names: &[&[u8]]) -> Result<NodeId> {
        match self.walk(names, true)? {
            Some(At::Upper(id)) => Ok(id),
            Some(At::Lower(_)) | None => unreachable!("what is made is of this layer"),
        }
    }

    pub(super) fn see(&mut self, at: &At, name: &[u8]) -> Result<Option<Seen>> {
        let lower = match at {
            At::Lower(dir) => Some(dir),
            At::Upper(id) => match self.tree.child(*id, name) {
                Some(child) => {
                    return Ok(match self.tree.node(child) {
                        Node::Dir(_) => Some(Seen::Dir(child)),
                        Node::Leaf(_) => Some(Seen::Leaf(child)),
                        Node::Whiteout => None,
                    });
                }
                None => self.tree.dir(*id).and_then(|dir| dir.lower.as_ref()),
            },
        };
        let Some(lower) = lower else {
            return Ok(None);
        };
        Ok(self.lower.find(lower, name)?.map(Seen::Lower))
    }

    /// What the layers below have at `name`, whatever this one has.
    pub(super) fn below(&mut self, dir: NodeId, name: &[u8]) -> Result<Option<Found>> {
        match self.tree.dir(dir).and_then(|dir| dir.lower.as_ref()) {
            Some(lower) => Ok(self.lower.find(lower, name)?),
            None => Ok(None),
        }
    }

    fn walk(&mut self, names: &[&[u8]], make: bool) -> Result<Option<At>> {
        // Below the root, which is not among them.
        let mut way: Vec<At> = Vec::new();
        let mut left: Vec<Vec<u8>> = names.iter().rev().map(|name| name.to_vec()).collect();
        let mut links = 0;
        while let Some(name) = left.pop() {
            if name == b".." {
                way.pop();
                continue;
            }
            let here = way.last().cloned().unwrap_or(At::Upper(ROOT));
            let seen = self.see(&here, &name)?;
            let target = match &seen {
                Some(Seen::Lower(Found::Symlink(file))) => Some(self.lower.target(file)?),
                Some(Seen::Leaf(id)) => match self.tree.node(*id) {
                    Node::Leaf(leaf) => leaf.target.as_deref().map(<[u8]>::to_vec),
                    Node::Dir(_) | Node::Whiteout => None,
                },
                _ => None,
            };
            if let Some(target) = target {
                links += 1;
                if links > LINKS_MAX {
                    return Err(format!("leads through {links} symbolic links").into());
                }
                if target.starts_with(b"/") {
                    way.clear();
                }
                let parts = target.split(|byte| *byte == b'/').rev();
                let parts = parts.filter(|part| !matches!(*part, b"" | b"."));
                left.extend(parts.map(<[u8]>::to_vec));
                continue;
            }
            way.push(match (seen, &here) {
                (Some(Seen::Dir(id)), _) => At::Upper(id),
                (Some(Seen::Lower(Found::Dir(dir))), At::Upper(parent)) if make => {
                    let mut new = Dir::new(inherited(&dir.top().inode.meta));
                    new.lower = Some(dir);
                    At::Upper(self.put(*parent, &name, new)?)
                }
                (Some(Seen::Lower(Found::Dir(dir))), _) => At::Lower(dir),
                (None, At::Upper(parent)) if make => {
                    At::Upper(self.put(*parent, &name, Dir::new(Meta::new(0o755)))?)
                }
                (Some(_), _) if make => {
                    let name = shown(&name);
                    return Err(format!("lies below {name}, which is not a directory").into());
                }
                (Some(_) | None, _) => return Ok(None),
            });
        }
        Ok(Some(way.pop().unwrap_or(At::Upper(ROOT))))
    }

    fn put(&mut self, parent: NodeId, name: &[u8], mut dir: Dir) -> Result<NodeId> {
        // Where this layer took a directory away, the new one must hide it.
        if dir.lower.is_none() {
            dir.opaque = matches!(self.below(parent, name)?, Some(Found::Dir(_)));
        }
        let id = self.tree.add(Node::Dir(dir))?;
        self.tree.name(parent, name, id)?;
        Ok(id)
    }
}
