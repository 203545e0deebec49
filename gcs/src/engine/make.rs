//! From the VM's side: everything that has to be opened where the container cannot see, then the
//! one clone. It runs in a task, for opening may take any time.

use std::ffi::CStr;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{open, OFlag, AT_FDCWD};
use nix::sched::{setns, unshare, CloneFlags};
use nix::sys::resource::{getrlimit, setrlimit, Resource};
use nix::sys::socket::{socketpair, AddressFamily, SockFlag, SockType};
use nix::sys::stat::Mode;
use nix::unistd::{getpid, read, write, Pid};

use super::bare::Bare;
use super::cgroup::Entrance;
use super::enter;
use super::fault::{failed, Step};
use super::hooks::Pause;
use super::plan::{MountKind, Namespaces, Plan, Process, TIME};
use super::report;
use super::{seccomp, Container};
use crate::error::Failure;
use crate::sys::clone::{self, Side};
use crate::sys::{identity, mountfd, pidfd};

/// The ends that a new process has from its makers.
#[derive(Clone, Copy)]
pub struct Ends<'a> {
    /// What it will have as descriptors 0 to 2, unless it has a terminal.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Where it reports: a socket that keeps messages apart.
    pub channel: BorrowedFd<'a>,
    /// Where it waits for one byte, and then says why its program could not be executed.
    pub control: BorrowedFd<'a>,
}

/// What was made: the process by its number in the VM, and by a descriptor.
#[derive(Debug)]
pub struct Made {
    pub pid: Pid,
    pub process: OwnedFd,
}

/// What a mount is made of, opened in the VM.
#[derive(Debug)]
pub enum Source {
    /// A file system of its own.
    None,
    /// A detached copy; whether with all below it.
    Tree(OwnedFd, bool),
    /// One for each hierarchy of cgroup v1.
    Hierarchies(Vec<(String, OwnedFd)>),
}

impl Made {
    /// This process, which is `pid` in the VM.
    fn this(pid: Pid) -> Result<Self, Failure> {
        let process = pidfd::open(getpid().as_raw()).step(|| "open the process itself")?;
        let process = process.ok_or_else(|| Failure::unspecified("the process cannot see itself"));
        Ok(Self {
            pid,
            process: process?,
        })
    }
}

/// Makes the first process of a container, and has `name` tell of it. It sets the container up,
/// reports and waits. Where it can, it takes the place of the caller, and this does not return.
/// Otherwise the caller is left in the namespaces that the plan joins. With hooks it gets a
/// socket, on which the process waits for them.
pub fn create(
    plan: &Plan,
    entrance: &Entrance,
    bare: &Bare,
    ends: Ends<'_>,
    name: impl FnOnce(&Made) -> Result<(), Failure>,
) -> Result<(Made, Option<OwnedFd>), Failure> {
    // Before it joins anything: from there it can be looked at.
    identity::undumpable().step(|| "hide from debuggers")?;
    room_for(plan.mounts.len());
    let joined = plan.namespaces.joined.iter().map(|joined| {
        let fd = open(
            joined.path.as_c_str(),
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        );
        let fd = fd.step(|| format!("{}: open {:?}", joined.member, joined.path))?;
        match clone::kind_of_namespace(&fd) {
            Ok(kind) if kind == joined.kind => Ok(fd),
            _ => Err(Failure::unspecified(format!(
                "{}: {:?} is no namespace of this kind",
                joined.member, joined.path
            ))),
        }
    });
    let joined = joined.collect::<Result<Vec<_>, Failure>>()?;
    let root = tree(&path(&plan.root.path)?, true)
        .step(|| format!("root.path: open {}", plan.root.path.display()))?;
    let sources = sources(plan, entrance)?;
    let (pause, task) = pause(plan)?.unzip();
    oom_score(plan.process.oom_score.unwrap_or(0))?;
    set_clocks(&plan.namespaces)?;
    bare.enter().step(|| "enter the bare mount namespace")?;
    for (fd, namespace) in joined.iter().zip(&plan.namespaces.joined) {
        setns(fd, namespace.kind)
            .step(|| format!("{}: join {:?}", namespace.member, namespace.path))?;
    }
    // Its root is where the process is: it can only make it once it is in its group.
    let new = plan.namespaces.new - CloneFlags::CLONE_NEWCGROUP - TIME;
    // The caller has hooks to run, or memory without the clocks of the namespace.
    let needs_copy = task.is_some() || plan.namespaces.new.contains(TIME);
    let begin = if needs_copy {
        clone::sibling
    } else {
        clone::successor
    };
    match begin(new, entrance.unified()).map_err(|errno| refused(errno, new))? {
        Side::Caller(pid, process) => {
            drop(pause);
            let made = Made { pid, process };
            name(&made)?;
            Ok((made, task))
        }
        Side::New(pid) => {
            // Its end is how the process hears that the task is gone.
            drop(task);
            if let Some(pid) = pid {
                name(&Made::this(pid)?)?;
            }
            enter::Init {
                plan,
                entrance,
                root,
                sources,
                hooks: pause,
                ends,
            }
            .run()
        }
    }
}

/// For a plan with hooks: what the new process has of it, and the task's end.
fn pause(plan: &Plan) -> Result<Option<(Pause, OwnedFd)>, Failure> {
    if plan.hooks.is_empty() {
        return Ok(None);
    }
    let machine = tree(c"/", true).step(|| "copy the mounts of the VM for hooks")?;
    let (task, process) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .step(|| "make a socket for hooks")?;
    let pause = Pause {
        machine,
        task: process,
    };
    Ok(Some((pause, task)))
}

/// Makes a further process of a container, which `init` (a pidfd) is the first of. Otherwise as
/// [`create`].
pub fn exec(
    process: &Process,
    container: &Container,
    init: &OwnedFd,
    entrance: &Entrance,
    ends: Ends<'_>,
    name: impl FnOnce(&Made) -> Result<(), Failure>,
) -> Result<(), Failure> {
    identity::undumpable().step(|| "hide from debuggers")?;
    oom_score(process.oom_score.unwrap_or(container.oom_score))?;
    let filter = container.filter.as_ref().map(seccomp::Filter::read);
    let filter = filter.transpose().step(|| "read the seccomp program")?;
    let all = CloneFlags::from_bits_retain(container.namespaces);
    match clone::join(init, all) {
        Err(Errno::ESRCH) => return Err(Failure::unspecified("its init process has exited")),
        done => done.step(|| "join the namespaces of the container")?,
    }
    let none = CloneFlags::empty();
    match clone::successor(none, entrance.unified()).map_err(|errno| refused(errno, none))? {
        Side::Caller(pid, process) => name(&Made { pid, process }),
        Side::New(pid) => {
            if let Some(pid) = pid {
                name(&Made::this(pid)?)?;
            }
            enter::Exec {
                process,
                capabilities: process.capabilities.unwrap_or(container.capabilities),
                filter: filter.as_ref(),
                entrance,
                ends,
            }
            .run()
        }
    }
}

/// Why the kernel makes no process, with what it was to be in.
pub(super) fn refused(errno: Errno, new: CloneFlags) -> Failure {
    let hint = match errno {
        Errno::EAGAIN => "; linux.resources.pids.limit may be reached",
        Errno::ENOSPC => "; there are too many namespaces",
        Errno::ENOENT | Errno::ENODEV => "; its control group is gone",
        Errno::EBUSY => "; its control group has groups below it that have controllers",
        _ => "",
    };
    let mut failure = failed(
        format_args!("make a process in new namespaces ({new:?})"),
        errno,
    );
    failure.message += hint;
    failure
}

fn path(path: &Path) -> Result<std::ffi::CString, Failure> {
    std::ffi::CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|_| Failure::unspecified("root.path: it holds a NUL"))
}

fn tree(path: &CStr, recursive: bool) -> nix::Result<OwnedFd> {
    mountfd::copy_at(AT_FDCWD, path, recursive)
}

fn sources(plan: &Plan, entrance: &Entrance) -> Result<Vec<Source>, Failure> {
    let sources = plan.mounts.iter().map(|mount| match &mount.kind {
        MountKind::FileSystem { .. } | MountKind::Again => Ok(Source::None),
        MountKind::Bind { source, recursive } => tree(source, *recursive)
            .map(|tree| Source::Tree(tree, *recursive))
            .step(|| format!("{}.source: open {source:?}", mount.member)),
        MountKind::Groups => groups(entrance)
            .map_err(|failure| failure.during(format_args!("{}: open its source", mount.member))),
    });
    sources.collect()
}

fn groups(entrance: &Entrance) -> Result<Source, Failure> {
    match entrance {
        Entrance::V2(directory) => {
            let tree = mountfd::copy_of(directory, false).step(|| "the control group")?;
            Ok(Source::Tree(tree, false))
        }
        Entrance::V1(all) => {
            let trees = all.iter().map(|(names, directory, _)| {
                let tree = tree(&path(directory)?, false);
                Ok((
                    names.clone(),
                    tree.step(|| directory.display().to_string())?,
                ))
            });
            Ok(Source::Hierarchies(trees.collect::<Result<_, Failure>>()?))
        }
    }
}

/// Many mounts need many descriptors, which the process gives up before it runs anything.
fn room_for(mounts: usize) {
    if mounts < 512 {
        return;
    }
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Too few of them are told by the call that gets none.
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok();
    }
}

/// Tasks have 0 already.
pub(super) fn oom_score(score: i32) -> Result<(), Failure> {
    match score {
        0 => Ok(()),
        score => fs::write("/proc/self/oom_score_adj", score.to_string())
            .step(|| format!("process.oomScoreAdj: set it to {score}")),
    }
}

/// The new process is the first in the time namespace, whose clocks are then fixed.
fn set_clocks(namespaces: &Namespaces) -> Result<(), Failure> {
    if !namespaces.new.contains(TIME) {
        return Ok(());
    }
    unshare(TIME).step(|| "linux.namespaces: make a time namespace")?;
    for line in &namespaces.clocks {
        fs::write("/proc/self/timens_offsets", line)
            .step(|| format!("linux.timeOffsets: set {line:?}"))?;
    }
    Ok(())
}

impl Ends<'_> {
    /// Until the start. Whoever gives the process up closes the other end.
    pub(super) fn wait(&self) {
        loop {
            match read(self.control, &mut [0]) {
                Ok(1..) => return,
                Err(Errno::EINTR) => {}
                Ok(0) | Err(_) => clone::exit_now(0),
            }
        }
    }

    /// To whoever has asked for the start, and to whoever reads the process's own output.
    pub(super) fn tell_not_executed(&self, why: &Failure) {
        write(self.control, &report::reason(why)).ok();
        write(std::io::stderr(), format!("{why}\n").as_bytes()).ok();
    }
}

impl AsFd for Made {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}
