//! Control groups (protocol 10.6). `/containers` is for everything that the host runs and is
//! limited so that the service survives it. `/gcs` is for the service and what it runs itself.
//!
//! The tree is a plan of directories and writes, so that it can be read, tested and logged.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use gcs::config::Flags;
use gcs::machine::containers_limit::containers_limit;

use crate::mounts;

const ROOT: &str = "/sys/fs/cgroup";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// v2 unless the kernel line asks for v1 (12.4) or the kernel has no v2.
pub fn choose(cmdline: &str, filesystems: &str) -> Version {
    let asked = cmdline
        .split_whitespace()
        .any(|word| word == "hcsshim.cgroup=v1");
    let has_v2 = filesystems.lines().any(|line| line.ends_with("\tcgroup2"));
    if asked || !has_v2 {
        Version::V1
    } else {
        Version::V2
    }
}

/// What is mounted now. The service may be another process than the one that has mounted it.
pub fn mounted() -> Version {
    if Path::new(ROOT).join("cgroup.controllers").exists() {
        Version::V2
    } else {
        Version::V1
    }
}

/// Mounts the tree; failures are logged.
///
/// # Errors
/// As those of [`mounts::walk`].
pub fn mount() -> Result<(), String> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    match choose(&read("/proc/cmdline"), &read("/proc/filesystems")) {
        Version::V2 => mounts::walk(mounts::CGROUP_V2),
        Version::V1 => mounts::walk(&mounts::cgroup_v1(&read("/proc/cgroups"))),
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Of all containers together, in bytes.
    pub containers: u64,
    /// Kept for the service when memory is short, in bytes.
    pub service: u64,
    /// Processes and threads of all containers together.
    pub processes: u64,
}

impl Limits {
    /// Those of a machine with that many bytes and, at most, that many threads.
    pub fn new(ram: u64, threads: u64, flags: &Flags) -> Self {
        Self {
            containers: containers_limit(ram, flags.root_mem_reserve_bytes),
            service: flags.gcs_mem_limit_bytes,
            processes: processes_limit(threads),
        }
    }
}

/// What containers may have of this many threads. The rest is for the service, which starts a
/// process for each kill and each program of the VM: a container that forks without end can be
/// ended.
fn processes_limit(threads: u64) -> u64 {
    threads.saturating_sub((threads / 8).max(256)).max(64)
}

/// The most threads that the machine can have; without a number there is no limit.
fn most_threads() -> u64 {
    let number = |name: &str| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?;
        text.trim().parse().ok()
    };
    let each = ["threads-max", "pid_max"].iter();
    each.filter_map(|name| number(name))
        .min()
        .unwrap_or(u64::MAX)
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum CgroupStep {
    Dir(PathBuf),
    Write(PathBuf, String),
    /// Gives the controllers to the group's children. It is one write, because the kernel waits for
    /// all processors each time. When that fails they are written one by one, so that a missing
    /// controller does not cost the others.
    Enable(PathBuf, Vec<String>),
}

/// Makes the groups and moves this process into `/gcs`. Failures are logged.
pub fn prepare(flags: &Flags) {
    let ram = nix::sys::sysinfo::sysinfo().map_or(u64::MAX, |info| info.ram_total());
    let limits = Limits::new(ram, most_threads(), flags);
    if ram / 2 == limits.containers {
        log::warn!(ram = ram; "the memory reserve is over half of the machine: containers get half");
    }
    let root = Path::new(ROOT);
    let plan = match mounted() {
        Version::V2 => {
            let all = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
            plan_v2(root, &all, limits)
        }
        Version::V1 => {
            let table = fs::read_to_string("/proc/cgroups").unwrap_or_default();
            let controllers: Vec<&str> = mounts::controllers_v1(&table).collect();
            plan_v1(root, &controllers, limits, &|path| {
                fs::read_to_string(path).ok()
            })
        }
    };
    for step in &plan {
        if let Err(error) = run(step) {
            log::warn!("cgroup set-up: {step:?}: {error}");
        }
    }
    // The machine is of no use without its service. Children of tasks and containers get the
    // default again.
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "-1000") {
        log::warn!("the service is not safe from the OOM killer: {error}");
    }
}

fn run(step: &CgroupStep) -> io::Result<()> {
    match step {
        CgroupStep::Dir(path) => match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result,
        },
        CgroupStep::Write(path, value) => fs::write(path, value),
        CgroupStep::Enable(path, controllers) => {
            fs::write(path, controllers.join(" ")).or_else(|_| {
                let each = controllers
                    .iter()
                    .map(|controller| fs::write(path, controller));
                each.fold(Ok(()), Result::and)
            })
        }
    }
}

fn plan_v2(root: &Path, controllers: &str, limits: Limits) -> Vec<CgroupStep> {
    let write = |path: &str, value: &str| CgroupStep::Write(root.join(path), value.to_owned());
    let controllers: Vec<String> = controllers
        .split_whitespace()
        .map(|name| format!("+{name}"))
        .collect();
    let enable = |path: &str| CgroupStep::Enable(root.join(path), controllers.clone());
    let mut plan = vec![enable("cgroup.subtree_control")];
    plan.push(CgroupStep::Dir(root.join("containers")));
    plan.push(enable("containers/cgroup.subtree_control"));
    plan.push(write(
        "containers/memory.max",
        &limits.containers.to_string(),
    ));
    plan.push(write("containers/pids.max", &limits.processes.to_string()));
    plan.push(CgroupStep::Dir(root.join("gcs")));
    plan.push(write("gcs/memory.low", &limits.service.to_string()));
    plan.push(write("gcs/cgroup.procs", "0"));
    plan
}

/// `read` returns a file's content. It is needed for cpuset, whose groups start empty and take no
/// process before they are filled.
fn plan_v1(
    root: &Path,
    controllers: &[&str],
    limits: Limits,
    read: &dyn Fn(&Path) -> Option<String>,
) -> Vec<CgroupStep> {
    let mut plan = Vec::new();
    for &controller in controllers {
        let base = root.join(controller);
        if controller == "memory" {
            plan.push(CgroupStep::Write(
                base.join("memory.use_hierarchy"),
                "1".into(),
            ));
        }
        for group in ["containers", "gcs"] {
            plan.push(CgroupStep::Dir(base.join(group)));
            if controller == "cpuset" {
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    let value = read(&base.join(file)).unwrap_or_default();
                    let value = value.trim().to_owned();
                    plan.push(CgroupStep::Write(base.join(group).join(file), value));
                }
            }
        }
        let limit = match controller {
            "memory" => Some(("memory.limit_in_bytes", limits.containers)),
            "pids" => Some(("pids.max", limits.processes)),
            _ => None,
        };
        if let Some((file, value)) = limit {
            let path = base.join("containers").join(file);
            plan.push(CgroupStep::Write(path, value.to_string()));
        }
        plan.push(CgroupStep::Write(base.join("gcs/cgroup.procs"), "0".into()));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(plan: &[CgroupStep]) -> Vec<String> {
        let line = |step: &CgroupStep| match step {
            CgroupStep::Dir(path) => format!("mkdir {}", path.display()),
            CgroupStep::Write(path, value) => format!("{} < {value}", path.display()),
            CgroupStep::Enable(path, controllers) => {
                format!("{} < {}", path.display(), controllers.join(" "))
            }
        };
        plan.iter().map(line).collect()
    }

    const LIMITS: Limits = Limits {
        containers: 100,
        service: 7,
        processes: 1000,
    };

    #[test]
    fn the_service_keeps_room_for_processes() {
        for (threads, containers) in [(7_800, 6_825), (1_900, 1_644), (300, 64), (0, 64)] {
            assert_eq!(processes_limit(threads), containers, "{threads}");
        }
    }

    #[test]
    fn v2_unless_asked_or_missing() {
        let both = "nodev\tcgroup\nnodev\tcgroup2\n";
        for (cmdline, filesystems, want) in [
            ("quiet panic=-1", both, Version::V2),
            ("quiet hcsshim.cgroup=v1 -- x", both, Version::V1),
            ("hcsshim.cgroup=v2", both, Version::V2),
            ("", "nodev\tcgroup\n", Version::V1),
            ("", "nodev\tcgroup2\n", Version::V2),
        ] {
            assert_eq!(
                choose(cmdline, filesystems),
                want,
                "{cmdline} {filesystems}"
            );
        }
    }

    #[test]
    fn v2_groups() {
        assert_eq!(
            told(&plan_v2(Path::new("/c"), "memory pids\n", LIMITS)),
            [
                "/c/cgroup.subtree_control < +memory +pids",
                "mkdir /c/containers",
                "/c/containers/cgroup.subtree_control < +memory +pids",
                "/c/containers/memory.max < 100",
                "/c/containers/pids.max < 1000",
                "mkdir /c/gcs",
                "/c/gcs/memory.low < 7",
                "/c/gcs/cgroup.procs < 0",
            ]
        );
    }

    #[test]
    fn v1_groups_in_every_hierarchy() {
        let read = |path: &Path| {
            path.ends_with("cpuset/cpuset.cpus")
                .then(|| "0-1\n".to_owned())
        };
        assert_eq!(
            told(&plan_v1(
                Path::new("/c"),
                &["cpuset", "memory", "pids"],
                LIMITS,
                &read
            )),
            [
                "mkdir /c/cpuset/containers",
                "/c/cpuset/containers/cpuset.cpus < 0-1",
                "/c/cpuset/containers/cpuset.mems < ",
                "mkdir /c/cpuset/gcs",
                "/c/cpuset/gcs/cpuset.cpus < 0-1",
                "/c/cpuset/gcs/cpuset.mems < ",
                "/c/cpuset/gcs/cgroup.procs < 0",
                "/c/memory/memory.use_hierarchy < 1",
                "mkdir /c/memory/containers",
                "mkdir /c/memory/gcs",
                "/c/memory/containers/memory.limit_in_bytes < 100",
                "/c/memory/gcs/cgroup.procs < 0",
                "mkdir /c/pids/containers",
                "mkdir /c/pids/gcs",
                "/c/pids/containers/pids.max < 1000",
                "/c/pids/gcs/cgroup.procs < 0",
            ]
        );
    }
}
