//! The mounts of a container, each put at a descriptor of its place.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::mount::{mount, MsFlags};
use nix::sys::stat::{fstat, mkdirat, Mode, SFlag};
use nix::sys::statfs::{fstatfs, PROC_SUPER_MAGIC};
use nix::unistd::{fchdir, symlinkat};

use super::copy;
use super::walk::{Make, Root};
use crate::engine::fault::{failed, Step};
use crate::engine::make::Source;
use crate::engine::plan::{Mount, MountKind, READ_ONLY};
use crate::error::Failure;
use crate::sys::mount::FsContext;
use crate::sys::mountfd::{self, Change};

/// Makes all of them in their order; `sources` has one for each. Gives those that are to be
/// read-only once all is in them.
pub fn all<'a>(
    root: &Root,
    mounts: &'a [Mount],
    sources: Vec<Source>,
) -> Result<Vec<&'a Mount>, Failure> {
    let mut later = Vec::new();
    for (mount, source) in mounts.iter().zip(sources) {
        let done = match (&mount.kind, source) {
            (MountKind::FileSystem { kind, source }, _) => file_system(root, mount, kind, source),
            (MountKind::Bind { .. } | MountKind::Groups, Source::Tree(tree, recursive)) => {
                bind(root, mount, &tree, recursive)
            }
            (_, Source::Hierarchies(all)) => hierarchies(root, mount, &all),
            (MountKind::Again, _) => again(root, mount),
            (_, Source::None) => Err(Failure::unspecified("its source is missing")),
        };
        done.map_err(|failure| failure.during(format_args!("{mount}")))?;
        if is_filled_later(mount) && mount.is_read_only() {
            later.push(mount);
        }
    }
    Ok(later)
}

/// Makes a mount read-only that [`all`] has left writable.
pub fn seal(root: &Root, mount: &Mount) -> Result<(), Failure> {
    root.find(&mount.destination)
        .and_then(|fd| mountfd::change(fd, &READ_ONLY, false))
        .step(|| format!("{mount}: make it read-only"))
}

/// What later mounts, nodes and links are made in.
fn is_filled_later(mount: &Mount) -> bool {
    match &mount.kind {
        MountKind::FileSystem { kind, .. } => kind.as_c_str() == c"tmpfs",
        MountKind::Groups => false,
        MountKind::Bind { .. } | MountKind::Again => false,
    }
}

fn file_system(root: &Root, entry: &Mount, kind: &CStr, source: &CStr) -> Result<(), Failure> {
    let kernels_own = matches!(kind.to_bytes(), b"proc" | b"sysfs");
    if kernels_own {
        not_through_a_link(root, &entry.destination)?;
    }
    let place = root
        .place(&entry.destination, Make::Directory)
        .step(|| "its mount point")?;
    if !kernels_own {
        not_in_procfs(&place.fd, &entry.destination)?;
    }
    let mut data = entry.options.data.join(",");
    if kind == c"tmpfs" && !place.is_new {
        // As runc: the directory's own mode, unless another is given after it.
        let mode = fstat(&place.fd).step(|| "its mount point")?.st_mode & 0o7777;
        let rest = if data.is_empty() { "" } else { "," };
        data = format!("mode={mode:o}{rest}{data}");
    }
    let data = CString::new(data).map_err(|_| Failure::unspecified("an option holds a NUL"))?;
    let mut flags = MsFlags::from_bits_retain(entry.options.flags);
    if is_filled_later(entry) {
        flags -= MsFlags::MS_RDONLY;
    }
    fchdir(&place.fd).step(|| "its mount point")?;
    let data = Some(data.as_c_str()).filter(|data| !data.is_empty());
    mount(Some(source), c".", Some(kind), flags, data)
        .map_err(|errno| explained(errno, kind, source, &entry.options.data))?;
    if entry.options.copy_up && is_filled_later(entry) && !place.is_new {
        root.find(&entry.destination)
            .and_then(|made| copy::tree(&place.fd, &made))
            .step(|| "copy what it covers into it (tmpcopyup)")?;
    }
    if entry.options.below.is_nothing() && entry.options.propagation.is_empty() {
        return Ok(());
    }
    let fd = root.find(&entry.destination).step(|| "what was mounted")?;
    refine(&fd, entry)
}

/// Why the file system could not be made, in the kernel's own words where it has some.
fn explained(errno: Errno, kind: &CStr, source: &CStr, options: &[String]) -> Failure {
    let said = || {
        let context = FsContext::open(kind).ok()?;
        context.set(c"source", source).ok();
        for option in options {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            let (key, value) = (CString::new(key).ok()?, CString::new(value).ok()?);
            let done = match option.contains('=') {
                true => context.set(&key, &value),
                false => context.set_flag(&key),
            };
            if done.is_err() {
                return Some(format!(" (option {option:?}: {})", context.messages()));
            }
        }
        context.create(0).err()?;
        Some(format!(" ({})", context.messages())).filter(|text| text.len() > 3)
    };
    let kind = kind.to_string_lossy();
    let mut failure = failed(format_args!("a file system of type {kind:?}"), errno);
    failure.message += &said().unwrap_or_default();
    failure
}

fn bind(root: &Root, entry: &Mount, tree: &OwnedFd, recursive: bool) -> Result<(), Failure> {
    let own = entry.options.own;
    // What the VM mounts below the source shows up in the container, and nothing comes back,
    // unless the options say otherwise.
    let slave = match entry.options.propagation.is_empty() {
        true => MsFlags::MS_SLAVE.bits(),
        false => 0,
    };
    let first = match recursive {
        false => Change::new(own.set, own.clear, slave),
        true => Change::new(0, 0, slave),
    };
    change(tree, &first, recursive)?;
    if recursive {
        change(tree, &own, false)?;
    }
    refine(tree, entry)?;
    let place = match root.find(&entry.destination) {
        Err(Errno::ENOENT) => {
            let mode = fstat(tree).step(|| "its source")?.st_mode & SFlag::S_IFMT.bits();
            let make = match mode == SFlag::S_IFDIR.bits() {
                true => Make::Directory,
                false => Make::File,
            };
            root.place(&entry.destination, make).map(|place| place.fd)
        }
        found => found,
    };
    let place = place.step(|| "its mount point")?;
    not_in_procfs(&place, &entry.destination)?;
    mountfd::attach(tree, place).step(|| "put it there")
}

/// What is for all mounts below, and the propagation.
fn refine(fd: &OwnedFd, entry: &Mount) -> Result<(), Failure> {
    change(fd, &entry.options.below, true)?;
    let propagation = entry.options.propagation.iter();
    for (what, below) in propagation.zip(&entry.options.propagates_below) {
        change(fd, what, *below)?;
    }
    Ok(())
}

fn change(fd: &OwnedFd, what: &Change, recursive: bool) -> Result<(), Failure> {
    match what.is_nothing() {
        true => Ok(()),
        false => mountfd::change(fd, what, recursive).step(|| format!("set {what:x?}")),
    }
}

/// `remount`: of one mount with `bind`, else of its file system.
fn again(root: &Root, entry: &Mount) -> Result<(), Failure> {
    let fd = root.find(&entry.destination).step(|| "what is mounted")?;
    change(&fd, &entry.options.own, false)?;
    refine(&fd, entry)?;
    if entry.options.bind.is_some() {
        return Ok(());
    }
    let flags = MsFlags::from_bits_retain(entry.options.flags);
    let access = if flags.contains(MsFlags::MS_RDONLY) {
        c"ro"
    } else {
        c"rw"
    };
    let texts = entry.options.data.iter().map(|option| {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let value = option
            .contains('=')
            .then(|| CString::new(value).unwrap_or_default());
        (CString::new(key).unwrap_or_default(), value)
    });
    let texts: Vec<_> = texts.collect();
    let options = texts
        .iter()
        .map(|(key, value)| (key.as_c_str(), value.as_deref()));
    mountfd::reconfigure(&fd, options.chain([(access, None)]))
        .map_err(|(errno, option)| failed(format_args!("change it by {option:?}"), errno))
}

/// cgroup v1: a directory with one for each hierarchy, and a name for each controller.
fn hierarchies(root: &Root, entry: &Mount, all: &[(String, OwnedFd)]) -> Result<(), Failure> {
    let place = root
        .place(&entry.destination, Make::Directory)
        .step(|| "its mount point")?;
    not_in_procfs(&place.fd, &entry.destination)?;
    let held = FsContext::open(c"tmpfs").step(|| "a tmpfs to hold the hierarchies")?;
    held.set(c"mode", c"755")
        .step(|| "a tmpfs to hold the hierarchies")?;
    let held = held.create(0).step(|| "a tmpfs to hold the hierarchies")?;
    for (names, _) in all {
        mkdirat(&held, names.as_str(), Mode::from_bits_truncate(0o755)).step(|| names.clone())?;
        for name in names.split(',').filter(|name| name != names) {
            symlinkat(names.as_str(), &held, name).step(|| name.to_owned())?;
        }
    }
    mountfd::attach(&held, &place.fd).step(|| "put it there")?;
    for (names, tree) in all {
        let slave = Change::new(
            entry.options.own.set,
            entry.options.own.clear,
            MsFlags::MS_SLAVE.bits(),
        );
        change(tree, &slave, false)?;
        let place = root.find(&format!("{}/{names}", entry.destination));
        place
            .and_then(|place| mountfd::attach(tree, place))
            .step(|| format!("the hierarchy {names}"))?;
    }
    let held = root.find(&entry.destination).step(|| "what was mounted")?;
    change(&held, &entry.options.own, false)
}

/// A link would have the kernel's own files, and what hides some of them, at another place than
/// programs look.
fn not_through_a_link(root: &Root, destination: &str) -> Result<(), Failure> {
    let flags = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_NOFOLLOW;
    match root.open(destination, flags) {
        Ok(found) => {
            let mode = fstat(&found).step(|| "its mount point")?.st_mode;
            match mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() {
                true => Ok(()),
                false => Err(Failure::unspecified("its mount point is no directory")),
            }
        }
        Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(failed("its mount point", errno)),
    }
}

/// What may be covered in `/proc` (as runc): files that say how large the machine is.
const COVERABLE: [&str; 12] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
    "/proc/key-users",
];

/// Who covers files of procfs decides what others write to by their names.
fn not_in_procfs(place: &OwnedFd, destination: &str) -> Result<(), Failure> {
    if COVERABLE.contains(&destination) {
        return Ok(());
    }
    let there = fstatfs(place.as_fd()).step(|| "its mount point")?;
    match there.filesystem_type() == PROC_SUPER_MAGIC {
        true => Err(Failure::unspecified("its mount point is in procfs")),
        false => Ok(()),
    }
}
