//! The machine's own file systems (P-290, P-291): tables, and a walker that may run twice.
//!
//! The machine goes on when a row fails, because a kernel may lack a file system, and a root may be
//! read-only or bring a mount of its own. Failures are logged, and what needs the mount fails later
//! with a reason.

use std::borrow::Cow;
use std::fs;
use std::os::unix::fs::{symlink, DirBuilderExt, MetadataExt};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{mount, MsFlags};

/// One thing to make, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub what: What,
    pub why: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The target directory is made where it can be.
    Mount {
        source: &'static str,
        target: Cow<'static, str>,
        kind: &'static str,
        flags: MsFlags,
        data: Cow<'static, str>,
    },
    Link {
        at: &'static str,
        to: &'static str,
    },
    /// Mode 0755.
    Dir(&'static str),
}

/// How a row ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Made,
    /// It was there before.
    Found,
    Failed(Errno),
}

const NOSUID_NOEXEC: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC);
const NODEV_NOSUID_NOEXEC: MsFlags = NOSUID_NOEXEC.union(MsFlags::MS_NODEV);

const fn row(
    source: &'static str,
    target: &'static str,
    kind: &'static str,
    flags: MsFlags,
    data: &'static str,
    why: &'static str,
) -> Row {
    Row {
        what: What::Mount {
            source,
            target: Cow::Borrowed(target),
            kind,
            flags,
            data: Cow::Borrowed(data),
        },
        why,
    }
}

const fn link(at: &'static str, to: &'static str, why: &'static str) -> Row {
    Row {
        what: What::Link { at, to },
        why,
    }
}

const fn dir(path: &'static str, why: &'static str) -> Row {
    Row {
        what: What::Dir(path),
        why,
    }
}

/// The first mounts: the devices, so that descriptors 0 to 2 and the kernel log can be opened, and
/// what shows whether this is a utility VM.
#[rustfmt::skip]
pub static FIRST: &[Row] = &[
    row("dev", "/dev", "devtmpfs", NOSUID_NOEXEC, "", "device nodes; a kernel that mounts its root itself has it mounted already"),
    row("proc", "/proc", "proc", NODEV_NOSUID_NOEXEC, "", "processes, and the kernel's settings"),
];

#[rustfmt::skip]
pub static BASE: &[Row] = &[
    link("/dev/fd", "/proc/self/fd", "shells' process substitution"),
    link("/dev/stdin", "/proc/self/fd/0", "programs that want a file name"),
    link("/dev/stdout", "/proc/self/fd/1", "as stdin"),
    link("/dev/stderr", "/proc/self/fd/2", "as stdin"),
    row("tmpfs", "/run", "tmpfs", NODEV_NOSUID_NOEXEC, "mode=0755", "all state; the root may be read-only"),
    row("tmpfs", "/tmp", "tmpfs", NODEV_NOSUID_NOEXEC, "", "scratch of the programs here"),
    row("shm", "/dev/shm", "tmpfs", NODEV_NOSUID_NOEXEC, "", "POSIX shared memory"),
    row("devpts", "/dev/pts", "devpts", NOSUID_NOEXEC, "", "terminals of processes here"),
    row("sysfs", "/sys", "sysfs", NODEV_NOSUID_NOEXEC, "", "disks, network and clocks are found there"),
    link("/var/run", "/run", "the reference keeps runtime state in /var/run; a base image may lack it"),
];

pub static CGROUP_V2: &[Row] = &[row(
    "cgroup2",
    "/sys/fs/cgroup",
    "cgroup2",
    NODEV_NOSUID_NOEXEC,
    "",
    "one tree: cgroup.kill, memory.events and no second place to look",
)];

static CGROUP_V1_ROOT: Row = row(
    "cgroup_root",
    "/sys/fs/cgroup",
    "tmpfs",
    NODEV_NOSUID_NOEXEC,
    "mode=0755",
    "holds one directory per hierarchy",
);

#[rustfmt::skip]
pub static OVERLAYS: &[Row] = &[
    row("tmpfs", "/run/over", "tmpfs", NODEV_NOSUID_NOEXEC, "mode=0755,size=40%", "upper layers; bounded, because it is memory"),
    dir("/run/over/etc", "upper and work must be in one file system"),
    dir("/run/over/etc/upper", "as above"),
    dir("/run/over/etc/work", "as above"),
    row("overlay", "/etc", "overlay", MsFlags::empty(), "lowerdir=/etc,upperdir=/run/over/etc/upper,workdir=/run/over/etc/work", "writable /etc over a read-only root"),
    dir("/run/over/var", "upper and work must be in one file system"),
    dir("/run/over/var/upper", "as above"),
    dir("/run/over/var/work", "as above"),
    row("overlay", "/var", "overlay", MsFlags::empty(), "lowerdir=/var,upperdir=/run/over/var/upper,workdir=/run/over/var/work", "writable /var over a read-only root"),
];

/// The v1 hierarchies, one per controller that `/proc/cgroups` has enabled.
pub fn cgroup_v1(proc_cgroups: &str) -> Vec<Row> {
    let mut rows = vec![CGROUP_V1_ROOT.clone()];
    rows.extend(controllers_v1(proc_cgroups).map(|name| Row {
        what: What::Mount {
            source: "cgroup",
            target: format!("/sys/fs/cgroup/{name}").into(),
            kind: "cgroup",
            flags: NODEV_NOSUID_NOEXEC,
            data: name.to_owned().into(),
        },
        why: "one controller per hierarchy, as the reference has it",
    }));
    rows
}

/// Names in the first column of the lines whose last column is 1 (cgroups(7)).
pub fn controllers_v1(proc_cgroups: &str) -> impl Iterator<Item = &str> {
    proc_cgroups
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut columns = line.split_whitespace();
            let name = columns.next()?;
            (columns.last() == Some("1")).then_some(name)
        })
}

/// Makes every row that is not there yet. Failures are logged.
///
/// # Errors
/// The first failure; the other rows were made all the same.
pub fn walk(rows: &[Row]) -> Result<(), String> {
    let mut first = Ok(());
    for row in rows {
        if let Outcome::Failed(errno) = make(&row.what) {
            let failure = format!("{} failed: {errno}", describe(&row.what));
            log::warn!(reason = row.why; "{failure}");
            first = first.and(Err(failure));
        }
    }
    first
}

fn make(what: &What) -> Outcome {
    match what {
        What::Dir(path) => made(mkdir(path)),
        What::Link { at, to } => {
            if fs::symlink_metadata(at).is_ok() {
                return Outcome::Found;
            }
            made(symlink(to, at).map_err(|error| errno(&error)))
        }
        What::Mount {
            source,
            target,
            kind,
            flags,
            data,
        } => {
            // When the target cannot be made, the error of mount says more.
            mkdir(target).ok();
            // The mount table takes long to make and to read, and there is rarely anything to find
            // in it.
            if may_be_mounted(target) {
                let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
                if is_mounted(&table, target, kind) {
                    return Outcome::Found;
                }
            }
            let data = (!data.is_empty()).then_some(data.as_ref());
            match mount(Some(*source), target.as_ref(), Some(*kind), *flags, data) {
                Err(Errno::EBUSY) => {
                    // The kernel has mounted it, with its own choice of flags.
                    let again = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | *flags;
                    let none = None::<&str>;
                    mount(none, target.as_ref(), none, again, none).ok();
                    Outcome::Found
                }
                result => made(result),
            }
        }
    }
}

fn made(result: Result<(), Errno>) -> Outcome {
    match result {
        Ok(()) => Outcome::Made,
        Err(Errno::EEXIST) => Outcome::Found,
        Err(errno) => Outcome::Failed(errno),
    }
}

fn mkdir(path: &str) -> Result<(), Errno> {
    fs::DirBuilder::new()
        .mode(0o755)
        .create(path)
        .map_err(|error| errno(&error))
}

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

fn describe(what: &What) -> String {
    match what {
        What::Mount { target, kind, .. } => format!("mounting {kind} on {target}"),
        What::Link { at, to } => format!("linking {at} to {to}"),
        What::Dir(path) => format!("making {path}"),
    }
}

/// Whether `target` is in another file system than the directory above it, so that something may
/// have been mounted there.
fn may_be_mounted(target: &str) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
    let target = Path::new(target);
    target
        .parent()
        .is_none_or(|parent| device(target) != device(parent))
}

/// Whether the topmost mount at `target` is of that kind (proc_pid_mountinfo(5): the mount point
/// is the fifth column, the type follows a lone dash).
fn is_mounted(mountinfo: &str, target: &str, kind: &str) -> bool {
    mountinfo
        .lines()
        .rev()
        .find(|line| line.split(' ').nth(4) == Some(target))
        .and_then(|line| line.split_once(" - "))
        .is_some_and(|(_, tail)| tail.split(' ').next() == Some(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(row: &Row) -> String {
        match &row.what {
            What::Mount {
                source,
                target,
                kind,
                flags,
                data,
            } => {
                let mut columns = vec![*source, target.as_ref(), *kind];
                for (flag, name) in [
                    (MsFlags::MS_NODEV, "nodev"),
                    (MsFlags::MS_NOSUID, "nosuid"),
                    (MsFlags::MS_NOEXEC, "noexec"),
                ] {
                    if flags.contains(flag) {
                        columns.push(name);
                    }
                }
                columns.push(data.as_ref());
                columns.join(" ").trim_end().to_owned()
            }
            What::Link { at, to } => format!("{at} -> {to}"),
            What::Dir(path) => (*path).to_owned(),
        }
    }

    #[test]
    fn the_table_is_the_references() {
        let rows: Vec<String> = FIRST.iter().chain(BASE).map(plain).collect();
        assert_eq!(
            rows,
            [
                "dev /dev devtmpfs nosuid noexec",
                "proc /proc proc nodev nosuid noexec",
                "/dev/fd -> /proc/self/fd",
                "/dev/stdin -> /proc/self/fd/0",
                "/dev/stdout -> /proc/self/fd/1",
                "/dev/stderr -> /proc/self/fd/2",
                "tmpfs /run tmpfs nodev nosuid noexec mode=0755",
                "tmpfs /tmp tmpfs nodev nosuid noexec",
                "shm /dev/shm tmpfs nodev nosuid noexec",
                "devpts /dev/pts devpts nosuid noexec",
                "sysfs /sys sysfs nodev nosuid noexec",
                "/var/run -> /run",
            ]
        );
    }

    #[test]
    fn v1_has_a_hierarchy_per_enabled_controller() {
        let table = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n\
                     cpuset\t0\t1\t1\nmemory\t0\t1\t0\npids\t0\t1\t1\n";
        let rows: Vec<String> = cgroup_v1(table).iter().map(plain).collect();
        assert_eq!(
            rows,
            [
                "cgroup_root /sys/fs/cgroup tmpfs nodev nosuid noexec mode=0755",
                "cgroup /sys/fs/cgroup/cpuset cgroup nodev nosuid noexec cpuset",
                "cgroup /sys/fs/cgroup/pids cgroup nodev nosuid noexec pids",
            ]
        );
    }

    #[test]
    fn every_row_says_why() {
        for row in FIRST.iter().chain(BASE).chain(CGROUP_V2).chain(OVERLAYS) {
            assert!(!row.why.is_empty(), "{row:?}");
        }
    }

    #[test]
    fn a_mount_is_found_by_place_and_kind() {
        let table = "22 1 0:21 / /run rw,nosuid - tmpfs tmpfs rw,mode=755\n\
                     23 1 0:22 / /etc rw - ext4 /dev/sda rw\n\
                     24 23 0:23 / /etc rw shared:1 - overlay overlay rw\n";
        for (target, kind, want) in [
            ("/run", "tmpfs", true),
            ("/run", "ramfs", false),
            ("/etc", "overlay", true),
            ("/etc", "ext4", false),
            ("/ru", "tmpfs", false),
            ("rw", "tmpfs", false),
        ] {
            assert_eq!(is_mounted(table, target, kind), want, "{target} {kind}");
        }
    }

    #[test]
    fn the_table_is_read_only_where_a_file_system_begins() {
        assert!(may_be_mounted("/proc") && may_be_mounted("/"));
        assert!(!may_be_mounted("/proc/self"));
        // The target does not exist, which mount reports.
        assert!(!may_be_mounted("/no/such/place"));
    }

    #[test]
    fn links_and_directories_are_made_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let path: &'static str = dir.path().join("d").display().to_string().leak();
        let at: &'static str = dir.path().join("l").display().to_string().leak();
        for what in [What::Dir(path), What::Link { at, to: "/x" }] {
            assert_eq!(make(&what), Outcome::Made);
            assert_eq!(make(&what), Outcome::Found);
        }
        let nowhere = What::Dir("/no/such/place");
        assert_eq!(make(&nowhere), Outcome::Failed(Errno::ENOENT));
    }
}
