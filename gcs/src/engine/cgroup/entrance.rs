//! The control group that a container is born into: made, bounded and given its device rules
//! before anything runs in it.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Group;
use crate::engine::fault::Step;
use crate::engine::{devices, plan};
use crate::error::Failure;
use crate::prot::HResult;
use crate::sys::bpf;

/// A group, open for processes to be put in.
#[derive(Debug)]
pub enum Entrance {
    /// The directory of v2, which a process is cloned into.
    V2(OwnedFd),
    /// Each hierarchy of v1: its controllers, its directory, and the file that a process writes
    /// itself into.
    V1(Vec<(String, PathBuf, File)>),
}

impl Entrance {
    /// Opens the group of a container that there is.
    pub fn open(mount: &Path, path: &Path) -> Result<Self, Failure> {
        if super::is_v2(mount) {
            return Self::v2(&mount.join(path));
        }
        let mut all = Vec::new();
        for names in super::hierarchies(mount) {
            let directory = mount.join(&names).join(path);
            let procs = directory.join("cgroup.procs");
            let file = File::options()
                .write(true)
                .custom_flags(libc::O_CLOEXEC)
                .open(&procs)
                .step(|| format!("open {}", procs.display()))?;
            all.push((names, directory, file));
        }
        Ok(Self::V1(all))
    }

    fn v2(directory: &Path) -> Result<Self, Failure> {
        let flags = libc::O_DIRECTORY | libc::O_CLOEXEC;
        let opened = File::options()
            .read(true)
            .custom_flags(flags)
            .open(directory);
        let opened = opened.step(|| format!("open {}", directory.display()))?;
        Ok(Self::V2(opened.into()))
    }

    /// What a clone goes into; None in v1.
    pub fn unified(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::V2(directory) => Some(directory.as_fd()),
            Self::V1(_) => None,
        }
    }

    /// Puts this process into the groups of v1; in v2 it was cloned into its own.
    pub fn join(&self) -> Result<(), Failure> {
        let Self::V1(all) = self else {
            return Ok(());
        };
        for (names, _, file) in all {
            let mut file = file;
            file.write_all(b"0")
                .step(|| format!("join the control group of {names}"))?;
        }
        Ok(())
    }
}

/// Makes the group of a new container below `mount`.
///
/// # Errors
/// `SYSTEM_ALREADY_EXISTS` when processes are in a group of that name. What was made until a
/// failure is left: whoever cleans up after the container removes it.
pub fn make(
    mount: &Path,
    group: &plan::Group,
    loaded: &devices::Programs,
) -> Result<Entrance, Failure> {
    let v2 = super::is_v2(mount);
    if v2 {
        make_unified(mount, &group.path)?;
    } else {
        for names in super::hierarchies(mount) {
            make_hierarchy(&mount.join(names), &group.path)?;
        }
    }
    let opened = Group::open(mount, &group.path);
    if group
        .resources
        .as_object()
        .is_some_and(|members| !members.is_empty())
    {
        opened.constrain(&group.resources)?;
    }
    let entrance = Entrance::open(mount, &group.path)?;
    restrict_devices(&entrance, &group.devices, loaded)?;
    Ok(entrance)
}

/// In v2 by a program, which is one of `loaded` when the rules are the usual ones.
fn restrict_devices(
    entrance: &Entrance,
    rules: &[devices::DeviceRule],
    loaded: &devices::Programs,
) -> Result<(), Failure> {
    let attach = |group, program| {
        bpf::attach_device_program(group, program)
            .step(|| "attach the device rules to the control group")
    };
    let all = match entrance {
        Entrance::V2(group) => {
            let code = devices::program(rules);
            if let Some(program) = loaded.find(&code) {
                return attach(group.as_fd(), program);
            }
            let program = bpf::load_device_program(&code).step(|| "load the device rules")?;
            return attach(group.as_fd(), program.as_fd());
        }
        Entrance::V1(all) => all,
    };
    let has_devices = |names: &str| names.split(',').any(|name| name == "devices");
    let Some((_, directory, _)) = all.iter().find(|(names, ..)| has_devices(names)) else {
        // Without the controller nothing would hold them.
        return Err(Failure::unspecified(
            "linux.resources.devices: cgroup v1 has no devices hierarchy here",
        ));
    };
    for line in devices::lines(rules).map_err(Failure::unspecified)? {
        let file = if line.allow {
            "devices.allow"
        } else {
            "devices.deny"
        };
        fs::write(directory.join(file), &line.text)
            .step(|| format!("linux.resources.devices: write {:?} to {file}", line.text))?;
    }
    Ok(())
}

fn make_unified(mount: &Path, path: &Path) -> Result<(), Failure> {
    let directory = mount.join(path);
    match fs::create_dir(&directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            for parent in ancestors(mount, path) {
                create(&parent)?;
                share_controllers(&parent);
            }
            new(&directory)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => new(&directory),
        done => done.step(|| format!("make the control group {}", directory.display())),
    }
}

/// The mount itself, then what leads to `path`, from above.
fn ancestors(mount: &Path, path: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = path
        .ancestors()
        .skip(1)
        .map(|above| mount.join(above))
        .collect();
    all.reverse();
    all
}

/// Gives the children all controllers that this group has. Each on its own, for some cannot be
/// shared everywhere; a limit that is missed by it says so when it is set.
fn share_controllers(directory: &Path) {
    let all = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
    for name in all.split_whitespace() {
        let shared = fs::write(directory.join("cgroup.subtree_control"), format!("+{name}"));
        if let Err(error) = shared {
            log::debug!("{}: share {name}: {error}", directory.display());
        }
    }
}

fn make_hierarchy(root: &Path, path: &Path) -> Result<(), Failure> {
    let mut above = root.to_owned();
    let parts = path.iter().count();
    for (nth, part) in path.iter().enumerate() {
        let directory = above.join(part);
        if nth + 1 == parts {
            new(&directory)?;
        } else {
            create(&directory)?;
        }
        for file in ["cpuset.cpus", "cpuset.mems"] {
            // Empty ones take no process.
            let Ok(text) = fs::read_to_string(above.join(file)) else {
                continue;
            };
            let at = directory.join(file);
            if fs::read_to_string(&at).is_ok_and(|own| own.trim().is_empty()) {
                fs::write(&at, text.trim()).step(|| format!("write {}", at.display()))?;
            }
        }
        above = directory;
    }
    Ok(())
}

fn create(directory: &Path) -> Result<(), Failure> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        done => done.step(|| format!("make the control group {}", directory.display())),
    }
}

/// One that was left empty is made anew, so that nothing of it holds any more.
fn new(directory: &Path) -> Result<(), Failure> {
    let made = match fs::create_dir(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => match fs::remove_dir(directory) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                return Err(Failure::new(
                    HResult::SYSTEM_ALREADY_EXISTS,
                    format!("the control group {} is in use", directory.display()),
                ))
            }
            removed => removed.and_then(|()| fs::create_dir(directory)),
        },
        made => made,
    };
    made.step(|| format!("make the control group {}", directory.display()))
}
