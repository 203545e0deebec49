//! The crates that are linked into the guest, read from what cargo says of them. `cargo metadata`
//! alone lists too much, because it merges the features of the whole workspace.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Deserialize;

use crate::Error;

/// Everything that cargo says about the crates.
pub struct Sources<'a> {
    /// `cargo tree --prefix none --format {p}`
    pub tree: &'a str,
    /// `cargo metadata --format-version 1`
    pub metadata: &'a str,
    pub lock: &'a str,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
pub(crate) struct Package {
    pub id: String,
    pub name: String,
    pub version: String,
    pub license: Option<String>,
    pub license_file: Option<String>,
    pub description: Option<String>,
    pub repository: Option<String>,
    /// Of the registry; `None` for the crates of this workspace.
    pub source: Option<String>,
    pub manifest_path: PathBuf,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<ResolveNode>,
}

#[derive(Deserialize)]
struct ResolveNode {
    id: String,
    dependencies: Vec<String>,
}

/// Name and version.
pub(crate) type Key = (String, String);

/// The crates that are linked, with what cargo knows of them.
pub struct Crates {
    pub(crate) linked: BTreeMap<Key, Linked>,
}

pub(crate) struct Linked {
    pub package: Package,
    pub checksum: Option<String>,
    pub depends: BTreeSet<Key>,
}

impl Crates {
    /// # Errors
    /// Cargo's output is not understood, or its parts do not fit together.
    pub fn read(sources: &Sources<'_>) -> Result<Self, Error> {
        let wrong = |what: String| Error::Archive(format!("the bill of materials: {what}"));
        let metadata: Metadata = serde_json::from_str(sources.metadata)
            .map_err(|error| wrong(format!("cargo metadata: {error}")))?;
        let wanted = linked(sources.tree);
        let checksums = checksums(sources.lock);
        let mut keys: BTreeMap<String, Key> = BTreeMap::new();
        let mut linked = BTreeMap::new();
        for package in metadata.packages {
            let key = (package.name.clone(), package.version.clone());
            if !wanted.contains(&key) {
                continue;
            }
            keys.insert(package.id.clone(), key.clone());
            let crate_ = Linked {
                checksum: checksums.get(&key).cloned(),
                package,
                depends: BTreeSet::new(),
            };
            linked.insert(key, crate_);
        }
        if let Some((name, version)) = wanted.iter().find(|key| !linked.contains_key(*key)) {
            return Err(wrong(format!("cargo metadata has no {name} {version}")));
        }
        if linked.is_empty() {
            return Err(wrong("cargo tree names no crate".into()));
        }
        for node in metadata.resolve.nodes {
            let Some(from) = keys.get(&node.id).and_then(|key| linked.get_mut(key)) else {
                continue;
            };
            let depends = node.dependencies.iter().filter_map(|id| keys.get(id));
            from.depends = depends.cloned().collect();
        }
        Ok(Self { linked })
    }
}

/// The crates of `cargo tree`'s output: `libc v0.2.1`, perhaps followed by a place or a mark.
fn linked(tree: &str) -> BTreeSet<Key> {
    tree.lines()
        .filter_map(|line| {
            let (name, rest) = line.trim().split_once(" v")?;
            let version = rest.split_whitespace().next()?;
            Some((name.to_owned(), version.to_owned()))
        })
        .collect()
}

/// Cargo.lock: blocks of `key = "value"` lines.
fn checksums(lock: &str) -> BTreeMap<Key, String> {
    let blocks = lock.split("[[package]]").skip(1);
    blocks
        .filter_map(|block| {
            let value = |key: &str| {
                let line = block.lines().find_map(|line| line.strip_prefix(key))?;
                Some(line.strip_prefix(" = ")?.trim_matches('"').to_owned())
            };
            Some(((value("name")?, value("version")?), value("checksum")?))
        })
        .collect()
}
