//! Device nodes of the utility VM in a container (5.12). Of a device that the host lists only the
//! path is used; everything else comes from the VM's own node.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use serde_json::{json, Value};

use super::document::{list, object, text_at, Object};
use crate::error::Failure;

/// What a privileged container does not get from `/dev`: it has its own instances of some
/// directories, and others hold no devices.
const SKIPPED_DIRECTORIES: [&str; 7] =
    ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub path: PathBuf,
    /// `c` or `b`.
    pub kind: &'static str,
    pub major: u64,
    pub minor: u64,
    uid: u32,
    gid: u32,
    /// Permissions that the node keeps in the container. The engine gives others 0666.
    mode: Option<u32>,
}

impl Node {
    /// From the metadata of a file. `None` for one that is no device, or has the number 0:0, which
    /// an overlay uses for deleted files.
    fn of(path: &Path, meta: &fs::Metadata) -> Option<Self> {
        let kind = if meta.file_type().is_char_device() {
            "c"
        } else if meta.file_type().is_block_device() {
            "b"
        } else {
            return None;
        };
        let (major, minor) = (major(meta.rdev()), minor(meta.rdev()));
        (major != 0 || minor != 0).then(|| Self {
            path: path.to_owned(),
            kind,
            major,
            minor,
            uid: meta.uid(),
            gid: meta.gid(),
            mode: None,
        })
    }

    /// The same device under another path.
    pub fn at(mut self, path: PathBuf) -> Self {
        self.path = path;
        self
    }

    fn entry(&self) -> Value {
        let mut entry = json!({
            "path": self.path.to_string_lossy(),
            "type": self.kind,
            "major": self.major,
            "minor": self.minor,
            "uid": self.uid,
            "gid": self.gid,
        });
        if let Some(mode) = self.mode {
            entry["fileMode"] = mode.into();
        }
        entry
    }

    fn rule(&self, access: &str) -> Value {
        json!({
            "allow": true,
            "type": self.kind,
            "major": self.major,
            "minor": self.minor,
            "access": access,
        })
    }
}

/// The device nodes below `dev`, as paths below `/dev`, in a fixed order (P-120). A node that
/// disappears meanwhile is left out.
pub(super) fn enumerate(dev: &Path) -> Result<Vec<Node>, Failure> {
    let mut nodes = Vec::new();
    let mut left = vec![dev.to_owned()];
    while let Some(directory) = left.pop() {
        let entries = match fs::read_dir(&directory) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(|e| super::made::failed("list", &directory, &e))?,
        };
        for entry in entries.flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            // Links are not followed, because only nodes themselves count.
            let Ok(meta) = fs::symlink_metadata(&path) else {
                continue;
            };
            if meta.is_dir() {
                if !SKIPPED_DIRECTORIES.iter().any(|skipped| name == *skipped) {
                    left.push(path);
                }
            } else if name != "console" {
                let below = path.strip_prefix(dev).unwrap_or(&path);
                nodes.extend(Node::of(&Path::new("/dev").join(below), &meta));
            }
        }
    }
    nodes.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(nodes)
}

/// Puts the device into `linux.devices`, replacing one with the same path. Returns whether there
/// was none.
fn put(devices: &mut Vec<Value>, node: &Node) -> bool {
    let same = |entry: &&mut Value| {
        entry["path"]
            .as_str()
            .is_some_and(|path| Path::new(path) == node.path)
    };
    match devices.iter_mut().find(same) {
        Some(entry) => {
            *entry = node.entry();
            false
        }
        None => {
            devices.push(node.entry());
            true
        }
    }
}

fn rules(linux: &mut Object) -> Result<&mut Vec<Value>, Failure> {
    list(object(linux, "resources")?, "devices")
}

/// Adds a device, and the right to use it unless one of this path is there already.
pub(super) fn add(spec: &mut Object, node: &Node, access: &str) -> Result<(), Failure> {
    let linux = object(spec, "linux")?;
    if put(list(linux, "devices")?, node) {
        rules(linux)?.push(node.rule(access));
    }
    Ok(())
}

/// For a privileged container: every device, and no limits (P-119).
pub(super) fn all(spec: &mut Object, dev: &Path) -> Result<(), Failure> {
    let nodes = enumerate(dev)?;
    let linux = object(spec, "linux")?;
    let devices = list(linux, "devices")?;
    for node in &nodes {
        put(devices, node);
    }
    *rules(linux)? = vec![json!({"allow": true, "access": "rwm"})];
    Ok(())
}

/// For a container that is not privileged: of each entry only the path is used (P-121).
pub(super) fn listed(spec: &mut Object) -> Result<(), Failure> {
    let linux = object(spec, "linux")?;
    if !linux.contains_key("devices") {
        return Ok(());
    }
    let given = std::mem::take(list(linux, "devices")?);
    let mut nodes = Vec::new();
    for (index, entry) in given.iter().enumerate() {
        let at = format!("linux.devices[{index}]");
        let path = text_at(entry, &at, "path")?;
        nodes.extend(look(Path::new(path)).map_err(|f| f.during(&at))?);
    }
    let mut devices = Vec::new();
    for node in &nodes {
        if put(&mut devices, node) {
            rules(linux)?.push(node.rule("rwm"));
        }
    }
    linux.insert("devices".into(), devices.into());
    Ok(())
}

/// The node at a path of the utility VM; none for a FIFO.
fn look(path: &Path) -> Result<Option<Node>, Failure> {
    let refused = |why: &str| Failure::unspecified(format!("{}: {why}", path.display()));
    if !path.is_absolute() {
        return Err(refused("it is not an absolute path"));
    }
    let meta = fs::symlink_metadata(path).map_err(|e| super::made::failed("look at", path, &e))?;
    if meta.file_type().is_fifo() {
        return Ok(None);
    }
    Node::of(path, &meta)
        .map(Some)
        .ok_or_else(|| refused("it is no device of the utility VM"))
}

/// The block device to which a link of the utility VM leads. A disk without a file system is such a
/// link (P-393). The node keeps its owner and permissions.
pub(super) fn block_device(link: &Path) -> Result<Node, Failure> {
    let failed = |e| super::made::failed("look at", link, &e);
    let refused = |why: &str| Failure::unspecified(format!("{} is {why}", link.display()));
    if !fs::symlink_metadata(link).map_err(failed)?.is_symlink() {
        return Err(refused("no link to a device"));
    }
    let meta = fs::metadata(link).map_err(failed)?;
    let node = Node::of(link, &meta).filter(|node| node.kind == "b");
    let node = node.ok_or_else(|| refused("a link to something else than a block device"))?;
    Ok(Node {
        mode: Some(meta.mode() & 0o7777),
        ..node
    })
}

/// The device that attests a confidential VM (5.5). A VM without one gives the container none.
pub(super) fn secure_processor(spec: &mut Object, dev: &Path) {
    let found = ["sev", "sev-guest"].iter().find_map(|name| {
        let meta = fs::symlink_metadata(dev.join(name)).ok()?;
        Node::of(&Path::new("/dev").join(name), &meta)
    });
    let done = match found {
        Some(node) => add(spec, &node, "rwm"),
        None => Err(Failure::unspecified(
            "neither /dev/sev nor /dev/sev-guest is there",
        )),
    };
    if let Err(failure) = done {
        log::warn!("no attestation device for the container: {failure}");
    }
}

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;
