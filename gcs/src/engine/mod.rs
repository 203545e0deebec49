//! The container engine.
mod bare;
pub mod devices;
mod enter;
mod fault;
mod group;
mod hooks;
mod json;
mod make;
pub mod plan;
mod report;
pub mod seccomp;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::Failure;

pub use crate::runtime::cgroup::Group;
pub use bare::Bare;
pub use make::{Ends, Made};
pub use plan::{Capabilities, Plan, Process};
pub use report::{failed as report_failure, Told};

/// Where the cgroup hierarchies are.
pub const CGROUPS: &str = "/sys/fs/cgroup";

/// What further processes of a container have from its plan.
#[derive(Debug, Clone)]
pub struct Container {
    /// Relative to [`CGROUPS`].
    pub group: PathBuf,
    /// `CLONE_NEW…` of those that are not the VM's.
    pub namespaces: i32,
    pub capabilities: Capabilities,
    pub oom_score: i32,
    pub seccomp: Option<seccomp::Program>,
}

impl Container {
    pub fn of(plan: Plan) -> Self {
        Self {
            group: plan.group.path,
            namespaces: plan.namespaces.all().bits(),
            capabilities: plan.process.capabilities.unwrap_or_default(),
            oom_score: plan.process.oom_score.unwrap_or(0),
            seccomp: plan.seccomp,
        }
    }
}

/// In a task: makes the container of `plan` up to where its init waits to be started, and tells so
/// over the channel of `ends`; without `bare` one is made and told along. `state` is what hooks
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
    let entrance = group::make(Path::new(CGROUPS), &plan.group, programs)?;
    let ready = bare.or(new.as_ref()).expect("one is given or made");
    let (made, task) = make::create(plan, &entrance, ready, ends)?;
    report::made(ends.channel, &made, new.as_ref())?;
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
    let entrance = group::Entrance::open(Path::new(CGROUPS), &container.group)?;
    let made = make::exec(process, container, init, &entrance, ends)?;
    report::made(ends.channel, &made, None)
}

/// The control groups of a container, to look at and to end it by.
pub fn group(path: &Path) -> Group {
    Group::open(Path::new(CGROUPS), path)
}

/// Changes the limits that `resources` names, leaves the others and the device rules.
pub fn constrain(path: &Path, resources: &Value) -> Result<(), Failure> {
    crate::runtime::constraints::apply(&group(path), resources)
}

/// What the control groups of the container count (protocol 4.9.1).
pub fn statistics(path: &Path) -> Result<crate::prot::stats::Metrics, Failure> {
    crate::runtime::statistics::collect(&group(path))
}
