//! The end of a layer: its directories go to the disk.

use super::lower::{whiteout, OPAQUE};
use super::tree::{Dir, Node, NodeId, ROOT};
use super::{Builder, Result};
use crate::erofs::{FileType, Name, Nid, Reserved};
use crate::meta::Meta;

impl Builder {
    /// Writes what is left; the disk's length in bytes.
    pub fn finish(mut self) -> Result<u64> {
        let (dirs, links) = self.reachable();
        for (id, count) in (0..).zip(&links) {
            if let (Node::Leaf(leaf), 2..) = (self.tree.node(id), *count) {
                self.disk.links(leaf.nid, *count)?;
            }
        }
        let hidden = self.whiteout(&dirs)?;
        let mut places: Vec<Option<Reserved>> = vec![None; self.tree.len()];
        for &(id, _) in &dirs {
            if let Some(dir) = self.tree.dir(id) {
                let mut names: Vec<&[u8]> = dir.names.keys().map(|name| &name[..]).collect();
                names.extend([&b"."[..], b".."]);
                names.sort_unstable();
                places[id] = Some(self.disk.reserve(&marked(dir), names, id == ROOT)?);
            }
        }
        let nid = |id: NodeId| places[id].map_or(hidden, |place| place.nid);
        for &(id, parent) in &dirs {
            let (Some(dir), Some(place)) = (self.tree.dir(id), &places[id]) else {
                continue;
            };
            let mut links = 2;
            let mut names = vec![
                Name {
                    name: b".",
                    nid: place.nid,
                    kind: FileType::Dir,
                },
                Name {
                    name: b"..",
                    nid: nid(parent),
                    kind: FileType::Dir,
                },
            ];
            for (name, child) in &dir.names {
                let (nid, kind) = match self.tree.node(*child) {
                    Node::Dir(_) => (nid(*child), FileType::Dir),
                    Node::Leaf(leaf) => (leaf.nid, leaf.kind),
                    Node::Whiteout => (hidden, FileType::Char),
                };
                links += u32::from(kind == FileType::Dir);
                names.push(Name { name, nid, kind });
            }
            names.sort_unstable_by_key(|name| name.name);
            self.disk.directory(place, &marked(dir), links, &names)?;
        }
        Ok(self.disk.finish()?)
    }

    /// The directories with their parents, from the root on, and how many names each node has.
    fn reachable(&self) -> (Vec<(NodeId, NodeId)>, Vec<u32>) {
        let mut links = vec![0; self.tree.len()];
        let mut dirs = vec![(ROOT, ROOT)];
        let mut at = 0;
        while let Some(&(id, _)) = dirs.get(at) {
            at += 1;
            let names = self.tree.dir(id).into_iter().flat_map(|dir| &dir.names);
            for (_, child) in names {
                links[*child] += 1;
                if self.tree.dir(*child).is_some() {
                    dirs.push((*child, id));
                }
            }
        }
        (dirs, links)
    }

    /// The file that all whiteouts are; 0 if there are none.
    fn whiteout(&mut self, dirs: &[(NodeId, NodeId)]) -> Result<Nid> {
        let names = dirs.iter().filter_map(|(id, _)| self.tree.dir(*id));
        let children = names.flat_map(|dir| dir.names.values());
        let count = children
            .filter(|id| matches!(self.tree.node(**id), Node::Whiteout))
            .count();
        if count == 0 {
            return Ok(0);
        }
        let nid = self.disk.special(&Meta::new(0), whiteout())?;
        self.disk
            .links(nid, u32::try_from(count).unwrap_or(u32::MAX))?;
        Ok(nid)
    }
}

fn marked(dir: &Dir) -> Meta {
    let mut meta = dir.meta.clone();
    if dir.opaque {
        let (name, value) = OPAQUE;
        meta.xattrs.insert(name.to_vec(), value.to_vec());
    }
    meta
}
