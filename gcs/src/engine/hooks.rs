//! Hooks: programs that run when a container's namespaces and mounts are there and its root has
//! not been entered. They expect the VM's own tree in its mount namespace, so a container that
//! has any goes a longer way.

use std::ffi::OsStr;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::{open, OFlag};
use nix::mount::{umount2, MntFlags, MsFlags};
use nix::sched::CloneFlags;
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::stat::Mode;
use nix::unistd::{chroot, fchdir, getppid, pivot_root, read, write};
use serde_json::Value;

use super::enter::Root;
use super::fault::Step;
use super::make::Made;
use super::plan::Hook;
use crate::error::Failure;
use crate::sys::mountfd::{self, Change};
use crate::sys::{clone, pidfd};

/// How long one may run that has no limit of its own; the whole creation has another.
const LIMIT: Duration = Duration::from_secs(110);
/// What a failure quotes of a hook's output, in bytes.
const QUOTE: u64 = 4096;

/// Where the new process stops for its hooks.
#[derive(Debug)]
pub struct Pause {
    /// A copy of the VM's mounts.
    pub machine: OwnedFd,
    /// A socket to the task that runs the hooks.
    pub task: OwnedFd,
}

impl Pause {
    /// Makes the VM's tree the root, with the container's own at its place there.
    pub fn attach(&self, root: &OwnedFd, path: &Path) -> Result<(), Failure> {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let private = Change::new(0, 0, MsFlags::MS_PRIVATE.bits());
        mountfd::change(&self.machine, &private, true)
            .and_then(|()| open("/", flags, Mode::empty()))
            .and_then(|floor| mountfd::attach(&self.machine, floor))
            .and_then(|()| fchdir(&self.machine))
            .and_then(|()| chroot("."))
            .step(|| "enter a copy of the VM's mounts, for hooks")?;
        open(path, flags, Mode::empty())
            .and_then(|place| mountfd::attach(root, place))
            .step(|| format!("root.path: mount {}", path.display()))
    }

    /// Has the hooks run.
    pub fn ready(&self) -> Result<(), Failure> {
        let mut byte = [0];
        let told = write(&self.task, b"h").and_then(|_| read(self.task.as_fd(), &mut byte));
        match told.step(|| "wait for the hooks")? {
            // The task tells why.
            0 => clone::exit_now(0),
            _ => Ok(()),
        }
    }
}

/// Enters the container's root and leaves the VM's tree for good.
pub fn leave(root: &Root) -> Result<(), Failure> {
    fchdir(root)
        .and_then(|()| pivot_root(".", "."))
        .and_then(|()| umount2(".", MntFlags::MNT_DETACH))
        .step(|| "leave the VM's mounts behind")
}

/// In the task: waits until the process is ready, runs them, and lets it go on. The process ends
/// with its socket when one fails.
pub fn run(hooks: &[Hook], state: &Value, made: &Made, process: &OwnedFd) -> Result<(), Failure> {
    let mut byte = [0];
    // Nothing comes from one that has failed, which says why itself.
    if read(process.as_fd(), &mut byte).step(|| "wait for the container")? == 0 {
        return Ok(());
    }
    return_to_machine()?;
    let mut state = state.clone();
    state["pid"] = made.pid.as_raw().into();
    let state = state.to_string();
    for hook in hooks {
        let done = run_one(hook, state.as_bytes());
        done.map_err(|failure| failure.during(&hook.member))?;
    }
    write(process, b"g")
        .map(drop)
        .step(|| "let the container go on")
}

/// Hooks are programs of the VM: they run in the namespaces of PID 1, which the task has left.
fn return_to_machine() -> Result<(), Failure> {
    let parent = pidfd::open(getppid().as_raw()).step(|| "find the service")?;
    let parent = parent.ok_or_else(|| Failure::unspecified("the service is gone"))?;
    let left = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWPID;
    clone::join(parent, left).step(|| "return to the namespaces of the VM")
}

#[allow(clippy::disallowed_methods)] // a task, which may block
fn run_one(hook: &Hook, state: &[u8]) -> Result<(), Failure> {
    let text = |words: &std::ffi::CString| OsStr::from_bytes(words.as_bytes()).to_owned();
    let path = text(&hook.path);
    let file = |name: &std::ffi::CStr| {
        memfd_create(name, MFdFlags::MFD_CLOEXEC)
            .map(std::fs::File::from)
            .step(|| "a file in memory")
    };
    let (mut input, mut output) = (file(c"state")?, file(c"output")?);
    input
        .write_all(state)
        .and_then(|()| input.rewind())
        .step(|| "write the state")?;
    let copy = |file: &std::fs::File| file.try_clone().map(Stdio::from).step(|| "its output");
    let environment = hook.env.iter().filter_map(|entry| {
        let entry = entry.to_str().ok()?;
        entry.split_once('=')
    });
    let mut child = Command::new(&path)
        .arg0(hook.args.first().map_or_else(|| path.clone(), text))
        .args(hook.args.iter().skip(1).map(text))
        .env_clear()
        .envs(environment)
        .stdin(Stdio::from(input))
        .stdout(copy(&output)?)
        .stderr(copy(&output)?)
        .spawn()
        .step(|| format!("run {path:?}"))?;
    let limit = hook.limit.map_or(LIMIT, Duration::from_secs);
    let pid = child.id().cast_signed();
    let ended = pidfd::wait_exit(pid, limit).step(|| format!("wait for {path:?}"))?;
    if !ended {
        child.kill().step(|| format!("end {path:?}"))?;
    }
    let status = child.wait().step(|| format!("wait for {path:?}"))?;
    let why = match (ended, status.success()) {
        (true, true) => return Ok(()),
        (true, false) => status.to_string(),
        (false, _) => format!("not done after {limit:?}"),
    };
    let mut said = Vec::new();
    if output.rewind().is_ok() {
        output.take(QUOTE).read_to_end(&mut said).ok();
    }
    let said = String::from_utf8_lossy(&said);
    Err(Failure::unspecified(format!("{path:?}: {why}: {said}")))
}
