//! The record of a container between the helper's runs, and what needs no engine.
//!
//! ```text
//! <state>/<id>/config.json      what the engine reads (normalised)
//!              init.json        pid and start time of init
//!              exec.fifo        init writes here why its program cannot be executed
//!              started          exists once start was asked for
//!              <id>/notify.sock the engine's start socket
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Roots;
use crate::error::Failure;
use crate::prot::HResult;
use crate::sys::pidfd;

#[cfg(feature = "engine")]
pub(super) const CONFIG: &str = "config.json";
pub(super) const INIT: &str = "init.json";
pub(super) const FIFO: &str = "exec.fifo";
const STARTED: &str = "started";

/// From start to `execve` there is nothing to wait for but a slow disk.
const START: Duration = Duration::from_secs(60);

/// Init as it was after create; the start time tells it from a later process of that pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Init {
    pub pid: i32,
    pub start_time: u64,
}

impl Init {
    #[cfg_attr(not(feature = "engine"), allow(dead_code))] // only the helper creates
    pub fn record(pid: i32, dir: &Path) -> Result<(), Failure> {
        let start_time = stat(pid).map_or(0, |stat| stat.start_time);
        let text = serde_json::to_vec(&Self { pid, start_time })
            .map_err(|e| Failure::unspecified(format!("encode {INIT}: {e}")))?;
        let path = dir.join(INIT);
        fs::write(&path, text).map_err(|e| failed("write", &path, &e))
    }

    pub fn load(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(dir.join(INIT)).ok()?).ok()
    }

    /// Exists and is no zombie.
    pub fn runs(self) -> bool {
        stat(self.pid)
            .is_some_and(|now| now.start_time == self.start_time && !matches!(now.state, 'Z' | 'X'))
    }
}

struct Stat {
    state: char,
    start_time: u64,
}

/// Fields 3 and 22 of `/proc/<pid>/stat` (proc(5)); the name before them may hold anything.
fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    let start_time = fields.nth(18)?.parse().ok()?;
    Some(Stat { state, start_time })
}

pub(super) fn start(roots: &Roots, id: &str) -> Result<(), Failure> {
    let doing = || format!("start container {id}");
    let dir = roots.container(id);
    if !dir.is_dir() {
        return Err(Failure::new(
            HResult::SYSTEM_NOT_FOUND,
            format!("container {id} does not exist"),
        ));
    }
    // Before the start: a program that fails to execute at once must find a reader.
    let fifo_path = dir.join(FIFO);
    let mut fifo = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&fifo_path)
        .map_err(|e| failed("open", &fifo_path, &e).during(doing()))?;

    // By way of the directory's fd, for a socket address holds 107 bytes only.
    let socket_dir = dir.join(id);
    let at =
        File::open(&socket_dir).map_err(|e| failed("open", &socket_dir, &e).during(doing()))?;
    let socket = format!("/proc/self/fd/{}/notify.sock", at.as_raw_fd());
    #[allow(clippy::disallowed_methods)] // a local socket, and this runs in a task
    let mut stream = UnixStream::connect(socket).map_err(|e| match e.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::NotFound => Failure::new(
            HResult::INVALID_STATE,
            format!("{}: it was started before, or its init is gone", doing()),
        ),
        _ => Failure::unspecified(format!("{}: reach its init: {e}", doing())),
    })?;
    let started = dir.join(STARTED);
    fs::write(&started, "").map_err(|e| failed("write", &started, &e).during(doing()))?;
    stream
        .write_all(b"start")
        .map_err(|e| Failure::unspecified(format!("{}: tell its init: {e}", doing())))?;
    drop(stream);

    // Init holds the only write end, close-on-exec: its closing is the execve.
    let deadline = Instant::now() + START;
    let mut error = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let ready = pidfd::readable(&fifo, left)
            .map_err(|e| Failure::unspecified(format!("{}: wait for its init: {e}", doing())))?;
        if !ready {
            return Err(Failure::unspecified(format!(
                "{}: its program was not executed within {} s",
                doing(),
                START.as_secs()
            )));
        }
        match fifo.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => error.extend_from_slice(&chunk[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(e) => return Err(failed("read", &fifo_path, &e).during(doing())),
        }
    }
    if error.is_empty() {
        Ok(())
    } else {
        let text = String::from_utf8_lossy(&error);
        Err(Failure::unspecified(format!("{}: {text}", doing())))
    }
}

pub(super) fn delete(roots: &Roots, id: &str) -> Result<(), Failure> {
    let dir = roots.container(id);
    let runs = Init::load(&dir).is_some_and(Init::runs);
    if runs && dir.join(STARTED).exists() {
        return Err(Failure::new(
            HResult::INVALID_STATE,
            format!("container {id} is still running; end it first"),
        ));
    }
    purge(roots, id)
}

pub(super) fn purge(roots: &Roots, id: &str) -> Result<(), Failure> {
    let dir = roots.container(id);
    // By pid first: without a cgroup (create failed early) nothing else finds it.
    if let Some(init) = Init::load(&dir).filter(|init| init.runs()) {
        pidfd::kill(init.pid, libc::SIGKILL)
            .map_err(|e| Failure::unspecified(format!("kill init {} of {id}: {e}", init.pid)))?;
    }
    roots
        .cgroup(id)
        .destroy()
        .map_err(|f| f.during(format_args!("remove the cgroup of container {id}")))?;
    match fs::remove_dir_all(&dir) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed("remove", &dir, &e)),
    }
}

pub(super) fn failed(doing: &str, path: &Path, e: &std::io::Error) -> Failure {
    Failure::unspecified(format!("{doing} {}: {e}", path.display()))
}
