//! Processes of the engine between their start and their `execve`.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc::SIGKILL;
use nix::sys::socket::{send, MsgFlags};
use nix::unistd::{read, Pid};

use super::pending::{Awaited, Progress, Wake, Work, WorkKey, WorkKind};
use super::Uvm;
use crate::engine::{read_reason, REASON_MAX};
use crate::error::Failure;
use crate::log::Span;
use crate::prot::HResult;
use crate::reactor::Interest;
use crate::sys::process::{self, ExitStatus};

/// There is nothing to wait for except a slow disk.
const START_LIMIT: Duration = Duration::from_secs(60);

type ProcessStarted = Box<dyn FnOnce(&mut Uvm, Result<Option<ExitStatus>, Failure>)>;

/// A process that nobody owns except its start.
pub struct StartingChild {
    pub pid: Pid,
    pub exit: Option<ExitStatus>,
}

/// A process between its start and its `execve`, by which its control socket closes; before that
/// comes the reason when there is none.
struct StartingProcess {
    label: String,
    control: OwnedFd,
    child: Option<StartingChild>,
    deadline: Instant,
    reason: Vec<u8>,
    span: Span,
    then: Option<ProcessStarted>,
}

impl Uvm {
    /// Writes the byte that a process waits for, and goes on once it has executed its program.
    /// A `child` without an owner is owned until then, because it may run and end before that is
    /// noticed; `then` gets its exit.
    pub(super) fn start_process(
        &mut self,
        label: String,
        control: OwnedFd,
        child: Option<StartingChild>,
        then: impl FnOnce(&mut Self, Result<Option<ExitStatus>, Failure>) + 'static,
    ) {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        if let Err(errno) = send(control.as_raw_fd(), b"s", flags) {
            let text = format!("{label}: it has ended ({})", errno.desc());
            return then(self, Err(Failure::unspecified(text)));
        }
        self.begin(StartingProcess {
            label,
            control,
            child,
            deadline: Instant::now() + START_LIMIT,
            reason: Vec::new(),
            span: Span::begin(),
            then: Some(Box::new(then)),
        });
    }
}

impl Work for StartingProcess {
    fn kind(&self) -> WorkKind {
        WorkKind::Program
    }

    fn label(&self) -> &str {
        &self.label
    }

    fn describe(&self) -> String {
        self.label.clone()
    }

    fn awaited(&self) -> Awaited<'_> {
        Awaited {
            fd: Some((self.control.as_fd(), Interest::READ)),
            until: Some(self.deadline),
            child: self
                .child
                .as_ref()
                .filter(|child| child.exit.is_none())
                .map(|child| child.pid),
            ..Awaited::default()
        }
    }

    fn wake(&mut self, _: WorkKey, wake: Wake, buffer: &mut [u8]) -> Progress {
        let result = match wake {
            Wake::Ready => match read(&self.control, buffer) {
                Err(Errno::EAGAIN | Errno::EINTR) => return Progress::Wait,
                Ok(count @ 1..) => {
                    let left = REASON_MAX - self.reason.len();
                    self.reason.extend_from_slice(&buffer[..count.min(left)]);
                    return Progress::Wait;
                }
                Ok(0) | Err(_) if self.reason.is_empty() => {
                    Ok(self.child.as_ref().and_then(|child| child.exit))
                }
                Ok(_) | Err(_) => Err(read_reason(&self.reason).during(&self.label)),
            },
            Wake::Due => {
                // Nobody would own it afterwards. An init is killed by its container.
                if let Some(StartingChild { pid, exit: None }) = self.child {
                    process::kill(pid, SIGKILL).ok();
                }
                let label = &self.label;
                let text = format!("{label}: its program was not executed within {START_LIMIT:?}");
                Err(Failure::new(HResult::TIMEOUT, text))
            }
            Wake::Exited(status) => {
                if let Some(child) = &mut self.child {
                    child.exit = Some(status);
                }
                return Progress::Wait;
            }
            Wake::Begun | Wake::Device | Wake::Absent => return Progress::Wait,
        };
        self.span.end("task", &self.label, |_| {});
        let then = self.then.take();
        Progress::Over(Box::new(move |uvm| {
            if let Some(then) = then {
                then(uvm, result);
            }
        }))
    }
}
