//! The files of an image, checked and in order: no two nodes share a path, every parent is a
//! directory, every hard link meets a file.

use std::collections::BTreeMap;

/// What a path of the image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File(Vec<u8>),
    /// Another name for the file at this path.
    Same(String),
    Symlink(String),
    /// Major and minor number.
    Char(u32, u32),
    Block(u32, u32),
}

/// One path: what it is and its permission bits (`0o7777` at most). Everything belongs to root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub kind: Kind,
    pub mode: u32,
}

/// All paths, absolute and in byte order, so that parents come before what they hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
}

impl Tree {
    /// Adds a path.
    ///
    /// # Errors
    /// In words: the path is not absolute and plain, is there already, or the mode is too large.
    pub fn add(&mut self, path: &str, node: Node) -> Result<(), String> {
        let plain = path.strip_prefix('/').is_some_and(|rest| {
            rest.split('/')
                .all(|part| !part.is_empty() && part != "." && part != "..")
        });
        if !plain || path.contains('\0') {
            return Err("a path must be absolute, without empty, `.` or `..` parts".into());
        }
        if node.mode > 0o7777 {
            return Err(format!(
                "mode {:o} has more than permission bits",
                node.mode
            ));
        }
        if self.nodes.contains_key(path) {
            return Err("the path is there already".into());
        }
        self.nodes.insert(path.to_owned(), node);
        Ok(())
    }

    /// Takes a path away, and gives what was there.
    pub fn remove(&mut self, path: &str) -> Option<Node> {
        self.nodes.remove(path)
    }

    pub fn contains(&self, path: &str) -> bool {
        self.nodes.contains_key(path)
    }

    /// The nodes in path order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// The content of a file or of one of its other names.
    pub fn content<'a>(&'a self, node: &'a Node) -> Option<&'a [u8]> {
        match &node.kind {
            Kind::File(bytes) => Some(bytes),
            Kind::Same(path) => match &self.nodes.get(path)?.kind {
                Kind::File(bytes) => Some(bytes),
                _ => None,
            },
            _ => None,
        }
    }

    /// Checks what only the complete tree can show.
    ///
    /// # Errors
    /// The path at fault and the problem in words.
    pub fn check(&self) -> Result<(), (String, String)> {
        for (path, node) in &self.nodes {
            let fault = |problem: String| Err((path.clone(), problem));
            let parent = &path[..path.rfind('/').unwrap_or(0)];
            if !parent.is_empty() {
                match self.nodes.get(parent).map(|node| &node.kind) {
                    Some(Kind::Directory) => {}
                    Some(_) => return fault(format!("its parent {parent} is no directory")),
                    None => return fault(format!("its parent {parent} is not in the profile")),
                }
            }
            if let Kind::Same(target) = &node.kind {
                match self.nodes.get(target) {
                    Some(Node {
                        kind: Kind::File(_),
                        mode,
                    }) if *mode == node.mode => {}
                    Some(Node {
                        kind: Kind::File(_),
                        ..
                    }) => return fault(format!("its mode is not that of {target}")),
                    _ => return fault(format!("{target} is no file")),
                }
            }
        }
        Ok(())
    }
}
