//! The OCI runtime spec of a standalone container, as containerd makes it for Linux and hcsshim
//! sends it on: what needs the host's devices or a network is left to the guest.

use serde_json::{json, Value};

use super::manifest::ImageConfig;

/// What the command line says beyond the image.
#[derive(Debug, Clone, Default)]
pub struct Process {
    /// Instead of the image's command; like docker, its entrypoint stays in front unless
    /// `entrypoint` is given.
    pub args: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    /// `NAME=value`, over the image's.
    pub env: Vec<String>,
    pub cwd: Option<String>,
    pub user: Option<String>,
    pub hostname: Option<String>,
    pub terminal: bool,
}

/// containerd's default set (oci/spec_opts.go).
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Destination, type, source, options.
const MOUNTS: [(&str, &str, &str, &[&str]); 7] = [
    ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
    (
        "/dev",
        "tmpfs",
        "tmpfs",
        &["nosuid", "strictatime", "mode=755", "size=65536k"],
    ),
    (
        "/dev/pts",
        "devpts",
        "devpts",
        &[
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
            "gid=5",
        ],
    ),
    (
        "/dev/shm",
        "tmpfs",
        "shm",
        &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
    ),
    (
        "/dev/mqueue",
        "mqueue",
        "mqueue",
        &["nosuid", "noexec", "nodev"],
    ),
    (
        "/sys",
        "sysfs",
        "sysfs",
        &["nosuid", "noexec", "nodev", "ro"],
    ),
    (
        "/sys/fs/cgroup",
        "cgroup",
        "cgroup",
        &["nosuid", "noexec", "nodev", "relatime", "ro"],
    ),
];

const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
];

const READONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

const NAMESPACES: [&str; 5] = ["pid", "ipc", "uts", "mount", "network"];

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Builds the spec for a container whose root file system is mounted at `root`. The arguments to run
/// are at `process.args`; an empty list means that neither the image nor the caller names any.
pub fn standalone(image: &ImageConfig, process: &Process, root: &str) -> Value {
    let cwd = process.cwd.as_deref().unwrap_or(&image.cwd);
    let mounts: Vec<_> = MOUNTS
        .iter()
        .map(|(destination, kind, source, options)| {
            json!({"destination": destination, "type": kind, "source": source, "options": options})
        })
        .collect();
    let namespaces: Vec<_> = NAMESPACES
        .iter()
        .map(|kind| json!({"type": kind}))
        .collect();
    let user = process.user.as_deref().unwrap_or(&image.user);
    json!({
        "ociVersion": "1.1.0",
        "process": {
            "terminal": process.terminal,
            "user": user_of(user),
            "args": args(image, process),
            "env": env(image, process),
            "cwd": if cwd.is_empty() { "/" } else { cwd },
            "capabilities": {
                "bounding": CAPABILITIES,
                "effective": CAPABILITIES,
                "permitted": CAPABILITIES,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": false,
        },
        "root": {"path": root},
        "hostname": process.hostname.as_deref().unwrap_or("container"),
        "mounts": mounts,
        "linux": {
            "namespaces": namespaces,
            "maskedPaths": MASKED,
            "readonlyPaths": READONLY,
        },
    })
}

/// What will run, by docker's rules: a new entrypoint drops the image's command too.
fn args(image: &ImageConfig, process: &Process) -> Vec<String> {
    let entrypoint = process.entrypoint.as_ref().unwrap_or(&image.entrypoint);
    let none = Vec::new();
    let cmd = match (&process.args, &process.entrypoint) {
        (Some(args), _) => args,
        (None, Some(_)) => &none,
        (None, None) => &image.cmd,
    };
    entrypoint.iter().chain(cmd).cloned().collect()
}

/// The last value of a name wins, at the place of the first.
fn env(image: &ImageConfig, process: &Process) -> Vec<String> {
    let mut env: Vec<String> = vec![PATH.into()];
    if process.terminal {
        env.push("TERM=xterm".into());
    }
    for setting in image.env.iter().chain(&process.env) {
        let name = setting.split('=').next().unwrap_or_default();
        match env.iter_mut().find(|e| e.split('=').next() == Some(name)) {
            Some(old) => old.clone_from(setting),
            None => env.push(setting.clone()),
        }
    }
    env
}

/// `uid:gid` needs no look-up; everything else is a name for the guest to resolve in the
/// container's own passwd and group (protocol 5.9).
pub fn user_of(user: &str) -> Value {
    let both = user
        .split_once(':')
        .and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
    let (uid, gid): (u32, u32) = match both {
        Some(both) => both,
        None if user.is_empty() => (0, 0),
        None => return json!({"uid": user.parse::<u32>().unwrap_or(0), "gid": 0, "username": user}),
    };
    json!({"uid": uid, "gid": gid})
}
