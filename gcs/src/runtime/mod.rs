//! Containers as processes: create, start, exec, signal, list, delete.
//!
//! ```text
//! PID 1 ── Order (memfd) ──▶ helper `gcs-oci` ── libcontainer ──▶ init, waiting for start
//!       ◀─ Report + pty ────        exits          init becomes a child of PID 1
//! PID 1 ── start, signal_all, pids, delete (plain blocking functions, in forked tasks)
//! ```
//!
//! The engine runs only in the helper: it blocks without deadlines, changes process-wide
//! state and forks with everything its caller has open. All the rest is a few files and
//! needs no engine, so it is here without one.
//!
//! A failed create leaves no process, cgroup or state. A container process has exactly the file
//! descriptors 0, 1 and 2, default signal dispositions and an empty mask.

pub(crate) mod cgroup;
#[cfg(feature = "engine")]
mod console;
pub(crate) mod constraints;
#[cfg(any(feature = "engine", test))]
mod devices;
#[cfg(feature = "engine")]
mod engine;
#[cfg(feature = "engine")]
mod executor;
#[cfg(any(feature = "engine", test))]
mod normal;
mod state;
pub(crate) mod statistics;
#[cfg(feature = "engine")]
mod trace;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Failure;
use crate::prot::stats::Metrics;

#[cfg(feature = "engine")]
pub use engine::applet;

/// argv[0] under which the binary is the engine helper.
pub const APPLET: &str = "gcs-oci";
/// The helper's fd with the JSON [`Order`], read from offset 0 to its end.
pub const ORDER_FD: i32 = 3;
/// The helper's `SOCK_SEQPACKET` socket for its one [`Report`]. Of an exec a blank comes first,
/// with a pidfd of the new process: should there be no report, the reader kills it.
pub const REPORT_FD: i32 = 4;
/// Longest report datagram in bytes.
pub const REPORT_MAX: usize = 60 * 1024;

/// What the helper is to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Order {
    /// Make the container of `<bundle>/config.json` and leave its init waiting for
    /// [`start`]. With `terminal` the report carries the pty master.
    Create {
        id: String,
        bundle: PathBuf,
        terminal: bool,
    },
    /// Run `process` (an OCI process object) in the container.
    Exec {
        id: String,
        process: Value,
        terminal: bool,
    },
    /// As [`delete`], for callers that are at the helper anyway.
    Delete { id: String },
}

/// How it went. The pid is that of the new process in the UVM's pid namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    Done { pid: Option<i32> },
    Failed(Failure),
}

/// Where state and cgroups are; tests move them.
#[derive(Debug, Clone)]
pub struct Roots {
    /// One directory per container: engine configuration, start socket, record of init.
    pub state: PathBuf,
    /// Mount point of cgroup v2, or of the directory with the v1 hierarchies.
    pub cgroup: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            state: PathBuf::from("/run/gcs/runtime"),
            cgroup: PathBuf::from("/sys/fs/cgroup"),
        }
    }
}

impl Roots {
    /// `<state>/<id>`.
    pub(crate) fn container(&self, id: &str) -> PathBuf {
        self.state.join(id)
    }

    fn cgroup(&self, id: &str) -> cgroup::Group {
        cgroup::Group::open(&self.cgroup, &Path::new("containers").join(id))
    }

    /// Lets the created container's program run; returns once it has been executed, or with
    /// why it could not be.
    pub fn start(&self, id: &str) -> Result<(), Failure> {
        state::start(self, id)
    }

    /// Sends `signal` to every process of the container, also to those it forks meanwhile.
    /// Success when there is none left (P-208).
    pub fn signal_all(&self, id: &str, signal: i32) -> Result<(), Failure> {
        self.cgroup(id).signal_all(signal)
    }

    /// The processes of the container, as pids of the caller's pid namespace, ascending.
    pub fn pids(&self, id: &str) -> Result<Vec<i32>, Failure> {
        self.cgroup(id).pids()
    }

    /// What the control groups of the container count (protocol 4.9.1).
    pub fn statistics(&self, id: &str) -> Result<Metrics, Failure> {
        statistics::collect(&self.cgroup(id))
    }

    /// Changes the limits that `resources` names, leaves the others and the device rules.
    pub fn constrain(&self, id: &str, resources: &Value) -> Result<(), Failure> {
        constraints::apply(&self.cgroup(id), resources)
    }

    /// Removes a container whose init exited or was never started; kills what is left of it.
    /// `INVALID_STATE` while its started init runs (P-230), success when nothing is there.
    pub fn delete(&self, id: &str) -> Result<(), Failure> {
        state::delete(self, id)
    }

    /// As [`Self::delete`], whatever runs: the undo of a create that failed or was killed.
    pub fn purge(&self, id: &str) -> Result<(), Failure> {
        state::purge(self, id)
    }
}

/// [`Roots::start`] of the default roots.
pub fn start(id: &str) -> Result<(), Failure> {
    Roots::default().start(id)
}

/// [`Roots::signal_all`] of the default roots.
pub fn signal_all(id: &str, signal: i32) -> Result<(), Failure> {
    Roots::default().signal_all(id, signal)
}

/// [`Roots::pids`] of the default roots.
pub fn pids(id: &str) -> Result<Vec<i32>, Failure> {
    Roots::default().pids(id)
}

/// [`Roots::statistics`] of the default roots.
pub fn statistics(id: &str) -> Result<Metrics, Failure> {
    Roots::default().statistics(id)
}

/// [`Roots::constrain`] of the default roots.
pub fn constrain(id: &str, resources: &Value) -> Result<(), Failure> {
    Roots::default().constrain(id, resources)
}

/// [`Roots::delete`] of the default roots.
pub fn delete(id: &str) -> Result<(), Failure> {
    Roots::default().delete(id)
}

/// [`Roots::purge`] of the default roots.
pub fn purge(id: &str) -> Result<(), Failure> {
    Roots::default().purge(id)
}
