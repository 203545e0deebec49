//! Programs of the utility VM between fork and exec: the exec may take its time (a program on
//! a slow share), so its outcome arrives as an event.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::libc::SIGKILL;
use nix::unistd::{read, Pid};

use super::{note_poll_error, Child, Deadline, Key, Source, Uvm};
use crate::error::Failure;
use crate::log::{Scope, Span};
use crate::prot::HResult;
use crate::reactor::{Interest, Registration, TimerKey};
use crate::sys::process::{self, ExitStatus, Program, StartFailure, StartStep};

type Then = Box<dyn FnOnce(&mut Uvm, Result<Started, Failure>)>;

/// A program that runs, or ran.
pub struct Started {
    pub pid: Pid,
    /// Set when it ended before its start was noticed.
    pub exit: Option<ExitStatus>,
}

pub struct Starting {
    pid: Pid,
    status: OwnedFd,
    registration: Registration,
    name: String,
    cwd: String,
    timer: TimerKey,
    exit: Option<ExitStatus>,
    scope: Scope,
    span: Span,
    then: Then,
}

/// How long the exec of a program may take.
const EXEC_LIMIT: Duration = Duration::from_secs(60);

/// Where programs named without a slash are looked up: the service's PATH (P-175).
const SEARCH: [&str; 4] = ["/sbin", "/usr/sbin", "/bin", "/usr/bin"];

/// What to start.
pub struct Command {
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Empty: the service's own.
    pub cwd: String,
    pub controlling_terminal: bool,
    /// A place for cores was named.
    pub dumps_core: bool,
}

fn c_string(text: impl Into<Vec<u8>>, what: &str) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| Failure::unspecified(format!("{what} contains a NUL")))
}

impl Uvm {
    /// Starts a program with the three descriptors, and goes on once it runs or failed to.
    pub fn start_program<F>(&mut self, command: &Command, stdio: [BorrowedFd<'_>; 3], then: F)
    where
        F: FnOnce(&mut Self, Result<Started, Failure>) + 'static,
    {
        let name = command.args.first().cloned().unwrap_or_default();
        match fork_program(command, stdio) {
            Err(failure) => then(self, Err(failure.during(format!("starting {name:?}")))),
            Ok((pid, status)) => {
                let key = self.key();
                let mut starting = Starting {
                    pid,
                    status,
                    registration: Registration::default(),
                    name,
                    cwd: command.cwd.clone(),
                    timer: self
                        .timers
                        .add(Instant::now() + EXEC_LIMIT, Deadline::Program(key)),
                    exit: None,
                    scope: Scope::current(),
                    span: Span::begin(),
                    then: Box::new(then),
                };
                let watched = self.poller.watch(
                    &mut starting.registration,
                    starting.status.as_fd(),
                    Interest::READ,
                    Source::Program(key),
                );
                note_poll_error("a starting program", watched);
                self.expect_exit(pid, Child::Program(key));
                self.programs.insert(key, starting);
            }
        }
    }

    pub(super) fn program_exited(&mut self, key: Key, status: ExitStatus) {
        if let Some(starting) = self.programs.get_mut(&key) {
            starting.exit = Some(status);
        }
    }

    pub(super) fn program_ready(&mut self, key: Key) {
        let Some(starting) = self.programs.remove(&key) else {
            return;
        };
        let mut bytes = [0; 16];
        let failure = match read(&starting.status, &mut bytes) {
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {
                self.programs.insert(key, starting);
                return;
            }
            Ok(count) => StartFailure::from_status(&bytes[..count]),
            Err(_) => None,
        };
        let result = match failure {
            None => Ok(Started {
                pid: starting.pid,
                exit: starting.exit,
            }),
            // The child ends by itself; its exit then belongs to nobody.
            Some(failure) => Err(explain(&starting, failure)),
        };
        self.program_settled(starting, result);
    }

    /// The exec hangs (a program on a share whose host is gone): the child is killed and the
    /// request answered.
    pub(super) fn program_overdue(&mut self, key: Key) {
        let Some(starting) = self.programs.remove(&key) else {
            return;
        };
        if starting.exit.is_none() {
            process::kill(starting.pid, SIGKILL).ok();
        }
        let name = &starting.name;
        let text = format!("starting {name:?}: not executed after {EXEC_LIMIT:?}");
        self.program_settled(starting, Err(Failure::new(HResult::TIMEOUT, text)));
    }

    fn program_settled(&mut self, mut starting: Starting, result: Result<Started, Failure>) {
        let _about = starting.scope.enter();
        starting
            .span
            .end("task", &format!("starting {:?}", starting.name), |record| {
                record.field("pid", starting.pid.as_raw());
            });
        self.timers.cancel(starting.timer);
        let forgotten = self
            .poller
            .forget(&mut starting.registration, starting.status.as_fd());
        note_poll_error("a starting program", forgotten);
        if starting.exit.is_none() {
            self.children.remove(&starting.pid);
        }
        (starting.then)(self, result);
    }
}

fn explain(starting: &Starting, failure: StartFailure) -> Failure {
    let name = &starting.name;
    let reason = failure.errno.desc();
    Failure::unspecified(match failure.stage {
        StartStep::Exec if name.contains('/') => format!("starting {name:?}: {reason}"),
        StartStep::Exec => format!(
            "starting {name:?}: {reason} (looked in {})",
            SEARCH.join(":")
        ),
        StartStep::Directory => {
            format!("starting {name:?}: directory {:?}: {reason}", starting.cwd)
        }
        StartStep::Terminal => format!("starting {name:?}: taking the terminal: {reason}"),
        StartStep::Descriptors => format!("starting {name:?}: placing its streams: {reason}"),
    })
}

fn fork_program(command: &Command, stdio: [BorrowedFd<'_>; 3]) -> Result<(Pid, OwnedFd), Failure> {
    let Some(name) = command.args.first() else {
        return Err(Failure::new(
            HResult::INVALID_ARGUMENT,
            "no program is named",
        ));
    };
    let candidates = if name.contains('/') {
        vec![c_string(name.as_str(), "the program's name")?]
    } else {
        SEARCH
            .iter()
            .map(|dir| c_string(format!("{dir}/{name}"), "the program's name"))
            .collect::<Result<_, _>>()?
    };
    let argv = command
        .args
        .iter()
        .map(|arg| c_string(arg.as_str(), "an argument"))
        .collect::<Result<Vec<_>, _>>()?;
    let env = command
        .env
        .iter()
        .map(|(name, value)| c_string(format!("{name}={value}"), "an environment variable"))
        .collect::<Result<Vec<_>, _>>()?;
    let cwd = match command.cwd.as_str() {
        "" => None,
        dir => Some(c_string(dir, "the directory")?),
    };
    process::start(&Program {
        candidates: &candidates,
        argv: &argv,
        env: &env,
        cwd: cwd.as_deref().map(|dir: &CStr| dir),
        fds: &stdio,
        controlling_terminal: command.controlling_terminal,
        dumps_core: command.dumps_core,
    })
    .map_err(|error| Failure::unspecified(format!("making a child: {error}")))
}
