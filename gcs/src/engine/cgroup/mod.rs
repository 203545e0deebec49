//! The cgroup of one container, in v2 (one directory) or v1 (one per hierarchy).
//!
//! Killing goes by membership, not by process tree: a double fork cannot hide from it.

mod entrance;
mod limits;
mod statistics;

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::Failure;
use crate::prot::stats::Metrics;
use crate::sys::pidfd;

pub use entrance::{make, Entrance};

/// How long killed processes may take to be gone; longer means a task stuck in the kernel.
const GONE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Group {
    mount: PathBuf,
    /// v2: exactly one. v1: one per hierarchy that has the group.
    dirs: Vec<PathBuf>,
    v2: bool,
}

impl Group {
    /// The group at `path` (relative) below the cgroup mount; it need not exist.
    pub fn open(mount: &Path, path: &Path) -> Self {
        if is_v2(mount) {
            return Self {
                mount: mount.to_owned(),
                dirs: vec![mount.join(path)],
                v2: true,
            };
        }
        let mut dirs: Vec<PathBuf> = fs::read_dir(mount)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            // `cpu -> cpu,cpuacct` and the like name the same hierarchy twice.
            .filter(|dir| !dir.is_symlink())
            .map(|dir| dir.join(path))
            .filter(|dir| dir.join("cgroup.procs").exists())
            .collect();
        dirs.sort();
        Self {
            mount: mount.to_owned(),
            dirs,
            v2: false,
        }
    }

    /// Where the hierarchies are mounted.
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// Whether there is anything of it.
    pub fn exists(&self) -> bool {
        self.dirs.iter().any(|dir| dir.is_dir())
    }

    /// The directory with the files of `controller`, by the name it has in `/proc/cgroups`.
    pub fn controller(&self, controller: &str) -> Option<&Path> {
        if self.v2 {
            return self.unified();
        }
        // Hierarchies of several are mounted as `cpu,cpuacct`.
        let of = |dir: &&PathBuf| {
            let below = dir.strip_prefix(&self.mount).ok();
            let hierarchy = below.and_then(|path| path.iter().next()?.to_str());
            hierarchy.is_some_and(|names| names.split(',').any(|name| name == controller))
        };
        self.dirs.iter().find(of).map(PathBuf::as_path)
    }

    /// The directory of v2; `None` in v1.
    pub fn unified(&self) -> Option<&Path> {
        self.dirs.first().filter(|_| self.v2).map(PathBuf::as_path)
    }

    /// Changes the limits that `resources` (OCI `linux.resources`) names, leaves the others and
    /// the device rules. Blocks while the kernel reclaims memory.
    pub fn constrain(&self, resources: &Value) -> Result<(), Failure> {
        limits::apply(self, resources)
    }

    /// What it counts (protocol 4.9.1).
    pub fn statistics(&self) -> Result<Metrics, Failure> {
        statistics::collect(self)
    }

    /// Every process in it or in a group below it.
    pub fn pids(&self) -> Result<Vec<i32>, Failure> {
        let mut pids = BTreeSet::new();
        for dir in &self.dirs {
            collect(dir, &mut pids)?;
        }
        Ok(pids.into_iter().collect())
    }

    pub fn signal_all(&self, signal: i32) -> Result<(), Failure> {
        if signal == libc::SIGKILL {
            if let Some(kill) = self.unified().map(|dir| dir.join("cgroup.kill")) {
                match fs::write(&kill, "1") {
                    Ok(()) => return Ok(()),
                    // Not there: the group is gone, or the kernel is older than 5.14.
                    Err(e) if e.kind() == ErrorKind::NotFound => {}
                    Err(e) => return Err(failed("write", &kill, &e)),
                }
            }
            self.thaw();
        }
        // A process may fork between the reading and the signal: until nobody new shows up.
        let mut done = BTreeSet::new();
        loop {
            let new: Vec<i32> = self
                .pids()?
                .into_iter()
                .filter(|pid| done.insert(*pid))
                .collect();
            if new.is_empty() {
                return Ok(());
            }
            for pid in new {
                pidfd::kill(pid, signal).map_err(|e| {
                    Failure::unspecified(format!("send signal {signal} to {pid}: {e}"))
                })?;
            }
        }
    }

    /// A frozen process of v1 does not even die.
    fn thaw(&self) {
        for dir in &self.dirs {
            let state = dir.join("freezer.state");
            if state.exists() {
                if let Err(e) = fs::write(&state, "THAWED") {
                    log::warn!("thaw {}: {e}", dir.display());
                }
            }
        }
    }

    /// Kills all members, waits until they are gone and removes the group.
    pub fn destroy(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + GONE;
        loop {
            let pids = self.pids()?;
            if pids.is_empty() {
                break;
            }
            self.signal_all(libc::SIGKILL)?;
            for pid in &pids {
                let left = deadline.saturating_duration_since(Instant::now());
                let gone = pidfd::wait_exit(*pid, left)
                    .map_err(|e| Failure::unspecified(format!("wait for process {pid}: {e}")))?;
                if !gone {
                    return Err(Failure::unspecified(format!(
                        "process {pid} is still there {} s after SIGKILL; it is stuck in the kernel",
                        GONE.as_secs()
                    )));
                }
            }
        }
        for dir in &self.dirs {
            remove(dir, deadline)?;
        }
        Ok(())
    }
}

/// The hierarchies of v1 in which the engine makes a group for each container; none in v2.
pub(crate) fn hierarchies(mount: &Path) -> Vec<String> {
    /// By their names in `/proc/cgroups`.
    const MANAGED: [&str; 12] = [
        "blkio",
        "cpu",
        "cpuacct",
        "cpuset",
        "devices",
        "freezer",
        "hugetlb",
        "memory",
        "net_cls",
        "net_prio",
        "perf_event",
        "pids",
    ];
    if is_v2(mount) {
        return Vec::new();
    }
    let entries = fs::read_dir(mount).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|names| names.split(',').any(|name| MANAGED.contains(&name)))
        .collect();
    names.sort();
    names
}

/// Whether cgroup v2 is mounted at `mount`.
pub(crate) fn is_v2(mount: &Path) -> bool {
    mount.join("cgroup.controllers").exists()
}

fn collect(dir: &Path, pids: &mut BTreeSet<i32>) -> Result<(), Failure> {
    let procs = dir.join("cgroup.procs");
    match fs::read_to_string(&procs) {
        Ok(text) => pids.extend(
            text.lines()
                .filter_map(|line| line.parse::<i32>().ok())
                .filter(|pid| *pid > 0),
        ),
        // ENODEV: removed between open and read. EOPNOTSUPP: a threaded group of v2; its
        // processes are listed by the group above.
        Err(e) if gone(&e) || e.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(e) => return Err(failed("read", &procs, &e)),
    }
    for below in subgroups(dir) {
        collect(&below, pids)?;
    }
    Ok(())
}

fn subgroups(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn remove(dir: &Path, deadline: Instant) -> Result<(), Failure> {
    for below in subgroups(dir) {
        remove(&below, deadline)?;
    }
    loop {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(e) if gone(&e) => return Ok(()),
            // The last member has exited but the kernel has not yet taken it off the group.
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                pidfd::pause(Duration::from_millis(1));
            }
            Err(e) => return Err(failed("remove", dir, &e)),
        }
    }
}

fn gone(e: &std::io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

fn failed(doing: &str, path: &Path, e: &std::io::Error) -> Failure {
    Failure::unspecified(format!("{doing} {}: {e}", path.display()))
}
