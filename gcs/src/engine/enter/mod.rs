//! In the new process: the plan carried out, one step a line. Whatever fails is told over the
//! channel, with the step, the object and the errno, and ends the process.

mod console;
mod copy;
mod masks;
mod mounts;
mod nodes;
mod process;
mod walk;

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::{catch_unwind, AssertUnwindSafe};

use nix::errno::Errno;
use nix::fcntl::{openat, OFlag};
use nix::mount::MsFlags;
use nix::sched::{unshare, CloneFlags};
use nix::sys::socket::AddressFamily;
use nix::sys::stat::{umask, Mode};
use nix::unistd::{chroot, fchdir, sethostname, setsid, write};

use super::bare::Covers;
use super::cgroup::Entrance;
use super::fault::{failed, Step};
use super::hooks::{self, Pause};
use super::make::{Ends, Source};
use super::plan::{Capabilities, Plan, Process, Sysctl, READ_ONLY};
use super::report;
use super::seccomp::Filter;
use crate::error::Failure;
use crate::sys::mount::FsContext;
use crate::sys::mountfd::{self, Change};
use crate::sys::process as sys_process;
use crate::sys::seccomp::Execution;
use crate::sys::{clone, fds, identity, loopback};
use console::Terminal;
use walk::Make;

pub use walk::Root;

/// Exit status of a process whose program could not be executed, as a shell would give.
const NOT_EXECUTED: i32 = 126;

/// The first process of a container.
pub struct Init<'a> {
    pub plan: &'a Plan,
    pub entrance: &'a Entrance,
    /// Detached copy of the root, with all that is mounted in it.
    pub root: OwnedFd,
    pub sources: Vec<Source>,
    /// For hooks, which run while the VM's own tree is still there.
    pub hooks: Option<Pause>,
    pub ends: Ends<'a>,
}

impl Init<'_> {
    /// Sets the container up, reports, waits for the start and executes.
    pub fn run(self) -> ! {
        let (plan, ends) = (self.plan, self.ends);
        execute(ends, plan.seccomp.as_ref(), || {
            let (root, terminal) = self.set_up()?;
            process::limit(&plan.process, plan.personality)?;
            let capabilities = plan.process.capabilities.unwrap_or_default();
            let filtered = plan.seccomp.is_some();
            let program = become_process(
                root,
                &plan.process,
                &capabilities,
                filtered,
                &ends,
                terminal.as_ref(),
            )?;
            Ok((program, terminal))
        })
    }

    /// Everything of the container but its program.
    fn set_up(self) -> Result<(Root, Option<Terminal>), Failure> {
        let plan = self.plan;
        umask(Mode::empty());
        self.entrance.join()?;
        setsid().step(|| "make a session")?;
        own_keyring()?;
        if plan.namespaces.new.contains(CloneFlags::CLONE_NEWCGROUP) {
            unshare(CloneFlags::CLONE_NEWCGROUP).step(|| "make a cgroup namespace")?;
        }
        name(plan)?;
        if plan.namespaces.new.contains(CloneFlags::CLONE_NEWNET) {
            loopback::up(AddressFamily::Inet).step(|| "bring up the loopback")?;
        }
        let covers = Covers::open().step(|| "open what hides paths")?;
        let root = enter_root(self.root, self.hooks.as_ref(), plan)?;
        let sealed = mounts::all(&root, &plan.mounts, self.sources)?;
        if let Some(nodes) = &plan.nodes {
            nodes::all(&root, nodes)?;
        }
        let terminal = match plan.process.terminal {
            true => Some(Terminal::open(&root, &plan.process)?),
            false => None,
        };
        if let Some(terminal) = &terminal {
            terminal.be_console(&root)?;
        }
        root.place(&plan.process.cwd, Make::Directory)
            .step(|| format!("process.cwd: make {:?}", plan.process.cwd))?;
        if let Some(hooks) = self.hooks {
            hooks.ready()?;
            hooks::leave(&root)?;
        }
        for mount in sealed {
            mounts::seal(&root, mount)?;
        }
        sysctls(&plan.sysctls)?;
        masks::read_only(&root, &plan.read_only)?;
        masks::mask(&root, &plan.masked, &covers)?;
        finish_root(&root, plan)?;
        Ok((root, terminal))
    }
}

/// A further process of a container, whose namespaces and root it is in already.
pub struct Exec<'a> {
    pub process: &'a Process,
    pub capabilities: Capabilities,
    pub filter: Option<&'a Filter>,
    pub entrance: &'a Entrance,
    pub ends: Ends<'a>,
}

impl Exec<'_> {
    /// Sets the process up, reports, waits for the start and executes.
    pub fn run(self) -> ! {
        let ends = self.ends;
        execute(ends, self.filter, || {
            self.entrance.join()?;
            umask(Mode::empty());
            setsid().step(|| "make a session")?;
            own_keyring()?;
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let root = nix::fcntl::open("/", flags, Mode::empty());
            let root = Root::new(root.step(|| "open the root of the container")?);
            let terminal = match self.process.terminal {
                true => Some(Terminal::open(&root, self.process)?),
                false => None,
            };
            process::limit(self.process, None)?;
            let filtered = self.filter.is_some();
            let program = become_process(
                root,
                self.process,
                &self.capabilities,
                filtered,
                &ends,
                terminal.as_ref(),
            )?;
            Ok((program, terminal))
        })
    }
}

/// From a process that may do all to one that only has to execute its program.
fn become_process(
    root: Root,
    process: &Process,
    capabilities: &Capabilities,
    is_filtered: bool,
    ends: &Ends<'_>,
    terminal: Option<&Terminal>,
) -> Result<Executable, Failure> {
    let mut env = process.env.clone();
    if !process.has_home {
        let home = format!("HOME={}", process::home(&root, process.user.uid));
        env.extend(CString::new(home));
    }
    match terminal {
        Some(terminal) => console::place([terminal.slave.as_fd(); 3], true)?,
        None => {
            console::give(&ends.stdio, process.user.uid)?;
            console::place(ends.stdio, false)?;
        }
    }
    // As runc: by the rights of root, or else by those of the user.
    let gone = process::go(&root, &process.cwd);
    process::become_user(process, capabilities, is_filtered)?;
    gone.or_else(|_| process::go(&root, &process.cwd))?;
    Ok(Executable {
        path: process::program(process)?,
        args: process.args.clone(),
        env,
    })
}

/// Prepares a process by `prepare`, reports, waits for the start and executes. A process whose
/// makers did not come to name it to PID 1 is never started: the other end of its socket closes.
fn execute(
    ends: Ends<'_>,
    filter: Option<&Filter>,
    prepare: impl FnOnce() -> Result<(Executable, Option<Terminal>), Failure>,
) -> ! {
    let ready = || {
        let (program, terminal) = prepare()?;
        let master = terminal.as_ref().map(|terminal| terminal.master.as_fd());
        // It may wait for hours: what is open here would stay open.
        let kept: Vec<_> = [ends.channel, ends.control]
            .into_iter()
            .chain(master)
            .collect();
        sys_process::close_all_but(&kept);
        report::ready(ends.channel, master)?;
        if let Some(Terminal { master, slave }) = terminal {
            drop(master);
            // Its number is closed already.
            std::mem::forget(slave);
        }
        fds::close_copy(ends.channel.as_raw_fd());
        Ok(program)
    };
    let result = catch_unwind(AssertUnwindSafe(ready))
        .unwrap_or_else(|_| Err(Failure::unspecified("the container engine panicked")));
    match result {
        Err(failure) => report::failed(ends.channel, &failure),
        Ok(program) => {
            ends.wait();
            let why = program.execute(filter);
            ends.tell_not_executed(&why);
        }
    }
    clone::exit_now(NOT_EXECUTED)
}

/// All that `execve(2)` takes.
struct Executable {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Executable {
    /// Returns only with why it could not.
    fn execute(&self, filter: Option<&Filter>) -> Failure {
        let execution = Execution::new(&self.path, &self.args, &self.env);
        // The last step, so that a profile need not allow any of ours.
        if let Some(Err(error)) = filter.map(Filter::load) {
            return Failure::unspecified(format!("linux.seccomp: load the filter: {error}"));
        }
        let errno = execution.begin();
        let doing = format_args!("execute {}", self.path.to_string_lossy());
        failed(doing, errno).of_execve(errno)
    }
}

fn own_keyring() -> Result<(), Failure> {
    match identity::own_keyring() {
        Err(Errno::ENOSYS) => Ok(()),
        done => done.step(|| "make a session keyring"),
    }
}

fn name(plan: &Plan) -> Result<(), Failure> {
    if !plan.hostname.is_empty() {
        sethostname(&plan.hostname).step(|| format!("hostname: set {:?}", plan.hostname))?;
    }
    if !plan.domain.is_empty() {
        identity::set_domain(&plan.domain).step(|| format!("domainname: set {:?}", plan.domain))?;
    }
    Ok(())
}

/// Puts the container's root on top of what the namespace began with, and goes there; for hooks
/// at its place in the VM's tree.
fn enter_root(root: OwnedFd, hooks: Option<&Pause>, plan: &Plan) -> Result<Root, Failure> {
    let slave = Change::new(0, 0, MsFlags::MS_SLAVE.bits());
    mountfd::change(&root, &slave, true).step(|| "root: make its mounts private")?;
    if let Some(hooks) = hooks {
        hooks.attach(&root, &plan.root.path)?;
        return Ok(Root::new(root));
    }
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    nix::fcntl::open("/", flags, Mode::empty())
        .and_then(|floor| mountfd::attach(&root, floor))
        .and_then(|()| fchdir(&root))
        .and_then(|()| chroot("."))
        .step(|| format!("root.path: enter {}", plan.root.path.display()))?;
    Ok(Root::new(root))
}

/// Written to a procfs of this process's own, for the container's may be anything.
fn sysctls(all: &[Sysctl]) -> Result<(), Failure> {
    if all.is_empty() {
        return Ok(());
    }
    let proc = FsContext::open(c"proc").and_then(|context| context.create(0));
    let proc = proc.step(|| "linux.sysctl: make a procfs")?;
    for sysctl in all {
        let path = format!("sys/{}", sysctl.path);
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        openat(&proc, path.as_str(), flags, Mode::empty())
            .and_then(|file| write(file, sysctl.value.as_bytes()))
            .step(|| format!("{}: write {:?}", sysctl.member, sysctl.value))?;
    }
    Ok(())
}

fn finish_root(root: &Root, plan: &Plan) -> Result<(), Failure> {
    if plan.root.read_only {
        mountfd::change(root, &READ_ONLY, false).step(|| "root.readonly")?;
    }
    if let Some((propagation, below)) = &plan.root.propagation {
        mountfd::change(root, propagation, *below).step(|| "linux.rootfsPropagation")?;
    }
    Ok(())
}
