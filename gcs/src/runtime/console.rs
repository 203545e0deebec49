//! The standard streams of a process in the helper's hands: pipes that are given to its user,
//! or the terminal that the engine makes.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::unistd::{fchown, Uid};
use serde_json::Value;

use super::state::failed;
use crate::error::Failure;
use crate::sys::{channel, fds};

/// Gives the pipes of fds 0 to 2 to the process's user, so that it can reopen them by
/// `/dev/stdout` and the like.
pub(super) fn own_stdio(process: &Value, linux: &Value) -> Result<(), Failure> {
    let uid = user(process, linux)?;
    let null = fs::metadata("/dev/null").map(|meta| meta.rdev()).ok();
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    for fd in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
        let meta = fd
            .try_clone_to_owned()
            .and_then(|fd| File::from(fd).metadata())
            .map_err(|e| Failure::unspecified(format!("look at a standard stream: {e}")))?;
        // /dev/null is everybody's.
        if meta.uid() == uid.as_raw()
            || (meta.file_type().is_char_device() && Some(meta.rdev()) == null)
        {
            continue;
        }
        if let Err(e) = fchown(fd, Some(uid), None) {
            // Not every kind of file has an owner that can change.
            log::warn!("give a standard stream to {uid}: {e}");
        }
    }
    Ok(())
}

/// The socket on which the engine hands over the pty master.
pub(super) struct Console {
    pub path: PathBuf,
    listener: UnixListener,
}

impl Console {
    pub fn listen(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join("console.sock");
        // By way of the directory's fd, for a socket address holds 107 bytes only.
        let at = File::open(dir).map_err(|e| failed("open", dir, &e))?;
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/console.sock", at.as_raw_fd()))
            .map_err(|e| failed("listen at", &path, &e))?;
        Ok(Self { path, listener })
    }

    /// The master, its terminal given to the process's user.
    pub fn master(self, process: &Value) -> Result<OwnedFd, Failure> {
        let problem = |doing: &str, e: std::io::Error| {
            Failure::unspecified(format!("{doing} the terminal of the process: {e}"))
        };
        // The engine has connected and sent by now, else it had failed.
        let (stream, _) = self.listener.accept().map_err(|e| problem("accept", e))?;
        let mut received = Vec::new();
        channel::receive(stream.as_fd(), &mut [0; 64], &mut received)
            .map_err(|e| problem("receive", e.into()))?;
        let master = received
            .pop()
            .ok_or_else(|| problem("receive", std::io::ErrorKind::InvalidData.into()))?;
        let uid = user(process, &Value::Null)?;
        let peer = fds::pty_peer(&master).map_err(|e| problem("open", e))?;
        fchown(&peer, Some(uid), None).map_err(|e| problem("give away", e.into()))?;
        if let Some(size) = process.get("consoleSize") {
            let number = |name: &str| size[name].as_u64().and_then(|n| u16::try_from(n).ok());
            if let (Some(rows), Some(columns)) = (number("height"), number("width")) {
                fds::resize(&master, rows, columns).map_err(|e| problem("resize", e))?;
            }
        }
        Ok(master)
    }
}

/// The process's user as the UVM counts them.
fn user(process: &Value, linux: &Value) -> Result<Uid, Failure> {
    let inside = process["user"]["uid"].as_u64().unwrap_or(0);
    let mapped = linux["uidMappings"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|map| {
            let first = map["containerID"].as_u64()?;
            let offset = inside.checked_sub(first)?;
            (offset < map["size"].as_u64()?).then_some(map["hostID"].as_u64()? + offset)
        })
        .unwrap_or(inside);
    u32::try_from(mapped)
        .map(Uid::from_raw)
        .map_err(|_| Failure::unspecified(format!("process.user.uid {inside} is no user id")))
}
