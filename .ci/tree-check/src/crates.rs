//! The crates of the workspace, read from their `Cargo.toml`.

use std::path::{Path, PathBuf};

use crate::graph::Graph;
use crate::read;

pub struct Crate {
    pub name: String,
    pub dir: PathBuf,
    /// What its programs and its library are built with; not what its tests are.
    depends: Vec<String>,
}

/// # Errors
/// A `Cargo.toml` cannot be read.
pub fn of_workspace(top: &Path) -> Result<Vec<Crate>, String> {
    let text = read(&top.join("Cargo.toml"))?;
    members(&text)
        .into_iter()
        .map(|member| of_manifest(top.join(member)))
        .collect()
}

/// Which crate is built with which other of the workspace. Cargo refuses a cycle.
pub fn graph(crates: &[Crate]) -> Graph {
    let mut graph = Graph::default();
    for one in crates {
        graph.node(&one.name);
        for other in crates {
            if one.depends.contains(&other.name) {
                graph.edge(&one.name, &other.name, String::new);
            }
        }
    }
    graph
}

/// The texts of the list `members`.
fn members(manifest: &str) -> Vec<&str> {
    let list = manifest
        .split_once("members = [")
        .map_or("", |(_, rest)| rest);
    let list = list.split_once(']').map_or("", |(list, _)| list);
    list.split('"').skip(1).step_by(2).collect()
}

fn of_manifest(dir: PathBuf) -> Result<Crate, String> {
    let text = read(&dir.join("Cargo.toml"))?;
    let (mut name, mut depends, mut section) = (String::new(), Vec::new(), "");
    for line in text.lines() {
        if line.starts_with('[') {
            section = line;
        } else if let Some(value) = line.strip_prefix("name = ") {
            if section == "[package]" {
                name = value.trim_matches('"').into();
            }
        } else if section == "[dependencies]" {
            let end = line.find(|c: char| !c.is_alphanumeric() && !"-_".contains(c));
            depends.push(line[..end.unwrap_or(line.len())].into());
        }
    }
    Ok(Crate { name, dir, depends })
}
