//! New limits for a container that runs (protocol 7.10): OCI `linux.resources` to files of its
//! control groups, in v1 and v2.
//!
//! ```text
//! LinuxResources ─ plan (pure but for what the files say now) ─▶ writes ─ apply ─▶ kernel
//! ```
//!
//! Holds: what is not given stays as it is, and so do the device rules, which a host sends back
//! with all the rest; what cannot be applied is an error with the kernel's reason, after which
//! the values written before it are what they were.

mod block;
mod memory;
mod plan;

use std::fs;
use std::path::PathBuf;

use oci_spec::runtime::LinuxResources;
use serde::Deserialize;
use serde_json::Value;

use super::Group;
use crate::error::Failure;
use crate::prot::HResult;
use plan::{plan, Write};

/// Blocks while the kernel reclaims memory: run it in a task.
pub(super) fn apply(group: &Group, document: &Value) -> Result<(), Failure> {
    let resources = parse(document)?;
    let path = |controller: &str, file: &str| Some(group.controller(controller)?.join(file));
    let now = |controller: &str, file: &str| fs::read_to_string(path(controller, file)?).ok();
    if !group.exists() {
        return Err(Failure::unspecified(
            "the container has no control group; it may have been deleted",
        ));
    }
    let version = if group.unified().is_some() { 2 } else { 1 };
    let plan = plan(version == 2, &resources, &now).map_err(Failure::unspecified)?;
    let mut undo: Vec<(PathBuf, String)> = Vec::new();
    for write in &plan {
        let missing = || {
            Failure::unspecified(format!(
                "linux.resources.{}: there is no {} in cgroup v{version} of this kernel",
                write.member, write.file
            ))
        };
        let done = path(write.controller, &write.file)
            .filter(|path| path.exists())
            .ok_or_else(missing)
            .and_then(|path| {
                // Files with a line per device are the last ones, and need no way back.
                if let Some(old) = now(write.controller, &write.file) {
                    if old.lines().count() == 1 {
                        undo.push((path.clone(), old));
                    }
                }
                fs::write(&path, &write.value).map_err(|e| Failure::unspecified(refused(write, &e)))
            });
        if let Err(failure) = done {
            for (path, old) in undo.iter().rev() {
                if let Err(e) = fs::write(path, old) {
                    log::warn!("set {} back: {e}", path.display());
                }
            }
            return Err(failure);
        }
    }
    Ok(())
}

fn parse(document: &Value) -> Result<LinuxResources, Failure> {
    let mut document = document.clone();
    if let Some(members) = document.as_object_mut() {
        members.remove("devices");
    }
    LinuxResources::deserialize(document)
        .map_err(|e| Failure::new(HResult::INVALID_JSON, format!("linux.resources: {e}")))
}

fn refused(write: &Write, e: &std::io::Error) -> String {
    let hint = match (write.file.as_str(), e.raw_os_error()) {
        ("memory.limit_in_bytes", Some(libc::EBUSY)) => "; the container uses more than that",
        ("memory.limit_in_bytes", Some(libc::EINVAL)) => {
            "; with cgroup v1 it must not be above memory.swap, which can be sent with it"
        }
        ("cpuset.cpus" | "cpuset.mems", Some(libc::EINVAL | libc::EACCES | libc::ERANGE)) => {
            "; the machine may have fewer"
        }
        _ => "",
    };
    format!(
        "linux.resources.{}: set {} to {:?}: {e}{hint}",
        write.member, write.file, write.value
    )
}

#[cfg(test)]
mod tests;
