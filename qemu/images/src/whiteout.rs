//! OCI whiteouts (image-spec, layer.md) into what overlayfs reads: a character device 0:0 hides one
//! name, `trusted.overlay.opaque=y` on a directory hides all it covers.
//!
//! They are collected while a layer is read and applied at its end, because they speak of the
//! layers below only: an entry of the same layer stays, wherever it stands in the archive.

use super::tree::{names, Kind, Meta, Tree, Why};

const PREFIX: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const RESERVED: &[u8] = b".wh..wh.";

#[derive(Debug, Default)]
pub struct Whiteouts {
    opaque: Vec<Vec<u8>>,
    hidden: Vec<Vec<u8>>,
}

impl Whiteouts {
    /// Takes `path` if it is a whiteout marker. Other names that AUFS reserves are dropped.
    pub fn take(&mut self, path: &[u8]) -> Result<bool, Why> {
        let parts = names(path)?;
        let Some((name, parents)) = parts.split_last() else {
            return Ok(false);
        };
        let mut parent = parents.join(&b'/');
        if *name == OPAQUE {
            self.opaque.push(parent);
        } else if parts.iter().any(|p| p.starts_with(RESERVED)) {
            // .wh..wh.plnk and the like: AUFS's own bookkeeping
        } else if let Some(hidden) = name.strip_prefix(PREFIX) {
            if hidden.is_empty() || hidden == b"." || hidden == b".." {
                return Err("is a whiteout of nothing".into());
            }
            parent.push(b'/');
            parent.extend_from_slice(hidden);
            self.hidden.push(parent);
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    pub fn apply(self, tree: &mut Tree) -> Result<(), Why> {
        for path in self.hidden {
            match tree.find(&path)? {
                // The directory was removed below and is made anew here, so what was below must not
                // show.
                Some(id) if matches!(tree.node(id).kind, Kind::Dir(_)) => opaque(tree, id),
                Some(_) => {}
                None => {
                    tree.insert(&path, Meta::new(0), Kind::whiteout())?;
                }
            }
        }
        for path in self.opaque {
            let id = match tree.find(&path)? {
                Some(id) => id,
                None => tree.insert(&path, Meta::new(0o755), Kind::dir())?,
            };
            opaque(tree, id);
        }
        Ok(())
    }
}

fn opaque(tree: &mut Tree, id: usize) {
    tree.set_xattr(id, "trusted.overlay.opaque", b"y");
}
