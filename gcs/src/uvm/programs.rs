//! VM processes between fork and exec. The exec of a program on a slow share may take long, so its
//! outcome arrives as an event.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc::SIGKILL;
use nix::unistd::{read, Pid};

use super::pending::{Awaited, Progress, Wake, Work, WorkKey, WorkKind};
use super::Uvm;
use crate::error::Failure;
use crate::log::Span;
use crate::prot::HResult;
use crate::reactor::Interest;
use crate::sys::process::{self, ExitStatus, Program, StartFailure, StartStep};

type ProgramStarted = Box<dyn FnOnce(&mut Uvm, Result<Started, Failure>)>;

/// A program that runs, or ran.
pub struct Started {
    pub pid: Pid,
    /// Set when it ended before its start was noticed.
    pub exit: Option<ExitStatus>,
}

struct StartingProgram {
    pid: Pid,
    /// Carries the reason when the exec fails. When it closes without one, the exec has succeeded.
    status: OwnedFd,
    label: String,
    name: String,
    cwd: String,
    deadline: Instant,
    exit: Option<ExitStatus>,
    span: Span,
    then: Option<ProgramStarted>,
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
                self.begin(StartingProgram {
                    pid,
                    status,
                    label: format!("starting {name:?}"),
                    name,
                    cwd: command.cwd.clone(),
                    deadline: Instant::now() + EXEC_LIMIT,
                    exit: None,
                    span: Span::begin(),
                    then: Some(Box::new(then)),
                });
            }
        }
    }
}

impl Work for StartingProgram {
    fn kind(&self) -> WorkKind {
        WorkKind::Program
    }

    fn label(&self) -> &str {
        &self.label
    }

    fn describe(&self) -> String {
        format!("pid {} {}", self.pid, self.label)
    }

    fn awaited(&self) -> Awaited<'_> {
        Awaited {
            fd: Some((self.status.as_fd(), Interest::READ)),
            until: Some(self.deadline),
            child: self.exit.is_none().then_some(self.pid),
            ..Awaited::default()
        }
    }

    fn wake(&mut self, _: WorkKey, wake: Wake, _: &mut [u8]) -> Progress {
        match wake {
            Wake::Ready => {
                let mut bytes = [0; 16];
                let failure = match read(&self.status, &mut bytes) {
                    Err(Errno::EAGAIN | Errno::EINTR) => return Progress::Wait,
                    Ok(count) => StartFailure::from_status(&bytes[..count]),
                    Err(_) => None,
                };
                self.settle(match failure {
                    None => Ok(Started {
                        pid: self.pid,
                        exit: self.exit,
                    }),
                    // The child ends by itself, and nobody waits for its exit.
                    Some(failure) => Err(explain(self, failure)),
                })
            }
            // The exec hangs, for example because the host of the share is gone. The child is
            // killed and the request answered.
            Wake::Due => {
                if self.exit.is_none() {
                    process::kill(self.pid, SIGKILL).ok();
                }
                let text = format!("{}: not executed after {EXEC_LIMIT:?}", self.label);
                self.settle(Err(Failure::new(HResult::TIMEOUT, text)))
            }
            Wake::Exited(status) => {
                self.exit = Some(status);
                Progress::Wait
            }
            Wake::Begun | Wake::Device | Wake::Absent => Progress::Wait,
        }
    }
}

impl StartingProgram {
    fn settle(&mut self, result: Result<Started, Failure>) -> Progress {
        self.span.end("task", &self.label, |record| {
            record.field("pid", self.pid.as_raw());
        });
        let then = self.then.take();
        Progress::Over(Box::new(move |uvm| {
            if let Some(then) = then {
                then(uvm, result);
            }
        }))
    }
}

fn explain(starting: &StartingProgram, failure: StartFailure) -> Failure {
    let name = &starting.name;
    let reason = failure.errno.desc();
    let explained = Failure::unspecified(match failure.stage {
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
    });
    match failure.stage {
        StartStep::Exec => explained.of_execve(failure.errno),
        _ => explained,
    }
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
