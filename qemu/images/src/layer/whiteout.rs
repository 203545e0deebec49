//! Whiteouts (image-spec, layer.md). They speak of the layers below only: an entry of the same layer
//! stays, wherever it stands in the archive, and so do the directories on the way to it.

use super::lower::Found;
use super::path::names;
use super::tree::{Node, NodeId, ROOT};
use super::walk::At;
use super::{Builder, Result};
use crate::meta::Why;

const PREFIX: &[u8] = b".wh.";
/// AUFS's own bookkeeping, except for the mark of an opaque directory.
const RESERVED: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Where AUFS keeps files with several names.
const KEPT: &[u8] = b".wh..wh.plnk";

/// What a path of a layer means.
#[derive(Debug, PartialEq, Eq)]
pub enum Marker {
    /// Of the directory with this path, nothing below is to be seen.
    Opaque(Vec<u8>),
    /// This path is not to be seen.
    Hidden(Vec<u8>),
    /// A file that hard links name.
    Kept(Vec<u8>),
    /// Nothing for a container.
    Reserved,
}

impl Marker {
    /// `None` for an ordinary path.
    pub fn of(path: &[u8]) -> Result<Option<Marker>, Why> {
        let parts = names(path)?;
        let Some((name, parents)) = parts.split_last() else {
            return Ok(None);
        };
        if *name == OPAQUE {
            return Ok(Some(Marker::Opaque(parents.join(&b'/'))));
        }
        if parts.len() == 2 && parts[0] == KEPT {
            return Ok(Some(Marker::Kept(name.to_vec())));
        }
        if parts.iter().any(|part| part.starts_with(RESERVED)) {
            return Ok(Some(Marker::Reserved));
        }
        let Some(hidden) = name.strip_prefix(PREFIX) else {
            return Ok(None);
        };
        if matches!(hidden, b"" | b"." | b"..") {
            return Err("is a whiteout of nothing".into());
        }
        let path = [&parents.join(&b'/')[..], hidden].join(&b'/');
        Ok(Some(Marker::Hidden(path)))
    }
}

impl Builder {
    pub fn hide(&mut self, path: &[u8]) -> Result<()> {
        let names = names(path)?;
        let Some((name, parents)) = names.split_last() else {
            return Ok(());
        };
        // What is not there needs no hiding: perhaps another whiteout has taken the directory.
        let Some(at) = self.look(parents)? else {
            return Ok(());
        };
        if let At::Upper(parent) = at {
            return self.hide_name(parent, name);
        }
        if self.see(&at, name)?.is_some() {
            let parent = self.make(parents)?;
            self.hide_name(parent, name)?;
        }
        Ok(())
    }

    pub fn make_opaque(&mut self, path: &[u8]) -> Result<()> {
        let names = names(path)?;
        if self.look(&names)?.is_none() {
            return Ok(());
        }
        match self.make(&names)? {
            // overlayfs does not look at the mark of a layer's root.
            ROOT => {
                let lower = self.tree.dir_mut(ROOT).and_then(|root| root.lower.clone());
                let names = match lower {
                    Some(lower) => self.lower.names(&lower)?,
                    None => Vec::new(),
                };
                names.iter().try_for_each(|name| self.hide_name(ROOT, name))
            }
            id => {
                self.cover(id);
                Ok(())
            }
        }
    }

    fn hide_name(&mut self, parent: NodeId, name: &[u8]) -> Result<()> {
        let below = self.below(parent, name)?;
        match self.tree.child(parent, name) {
            Some(id) if self.tree.has_entries(id) => {
                if matches!(below, Some(Found::Dir(_))) {
                    self.cover(id);
                }
            }
            _ if below.is_some() => {
                let id = self.tree.add(Node::Whiteout)?;
                self.tree.name(parent, name, id)?;
            }
            Some(_) => self.tree.unname(parent, name),
            None => {}
        }
        Ok(())
    }

    /// A directory of this layer that hides what is below; nothing to do for a file, which does.
    fn cover(&mut self, id: NodeId) {
        if let Some(dir) = self.tree.dir_mut(id) {
            dir.opaque |= dir.lower.is_some();
            self.tree.hide_lower(id);
        }
    }
}
