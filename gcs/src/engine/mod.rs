//! The container engine: from an OCI specification to processes.
//!
//! ```text
//! PID 1 ── task ─ plan ─ open what is the VM's ─ join ─ clone3 ─┐      the task ends
//!   ▲  │                                                         ▼
//!   │  └─────────── one byte: start ──────▶ init: name itself ─ set up ─ report ─ wait ─ execve
//!   └─ reaps it: it is PID 1's child, known by a pidfd before it does anything
//! ```
//!
//! [`plan`] is pure: all that can be refused is refused there, with the member named. `make` opens
//! what a container cannot see. `enter` is the new process: one step a line, and each failure
//! names the step, the object and the errno. No state is kept in files; the owner of a container
//! has its [`Container`], a pidfd and the socket at which its init waits.
//!
//! Holds: nothing outside a container's root is reached through it. Its mount namespace begins as
//! a copy of one with nothing of the VM in it (`bare`), its root and the sources of its mounts are
//! brought as descriptors, and every path in it is resolved from a descriptor of its root, where
//! links end (`enter::walk`). What its files, links, nodes and mounts are named never meets a
//! path of the VM.
//!
//! What a new process has of PID 1 until it executes:
//!
//! * Memory: that of its task, which ends at that moment and leaves it behind. This is a copy of
//!   PID 1's pages, which both share until one of them writes, and what the task has read of the
//!   specification. With hooks or a time namespace it is one more copy, and the task names it.
//! * Descriptors: those of its streams, the channel until it has reported, and the socket at which
//!   it waits. The task closes all others before it begins. An init closes what it has opened
//!   itself before it reports, because it may wait for hours.
//! * Nobody in a container can get at them. The task is not dumpable before it joins anything, and
//!   neither are its copies until `execve`: `/proc/PID/mem`, `exe`, `fd`, `root` and `environ` are
//!   open only to a process that may trace any other. In a pod that shares its pid namespace, a
//!   process with CAP_SYS_PTRACE may. It finds no descriptor of the VM, and an executable that it
//!   cannot write to because PID 1 runs it. A container with a pid namespace of its own never sees
//!   the task.
//!
//! [SPEC.md](SPEC.md) goes through the specification sentence by sentence, [ESCAPES.md](ESCAPES.md)
//! through the published holes of other runtimes.
mod bare;
pub mod cgroup;
pub mod devices;
mod enter;
mod fault;
mod hooks;
mod json;
mod make;
pub mod plan;
mod report;
pub mod seccomp;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Failure;
use fault::Step;

pub use bare::Bare;
pub use make::{Ends, Made};
pub use plan::{Capabilities, Plan, Process};
pub use report::{failed as report_failure, read_reason, Told, REASON_MAX};

/// Where the cgroup hierarchies are.
pub const CGROUPS: &str = "/sys/fs/cgroup";

/// What further processes of a container have from its plan.
#[derive(Debug, Serialize, Deserialize)]
pub struct Container {
    /// Relative to [`CGROUPS`].
    pub group: PathBuf,
    /// `CLONE_NEW…` of those that are not the VM's.
    namespaces: i32,
    capabilities: Capabilities,
    oom_score: i32,
    /// The compiled seccomp profile, as [`seccomp::Filter::keep`] gives it.
    #[serde(skip)]
    filter: Option<OwnedFd>,
}

impl Container {
    /// What later processes need of the plan that the container was made by.
    pub fn of(plan: &Plan) -> Result<Self, Failure> {
        let filter = plan.seccomp.as_ref().map(seccomp::Filter::keep);
        Ok(Self {
            group: plan.group.path.clone(),
            namespaces: plan.namespaces.all().bits(),
            capabilities: plan.process.capabilities.unwrap_or_default(),
            oom_score: plan.process.oom_score.unwrap_or(0),
            filter: filter.transpose().step(|| "keep the seccomp program")?,
        })
    }

    /// The descriptors that [`exec`] needs beside those of its ends.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.filter.iter().map(AsFd::as_fd)
    }
}

/// In a task: makes the container of `plan` up to where its init waits to be started, and tells so
/// over the channel of `ends`. Without `bare` it makes one and passes it on. `state` is what hooks
/// are given (runtime-spec, "State"), without the pid.
pub fn create(
    plan: &Plan,
    bare: Option<&Bare>,
    programs: &devices::Programs,
    state: &Value,
    ends: Ends<'_>,
) -> Result<(), Failure> {
    let new = match bare {
        Some(_) => None,
        None => Some(Bare::make()?),
    };
    let entrance = cgroup::make(Path::new(CGROUPS), &plan.group, programs)?;
    let ready = bare.or(new.as_ref()).expect("one is given or made");
    let container = Container::of(plan)?;
    let (made, task) = make::create(plan, &entrance, ready, ends, |made| {
        let container = Some((container, plan.warnings.as_slice()));
        report::made(ends.channel, made, new.as_ref(), container)
    })?;
    if let Some(task) = task {
        hooks::run(&plan.hooks, state, &made, &task)?;
    }
    Ok(())
}

/// In a task: runs one more process in a container, whose first one is `init` (a pidfd).
pub fn exec(
    process: &Process,
    container: &Container,
    init: &OwnedFd,
    ends: Ends<'_>,
) -> Result<(), Failure> {
    let entrance = cgroup::Entrance::open(Path::new(CGROUPS), &container.group)?;
    make::exec(process, container, init, &entrance, ends, |made| {
        report::made(ends.channel, made, None, None)
    })
}

/// The control group at `path`, to look at and to end it by.
pub fn group(path: &Path) -> cgroup::Group {
    cgroup::Group::open(Path::new(CGROUPS), path)
}
