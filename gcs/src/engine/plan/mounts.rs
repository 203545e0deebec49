//! `mounts`.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use super::{settings, Options};
use crate::engine::json::At;

#[derive(Debug)]
pub struct Mount {
    /// `mounts[3]`, for errors.
    pub member: String,
    /// Absolute, in the container.
    pub destination: String,
    pub kind: MountKind,
    pub options: Options,
}

#[derive(Debug, PartialEq, Eq)]
pub enum MountKind {
    /// A part of the VM's own tree; absolute.
    Bind { source: CString, recursive: bool },
    /// A new one of this type.
    FileSystem { kind: CString, source: CString },
    /// The container's own control groups.
    Groups,
    /// A change of what an earlier entry has mounted.
    Again,
}

impl std::fmt::Display for Mount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: mount {}", self.member, self.destination)
    }
}

impl Mount {
    pub fn is_read_only(&self) -> bool {
        self.options.own.set & super::READ_ONLY.set != 0
    }
}

/// The mounts in their order; a root without one at `/dev` gets the usual one, since an image may
/// have anything there.
pub fn all(top: &At<'_>, bundle: &Path) -> Result<Vec<Mount>, String> {
    let list = top.member("mounts")?;
    let mut mounts = Vec::new();
    for entry in list.list()? {
        mounts.push(mount(&entry, bundle)?);
    }
    if !mounts.iter().any(|mount| mount.destination == "/dev") {
        mounts.insert(0, device_directory());
    }
    Ok(mounts)
}

fn device_directory() -> Mount {
    let mut options = Options::default();
    for option in ["nosuid", "strictatime", "mode=755", "size=65536k"] {
        options.add(option).expect("all four are known");
    }
    Mount {
        member: "the device directory".into(),
        destination: "/dev".into(),
        kind: MountKind::FileSystem {
            kind: c"tmpfs".into(),
            source: c"tmpfs".into(),
        },
        options,
    }
}

fn mount(entry: &At<'_>, bundle: &Path) -> Result<Mount, String> {
    let destination = place(&entry.member("destination")?)?;
    for mapping in ["uidMappings", "gidMappings"] {
        settings::nothing(&entry.member(mapping)?, "user namespaces are not made here")?;
    }
    let mut options = Options::default();
    let list = entry.member("options")?;
    for option in list.list()? {
        options
            .add(option.text()?)
            .map_err(|why| option.refuse(why))?;
    }
    let kind = entry.member("type")?;
    let source = entry.member("source")?;
    let kind = match (kind.text()?, options.bind, options.remount) {
        (_, _, true) => MountKind::Again,
        ("bind", bind, _) => bound(&source, bundle, bind.unwrap_or(false))?,
        (_, Some(recursive), _) => bound(&source, bundle, recursive)?,
        ("cgroup" | "cgroup2", ..) => MountKind::Groups,
        ("", ..) => return Err(kind.refuse("it is missing, and the options do not say bind")),
        (text, ..) => MountKind::FileSystem {
            kind: settings::c_string(&kind)?,
            // Where it means nothing, it shows in lists of mounts.
            source: match source.text()? {
                "" => CString::new(text).unwrap_or_default(),
                _ => settings::c_string(&source)?,
            },
        },
    };
    if matches!(kind, MountKind::Bind { .. }) && !options.data.is_empty() {
        // As runc: they would be for a file system, and there is none to be made.
        options.data.clear();
    }
    Ok(Mount {
        member: entry.to_string(),
        destination,
        kind,
        options,
    })
}

fn bound(source: &At<'_>, bundle: &Path, recursive: bool) -> Result<MountKind, String> {
    let text = source.text()?;
    if text.is_empty() {
        return Err(source.refuse("a bind mount needs one"));
    }
    let path: PathBuf = bundle.join(text);
    Ok(MountKind::Bind {
        source: CString::new(path.into_os_string().into_encoded_bytes())
            .map_err(|_| source.refuse("it holds a NUL"))?,
        recursive,
    })
}

/// The destination without what says nothing. Links in it are only known in the container.
fn place(destination: &At<'_>) -> Result<String, String> {
    let mut path = String::new();
    for part in destination.text()?.split('/') {
        match part {
            "" | "." => {}
            // As securejoin: there is nothing above the root.
            ".." => path.truncate(path.rfind('/').unwrap_or(0)),
            part => {
                path.push('/');
                path.push_str(part);
            }
        }
    }
    if path.is_empty() {
        return Err(destination.refuse("it is missing, or the root itself"));
    }
    Ok(path)
}
