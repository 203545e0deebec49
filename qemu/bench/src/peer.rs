//! crun beside the guest: the same containers in the same VM, where the machine has Debian's package.

use std::path::PathBuf;
use std::process::Command;

use image::tree::{Kind, Node, Tree};
use serde_json::{json, Value};

use super::spec::{spec, ROOT};
use uvm_vm::choice;

/// The bundles in the initrd: one container that exits, one that stays.
pub const EXITS: &str = "/bench/peer/exits";
pub const STAYS: &str = "/bench/peer/stays";
const FILES: &str = "/bench/peer/files";
const CRUN: &str = "/usr/bin/crun";

/// What the guest binds into every container, here from the initrd.
const BOUND: [(&str, &str); 3] = [
    ("hostname", "container\n"),
    ("hosts", "127.0.0.1 localhost\n127.0.0.1 container\n"),
    ("resolv.conf", ""),
];

/// The program and what it is linked with.
pub struct Peer {
    files: Vec<PathBuf>,
}

impl Peer {
    /// `None` with the reason where there is no crun.
    pub fn find() -> Result<Self, String> {
        let program = choice::program("crun")
            .ok_or("crun is not installed (Debian: .ci/packages.sh peers)")?;
        let output = Command::new("ldd")
            .arg(&program)
            .output()
            .map_err(|e| format!("ldd {}: {e}", program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // "name => /path (address)", or "/path (address)" for the loader.
        let paths = text.lines().filter_map(|line| {
            let path = line.rsplit("=> ").next()?.trim();
            let path = path.split(' ').next()?;
            path.starts_with('/').then(|| PathBuf::from(path))
        });
        Ok(Self {
            files: paths.collect(),
        })
    }

    /// Puts all of it into an initrd.
    pub fn add(&self, tree: &mut Tree) -> Result<(), String> {
        let program = choice::program("crun").ok_or("crun has gone")?;
        put(tree, CRUN, read(&program)?)?;
        for file in &self.files {
            put(tree, &file.to_string_lossy(), read(file)?)?;
        }
        for (name, text) in BOUND {
            put(tree, &format!("{FILES}/{name}"), text.into())?;
        }
        for (bundle, word) in [(EXITS, "true"), (STAYS, "wait")] {
            let config = config(word).to_string();
            put(tree, &format!("{bundle}/config.json"), config.into_bytes())?;
        }
        Ok(())
    }
}

/// What the guest makes of the spec of the bench.
fn config(word: &str) -> Value {
    let mut spec = spec(ROOT, &[word]);
    spec["root"]["readonly"] = json!(true);
    spec["linux"]["cgroupsPath"] = json!("/containers/peer");
    if let Some(mounts) = spec["mounts"].as_array_mut() {
        mounts.extend(BOUND.map(|(name, _)| {
            json!({"destination": format!("/etc/{name}"), "type": "bind",
                "source": format!("{FILES}/{name}"), "options": ["bind"]})
        }));
    }
    spec
}

fn read(path: &std::path::Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("reading {}: {e}", path.display()))
}

/// A file with the directories above it.
fn put(tree: &mut Tree, path: &str, content: Vec<u8>) -> Result<(), String> {
    for (at, _) in path.match_indices('/').skip(1) {
        let directory = &path[..at];
        if !tree.contains(directory) {
            let kind = Kind::Directory;
            tree.add(directory, Node { kind, mode: 0o755 })?;
        }
    }
    let kind = Kind::File(content);
    tree.add(path, Node { kind, mode: 0o755 })
}
