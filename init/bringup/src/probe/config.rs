//! What the kernel was configured with, against the table of what LCOW needs
//! (`kernel-config/lcow.requirements`).
//!
//! A kernel without `/proc/config.gz` is asked by what it shows: [`SIGNS`]. Options without a
//! sign then stay unknown, and the report says so.

use miniz_oxide::inflate::decompress_to_vec_with_limit;
use serde::Serialize;

use super::tree::{Tree, CONFIG};

const REQUIREMENTS: &str = include_str!("../../../../kernel-config/lcow.requirements");
/// A configuration has some 300 KB.
const MOST_BYTES: usize = 4 << 20;
/// Of the table; what belongs to a machine under QEMU is not missed on Hyper-V.
const QEMU: &str = "qemu";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// A word of `/proc/filesystems`.
    Filesystem(&'static str),
    /// A line of `/proc/cgroups`.
    Controller(&'static str),
    /// Something that is there.
    Path(&'static str),
}

/// What a running kernel shows of an option without telling its configuration.
#[rustfmt::skip]
const SIGNS: &[(&str, Sign)] = &[
    ("CONFIG_9P_FS", Sign::Filesystem("9p")),
    ("CONFIG_ACPI", Sign::Path("/sys/firmware/acpi")),
    ("CONFIG_BLK_DEV_SD", Sign::Path("/sys/bus/scsi/drivers/sd")),
    ("CONFIG_BPF_SYSCALL", Sign::Path("/proc/sys/kernel/unprivileged_bpf_disabled")),
    ("CONFIG_CGROUPS", Sign::Filesystem("cgroup2")),
    ("CONFIG_CGROUP_PIDS", Sign::Controller("pids")),
    ("CONFIG_CGROUP_SCHED", Sign::Controller("cpu")),
    ("CONFIG_CPUSETS", Sign::Controller("cpuset")),
    ("CONFIG_MEMCG", Sign::Controller("memory")),
    ("CONFIG_BLK_CGROUP", Sign::Controller("blkio")),
    ("CONFIG_BLK_DEV_DM", Sign::Path("/dev/mapper/control")),
    ("CONFIG_DEVTMPFS", Sign::Filesystem("devtmpfs")),
    ("CONFIG_EXT4_FS", Sign::Filesystem("ext4")),
    ("CONFIG_FUSE_FS", Sign::Filesystem("fuse")),
    ("CONFIG_HYPERV", Sign::Path("/sys/bus/vmbus")),
    ("CONFIG_HYPERV_NET", Sign::Path("/sys/bus/vmbus/drivers/hv_netvsc")),
    ("CONFIG_HYPERV_STORAGE", Sign::Path("/sys/bus/vmbus/drivers/hv_storvsc")),
    ("CONFIG_HYPERV_UTILS", Sign::Path("/sys/bus/vmbus/drivers/hv_utils")),
    ("CONFIG_HYPERV_BALLOON", Sign::Path("/sys/bus/vmbus/drivers/hv_balloon")),
    ("CONFIG_HYPERV_VSOCKETS", Sign::Path("/sys/bus/vmbus/drivers/hv_sock")),
    ("CONFIG_PCI_HYPERV", Sign::Path("/sys/bus/vmbus/drivers/hv_pci")),
    ("CONFIG_INET", Sign::Path("/proc/net/tcp")),
    ("CONFIG_IPV6", Sign::Path("/proc/net/if_inet6")),
    ("CONFIG_IPC_NS", Sign::Path("/proc/self/ns/ipc")),
    ("CONFIG_NET_NS", Sign::Path("/proc/self/ns/net")),
    ("CONFIG_PID_NS", Sign::Path("/proc/self/ns/pid")),
    ("CONFIG_TIME_NS", Sign::Path("/proc/self/ns/time")),
    ("CONFIG_USER_NS", Sign::Path("/proc/self/ns/user")),
    ("CONFIG_UTS_NS", Sign::Path("/proc/self/ns/uts")),
    ("CONFIG_OVERLAY_FS", Sign::Filesystem("overlay")),
    ("CONFIG_POSIX_MQUEUE", Sign::Filesystem("mqueue")),
    ("CONFIG_SECCOMP_FILTER", Sign::Path("/proc/sys/kernel/seccomp")),
    ("CONFIG_SQUASHFS", Sign::Filesystem("squashfs")),
    ("CONFIG_EROFS_FS", Sign::Filesystem("erofs")),
    ("CONFIG_XFS_FS", Sign::Filesystem("xfs")),
    ("CONFIG_TMPFS", Sign::Filesystem("tmpfs")),
    ("CONFIG_UNIX", Sign::Path("/proc/net/unix")),
    ("CONFIG_UNIX98_PTYS", Sign::Filesystem("devpts")),
    ("CONFIG_VSOCKETS", Sign::Path("/sys/class/misc/vsock")),
];

/// How the answers were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// `/proc/config.gz`.
    Configuration,
    /// There is no such file: by what the kernel shows.
    Behaviour,
}

#[derive(Debug, Serialize)]
pub struct Options {
    pub source: Source,
    /// Without it no guest, or no container, comes up.
    pub required_missing: Vec<Missing>,
    /// What the reason names is lost.
    pub wanted_missing: Vec<Missing>,
    /// Built as modules: they have to be loaded before they are needed.
    pub modules: Vec<String>,
    /// Neither configuration nor sign tells.
    pub unknown: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Missing {
    pub option: String,
    /// What it is for.
    pub what_for: String,
}

/// Unpacks `/proc/config.gz` (RFC 1952). `None` if it is not what it should be.
pub fn unpack(gzip: &[u8]) -> Option<Vec<u8>> {
    // The kernel build packs with `gzip -n`: ten bytes of header without any optional field.
    let (header, body) = gzip.split_at_checked(10)?;
    let plain = header.starts_with(&[0x1f, 0x8b, 8, 0]);
    plain.then(|| decompress_to_vec_with_limit(body, MOST_BYTES).ok())?
}

/// The lines about options of the table: what a record has to have.
pub fn lines(config: &str) -> String {
    let named = |line: &&str| {
        let name = line.split('=').next().unwrap_or_default();
        let mut words = REQUIREMENTS.split([' ', '|', '!', '\n']);
        line.starts_with("CONFIG_") && words.any(|word| word == name)
    };
    let lines: Vec<&str> = config.lines().filter(named).collect();
    lines.join("\n")
}

/// What is known of one option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    On,
    Module,
    Off,
    Unknown,
}

pub fn read(tree: &dyn Tree) -> Options {
    let config = tree.text(CONFIG).or_else(|| tree.text("/proc/config.gz"));
    match config {
        Some(config) => {
            let state = |option: &str| match config
                .lines()
                .find_map(|line| line.strip_prefix(option)?.strip_prefix('='))
            {
                Some("m") => State::Module,
                Some(_) => State::On,
                None => State::Off,
            };
            judge(Source::Configuration, &state)
        }
        None => judge(Source::Behaviour, &|option| shown(tree, option)),
    }
}

fn shown(tree: &dyn Tree, option: &str) -> State {
    let Some((_, sign)) = SIGNS.iter().find(|(name, _)| *name == option) else {
        return State::Unknown;
    };
    let word = |path, word: &str, last| {
        let text = tree.text(path).unwrap_or_default();
        let found = text.lines().any(|line| {
            let mut words = line.split_whitespace();
            if last { words.last() } else { words.next() }.is_some_and(|found| found == word)
        });
        found
    };
    let there = match *sign {
        Sign::Filesystem(name) => word("/proc/filesystems", name, true),
        Sign::Controller(name) => word("/proc/cgroups", name, false),
        Sign::Path(path) => tree.has(path),
    };
    if there {
        State::On
    } else {
        State::Off
    }
}

fn judge(source: Source, state: &dyn Fn(&str) -> State) -> Options {
    let mut options = Options {
        source,
        required_missing: Vec::new(),
        wanted_missing: Vec::new(),
        modules: Vec::new(),
        unknown: Vec::new(),
    };
    for line in REQUIREMENTS.lines() {
        let mut words = line.splitn(4, ' ');
        let (Some(level), Some(group), Some(option)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        if level.starts_with('#') || group == QEMU {
            continue;
        }
        let (option, unwanted) = match option.strip_prefix('!') {
            Some(option) => (option, true),
            None => (option, false),
        };
        let states: Vec<State> = option.split('|').map(state).collect();
        let has = |state| states.contains(&state);
        if has(State::Unknown) && !has(State::On) {
            options.unknown.push(option.to_owned());
            continue;
        }
        if has(State::Module) && !has(State::On) {
            options.modules.push(option.to_owned());
        }
        if (has(State::On) || has(State::Module)) == unwanted {
            let sign = if unwanted { "!" } else { "" };
            let missing = Missing {
                option: format!("{sign}{option}"),
                what_for: words.next().unwrap_or_default().to_owned(),
            };
            match level {
                "must" => options.required_missing.push(missing),
                _ => options.wanted_missing.push(missing),
            }
        }
    }
    options
}
