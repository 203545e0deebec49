//! What is small: names, labels, masked paths, sysctls, the personality.

use std::ffi::CString;

use nix::sched::CloneFlags;

use super::Namespaces;
use crate::engine::json::At;

/// One kernel setting of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// The member, for errors.
    pub member: String,
    /// Below `/proc/sys`.
    pub path: String,
    pub value: String,
}

pub fn c_string(text: &At<'_>) -> Result<CString, String> {
    CString::new(text.text()?).map_err(|_| text.refuse("it holds a NUL"))
}

/// A label that nothing would enforce is refused, not forgotten.
pub fn unlabelled(label: &At<'_>, module: &str) -> Result<(), String> {
    match label.text()? {
        "" => Ok(()),
        text => Err(label.refuse(format_args!(
            "{text:?}: the kernel of this guest has no {module}"
        ))),
    }
}

/// A member that would have to be carried out and is not; empty ones say nothing.
pub fn nothing(at: &At<'_>, why: &str) -> Result<(), String> {
    let empty = match at.value() {
        None => true,
        Some(value) => {
            value.as_array().is_some_and(Vec::is_empty)
                || value.as_object().is_some_and(serde_json::Map::is_empty)
        }
    };
    match empty {
        true => Ok(()),
        false => Err(at.refuse(why)),
    }
}

/// A host or domain name; it belongs to the UTS namespace.
pub fn name(name: &At<'_>, namespaces: &Namespaces) -> Result<String, String> {
    let text = name.text()?;
    if !text.is_empty() && !namespaces.has(CloneFlags::CLONE_NEWUTS) {
        return Err(name.refuse("it needs a uts namespace, or it would be the VM's"));
    }
    if text.len() > 64 {
        return Err(name.refuse("it is longer than 64 bytes"));
    }
    Ok(text.to_owned())
}

/// `maskedPaths` and `readonlyPaths`.
pub fn paths(list: &At<'_>) -> Result<Vec<String>, String> {
    let paths = list.list()?.map(|path| match path.text()? {
        text if text.starts_with('/') => Ok(text.to_owned()),
        text => Err(path.refuse(format_args!("{text:?} is no absolute path"))),
    });
    paths.collect()
}

/// Settings by namespace; all others are the VM's (as runc).
pub fn sysctls(map: &At<'_>, namespaces: &Namespaces) -> Result<Vec<Sysctl>, String> {
    let settings = map.members()?.map(|(name, value)| {
        let path = path_of(name);
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(value.refuse("it is no name of a setting"));
        }
        let kind = match path.as_str() {
            "kernel/hostname" => return Err(value.refuse("hostname sets it")),
            "kernel/domainname" => CloneFlags::CLONE_NEWUTS,
            "kernel/msgmax"
            | "kernel/msgmnb"
            | "kernel/msgmni"
            | "kernel/sem"
            | "kernel/shmall"
            | "kernel/shmmax"
            | "kernel/shmmni"
            | "kernel/shm_rmid_forced" => CloneFlags::CLONE_NEWIPC,
            path if path.starts_with("fs/mqueue/") => CloneFlags::CLONE_NEWIPC,
            path if path.starts_with("net/") => CloneFlags::CLONE_NEWNET,
            _ => return Err(value.refuse("it is a setting of the whole VM")),
        };
        if !namespaces.has(kind) {
            return Err(value.refuse("it needs a namespace of the container's own"));
        }
        Ok(Sysctl {
            member: value.to_string(),
            path,
            value: value.text()?.to_owned(),
        })
    });
    settings.collect()
}

/// `net.ipv4.ip_forward` or `net/ipv4/conf/eth0.1/forwarding` (sysctl(8)): whichever separator
/// comes first is the one that separates.
fn path_of(name: &str) -> String {
    match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'.') => {
            let swap = |c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            };
            name.chars().map(swap).collect()
        }
        _ => name.to_owned(),
    }
}

pub fn personality(personality: &At<'_>) -> Result<Option<u32>, String> {
    if personality.is_absent() {
        return Ok(None);
    }
    nothing(
        &personality.member("flags")?,
        "the specification has no flags",
    )?;
    let domain = personality.member("domain")?;
    match domain.text()? {
        "LINUX" => Ok(Some(0)),
        "LINUX32" => Ok(Some(8)),
        other => Err(domain.refuse(format_args!("{other:?} is neither LINUX nor LINUX32"))),
    }
}
