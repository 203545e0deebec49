//! Device nodes: those that every container has, and `linux.devices`.

use nix::sys::stat::{makedev, SFlag};

use super::{Mount, MountKind};
use crate::engine::json::At;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Absolute, in the container.
    pub path: String,
    pub kind: SFlag,
    pub number: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

const DEFAULTS: [(&str, u64, u64); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/tty", 5, 0),
    ("/dev/urandom", 1, 9),
    ("/dev/random", 1, 8),
];

/// None when `/dev` is a directory from elsewhere, which is not to be changed.
pub fn all(linux: &At<'_>, mounts: &[Mount]) -> Result<Option<Vec<Node>>, String> {
    let own = linux.member("devices")?;
    let mut nodes = own
        .list()?
        .map(|entry| node(&entry))
        .collect::<Result<Vec<_>, _>>()?;
    let foreign =
        |mount: &Mount| mount.destination == "/dev" && matches!(mount.kind, MountKind::Bind { .. });
    if mounts.iter().any(foreign) {
        return Ok(None);
    }
    let given = nodes.len();
    for (path, major, minor) in DEFAULTS {
        if !nodes[..given].iter().any(|node| node.path == path) {
            nodes.push(Node {
                path: path.into(),
                kind: SFlag::S_IFCHR,
                number: makedev(major, minor),
                mode: 0o666,
                uid: 0,
                gid: 0,
            });
        }
    }
    Ok(Some(nodes))
}

fn node(entry: &At<'_>) -> Result<Node, String> {
    let path = entry.member("path")?;
    let text = path.text()?;
    if !text.starts_with('/') || text.split('/').any(|part| part == "..") || text.ends_with('/') {
        return Err(path.refuse(format_args!("{text:?} is no absolute path of a device")));
    }
    let kind = entry.member("type")?;
    let kind = match kind.text()? {
        "c" | "u" => SFlag::S_IFCHR,
        "b" => SFlag::S_IFBLK,
        "p" => SFlag::S_IFIFO,
        other => return Err(kind.refuse(format_args!("{other:?} is none of c, u, b, p"))),
    };
    // The kernel takes 12 and 20 bits, and would cut what is longer.
    let number = |name: &'static str, most: u32| -> Result<u64, String> {
        let number = entry.member(name)?;
        match number.number::<u32>()? {
            Some(value) if value > most => {
                Err(number.refuse(format_args!("{value} is above {most}")))
            }
            Some(value) => Ok(u64::from(value)),
            None if kind == SFlag::S_IFIFO => Ok(0),
            None => Err(number.refuse("it is missing")),
        }
    };
    let mode = entry.member("fileMode")?.number::<u32>()?;
    Ok(Node {
        path: text.to_owned(),
        kind,
        number: makedev(number("major", 0xfff)?, number("minor", 0xf_ffff)?),
        // The kind of file may be in it, as in stat(2).
        mode: mode.unwrap_or(0o666) & 0o7777,
        uid: entry.member("uid")?.number()?.unwrap_or(0),
        gid: entry.member("gid")?.number()?.unwrap_or(0),
    })
}
