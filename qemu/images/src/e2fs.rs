//! Debian's e2fsprogs: they make the scratch disks, which are ext4.

use std::ffi::{OsStr, OsString};
use std::process::{Command, Stdio};

use super::error::{OciError, Result};

/// Runs a tool of e2fsprogs. Any complaint is a failure: debugfs exits with 0 after errors.
pub fn run<'a>(
    tool: &'static str,
    what: &str,
    args: impl IntoIterator<Item = &'a OsStr>,
) -> Result<()> {
    let failed = |why: String| OciError::Tool {
        tool,
        doing: format!("making a disk of {what}"),
        why,
    };
    let done = Command::new(tool)
        .args(args)
        .env("PATH", tool_path())
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => failed("is not installed (Debian: e2fsprogs)".into()),
            _ => failed(format!("could not be started: {e}")),
        })?;
    let stderr = String::from_utf8_lossy(&done.stderr);
    let complaint = stderr.lines().find(|line| {
        let banner = line.starts_with(tool) && line.ends_with(')');
        !line.trim().is_empty() && !banner
    });
    match (complaint, done.status.success()) {
        (None, true) => Ok(()),
        (Some(complaint), _) => Err(failed(format!("says: {complaint}"))),
        (None, false) => Err(failed(format!("ended with {}", done.status))),
    }
}

/// Where e2fsprogs are, also for users whose PATH leaves `sbin` out.
pub fn tool_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}
