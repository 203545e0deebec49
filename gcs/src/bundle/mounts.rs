//! Entries of `mounts` whose source names something of the pod or of the utility VM instead of a
//! path (5.5). Later hosts have added the last three forms.
//!
//! | source or destination | becomes |
//! |---|---|
//! | `sandbox://<path>` | directory of the pod, made when it is missing |
//! | `hugepages://<size>/<path>` | hugetlbfs of that page size, mounted when it is missing |
//! | `sandbox-tmp://<path>` | as `sandbox://`, in memory |
//! | `uvm://<path>` | the path in the utility VM |
//! | destination `blockdev://<path>` | a device node at that path |

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{json, Value};

use super::document::{list, text_at, Object};
use super::made::Made;
use super::{devices, inside, sandbox};
use crate::error::Failure;
use crate::storage::clean;

const BLOCK_DEVICE: &str = "blockdev://";

/// What is made for a source of the pod that does not exist.
#[derive(Clone, Copy)]
enum Missing {
    Directory,
    HugePages,
}

/// Prefix, directory below that of the sandbox, what is made there.
const OF_POD: [(&str, &str, Missing); 3] = [
    ("sandbox://", sandbox::MOUNTS, Missing::Directory),
    ("sandbox-tmp://", sandbox::TMPFS_MOUNTS, Missing::Directory),
    ("hugepages://", sandbox::HUGEPAGES, Missing::HugePages),
];
const OF_UVM: &str = "uvm://";

/// Whether a mount has this destination, however it is spelt.
pub(super) fn mounted(mounts: &[Value], destination: &str) -> bool {
    mounts
        .iter()
        .any(|mount| has_destination(mount, destination))
}

pub(super) fn has_destination(mount: &Value, destination: &str) -> bool {
    mount["destination"].as_str().is_some_and(|given| {
        // Destinations may lack the leading slash; they mean the same.
        clean(&Path::new("/").join(given)).is_ok_and(|path| path == Path::new(destination))
    })
}

pub(super) fn bind(destination: &str, source: &Path, read_only: bool) -> Value {
    let options: &[&str] = if read_only {
        &["bind", "ro"]
    } else {
        &["bind"]
    };
    json!({
        "destination": destination,
        "type": "bind",
        "source": source.to_string_lossy(),
        "options": options,
    })
}

/// Turns every source with a prefix of [`OF_POD`] or [`OF_UVM`] into a path.
pub(super) fn resolve_sources(
    mounts: &mut [Value],
    pod: &Path,
    made: &mut Made,
) -> Result<(), Failure> {
    // Everything that can be wrong with the document is checked before the first directory is made.
    let mut found = Vec::new();
    for (index, mount) in mounts.iter_mut().enumerate() {
        let source = text_at(mount, &format!("mounts[{index}]"), "source")?;
        if let Some(path) = source.strip_prefix(OF_UVM) {
            let path = clean(&Path::new("/").join(path)).map_err(|e| refused(source, &e))?;
            mount["source"] = path.to_string_lossy().into();
            continue;
        }
        let form = OF_POD
            .iter()
            .find_map(|(prefix, dir, missing)| Some((source.strip_prefix(prefix)?, dir, missing)));
        if let Some((path, dir, missing)) = form {
            let base = pod.join(dir);
            let below = below(&base, path).map_err(|why| refused(source, &why))?;
            let page_size = match missing {
                Missing::Directory => None,
                Missing::HugePages => Some(page_size(&below).map_err(|why| refused(source, &why))?),
            };
            found.push((index, base, below, page_size));
        }
    }
    for (index, base, below, page_size) in found {
        let path = make(&base, &below, page_size.as_deref(), made).map_err(|failure| {
            failure.during(format_args!("mount source {}", mounts[index]["source"]))
        })?;
        mounts[index]["source"] = path.to_string_lossy().into();
    }
    Ok(())
}

fn refused(source: &str, why: &dyn std::fmt::Display) -> Failure {
    Failure::unspecified(format!("mount source {source:?}: {why}"))
}

/// The path below `base`, resolved textually, component by component (P-114).
pub(super) fn below(base: &Path, path: &str) -> Result<PathBuf, String> {
    // The path is appended, because `join` would start anew at a leading slash.
    let whole = format!("{}/{path}", base.display());
    let whole = clean(Path::new(&whole)).map_err(|e| e.to_string())?;
    whole
        .strip_prefix(base)
        .map(Path::to_path_buf)
        .map_err(|_| format!("it leads out of {}", base.display()))
}

/// The first component, which becomes a mount option.
fn page_size(below: &Path) -> Result<String, String> {
    let size = below
        .components()
        .next()
        .map(|first| first.as_os_str().to_string_lossy().into_owned())
        .unwrap_or_default();
    let digits = size.trim_end_matches(['K', 'M', 'G', 'k', 'm', 'g']);
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if plain && size.len() - digits.len() <= 1 {
        Ok(size)
    } else {
        Err("it has to begin with a page size, as in hugepages://2M/name".into())
    }
}

/// Makes what is missing at `below` in `base`. Containers may write there, so no link is followed
/// out of it.
fn make(
    base: &Path,
    below: &Path,
    page_size: Option<&str>,
    made: &mut Made,
) -> Result<PathBuf, Failure> {
    made.directories(base, 0o755)?;
    let failed = |e: io::Error| super::made::failed("use", &base.join(below), &e);
    if let Some(there) = inside::real_path(base, below).map_err(failed)? {
        return Ok(there);
    }
    let mut new = Vec::new();
    let done = inside::make_directories(base, below, 0o777, &mut new);
    new.into_iter().for_each(|path| made.made_directory(path));
    let path = done.map_err(failed)?;
    if let Some(size) = page_size {
        made.file_system("hugetlbfs", &path, &format!("pagesize={size}"))?;
    }
    Ok(path)
}

/// Replaces each mount with a destination `blockdev://<path>` by the device that its source leads
/// to, at that path.
pub(super) fn block_devices(top: &mut Object) -> Result<(), Failure> {
    let mounts = list(top, "mounts")?;
    let mut found = Vec::new();
    for (index, mount) in mounts.iter().enumerate() {
        let at = format!("mounts[{index}]");
        if let Some(path) = text_at(mount, &at, "destination")?.strip_prefix(BLOCK_DEVICE) {
            let source = text_at(mount, &at, "source")?.to_owned();
            let options = mount["options"].as_array().into_iter().flatten();
            let read_only = options.into_iter().any(|option| option == "ro");
            found.push((path.to_owned(), source, read_only));
        }
    }
    mounts.retain(|mount| {
        !mount["destination"]
            .as_str()
            .is_some_and(|destination| destination.starts_with(BLOCK_DEVICE))
    });
    for (path, source, read_only) in found {
        let node = devices::block_device(Path::new(&source))
            .map_err(|failure| failure.during(format_args!("block device for {path:?}")))?;
        let access = if read_only { "r" } else { "rwm" };
        devices::add(top, &node.at(path.into()), access)?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "mounts_tests.rs"]
mod tests;
