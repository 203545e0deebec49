//! Running tasks. Each has a deadline, after which its request is answered whatever the child does,
//! and code that goes on with the result.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc::SIGKILL;
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde::Serialize;

use super::pending::{Awaited, Continuation, Progress, Wake, Work, WorkKey, WorkKind};
use super::Uvm;
use crate::error::Failure;
use crate::log::Span;
use crate::prot::HResult;
use crate::reactor::Interest;
use crate::storage::{self, Journal};
use crate::sys::pidfd;
use crate::sys::process::{self, ExitStatus};
use crate::task::{self, Channel, Received, Running};

type TaskDone = Box<dyn FnOnce(&mut Uvm, Result<Finished, Failure>)>;

/// An undo that takes longer leaves the rest.
const UNDO_LIMIT: Duration = Duration::from_secs(120);

/// What a task has reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TaskReport {
    /// It was killed or died, or it reported when nobody waited any more.
    Nothing,
    Success,
    /// It has undone what it did.
    Failure,
}

/// What is left of a task after its end.
pub struct Finished {
    pub bytes: Vec<u8>,
    pub fds: Vec<OwnedFd>,
    exit: ExitStatus,
}

struct Task {
    label: String,
    pid: Pid,
    span: Span,
    /// `None` once it has passed.
    deadline: Option<Instant>,
    /// `None` once it is at its end.
    channel: Option<OwnedFd>,
    received: Received,
    exit: Option<ExitStatus>,
    /// `None` once the request was answered, by the result or by the deadline.
    then: Option<TaskDone>,
    /// What must wait until the child can change nothing any more.
    over: Option<Continuation>,
    /// Its result is known, and only its end is missing.
    told: bool,
}

/// Kills the processes whose pidfds are among `fds`. The engine sends the pidfd of a process that
/// it is making, and has failed or was killed since. Other descriptors are left alone.
pub(super) fn kill_named(fds: &[OwnedFd]) {
    for fd in fds {
        match pidfd::signal(fd, SIGKILL) {
            Ok(()) => log::info!("a process that the container engine left half-made is killed"),
            // The process is gone already, or the descriptor is no pidfd.
            Err(Errno::ESRCH | Errno::EBADF | Errno::EINVAL) => {}
            Err(errno) => log::error!("killing a half-made process: {errno}"),
        }
    }
}

impl Uvm {
    /// Runs `job` in a child and goes on with `then`. `doing` names the work in errors.
    pub fn run<T, J, F>(&mut self, doing: impl Into<String>, limit: Duration, job: J, then: F)
    where
        T: Serialize + DeserializeOwned,
        J: FnOnce() -> Result<T, Failure>,
        F: FnOnce(&mut Self, Result<T, Failure>) + 'static,
    {
        self.run_with(doing, limit, &[], job, then);
    }

    /// The same with descriptors that stay open in the child, beside its channel.
    pub fn run_with<T, J, F>(
        &mut self,
        doing: impl Into<String>,
        limit: Duration,
        keep: &[BorrowedFd<'_>],
        job: J,
        then: F,
    ) where
        T: Serialize + DeserializeOwned,
        J: FnOnce() -> Result<T, Failure>,
        F: FnOnce(&mut Self, Result<T, Failure>) + 'static,
    {
        let started = task::fork(keep, job);
        let then = move |uvm: &mut Self, finished: Result<Finished, Failure>| {
            then(
                uvm,
                finished.and_then(|f| task::decode::<T>(&f.bytes, f.exit)),
            );
        };
        self.supervise(doing.into(), limit, started, then, None);
    }

    /// The same for work that changes the machine in steps and notes them in its journal. When it
    /// fails, it undoes its steps; when it dies or is killed, another task undoes them. Without a
    /// success, `failed` is called after `then` and after all of that.
    pub fn run_undoable<T, J, F>(
        &mut self,
        doing: impl Into<String>,
        limit: Duration,
        keep: &[BorrowedFd<'_>],
        job: J,
        then: F,
        failed: impl FnOnce(&mut Self) + 'static,
    ) where
        T: Serialize + DeserializeOwned,
        J: FnOnce(&Journal) -> Result<T, Failure>,
        F: FnOnce(&mut Self, Result<T, Failure>) + 'static,
    {
        let doing = doing.into();
        // Nothing is begun without a journal.
        let journal = match Journal::new() {
            Ok(journal) => Rc::new(journal),
            Err(error) => {
                let text = format!("{doing}: memory for what has to be undone: {error}");
                then(self, Err(Failure::unspecified(text)));
                return failed(self);
            }
        };
        let kept: Vec<BorrowedFd<'_>> = keep.iter().copied().chain(journal.fd()).collect();
        let started = task::fork(&kept, || job(&journal));
        let told = Rc::new(Cell::new(TaskReport::Nothing));
        let heard = Rc::clone(&told);
        let then = move |uvm: &mut Self, finished: Result<Finished, Failure>| {
            let report =
                finished.and_then(|f| task::decode_report::<Result<T, Failure>>(&f.bytes, f.exit));
            let result = report.and_then(|result| {
                heard.set(match result {
                    Ok(_) => TaskReport::Success,
                    Err(_) => TaskReport::Failure,
                });
                result
            });
            then(uvm, result);
        };
        let label = doing.clone();
        let over = move |uvm: &mut Self| match told.get() {
            TaskReport::Success => {}
            TaskReport::Failure => failed(uvm),
            TaskReport::Nothing => uvm.undo(&label, &journal, failed),
        };
        self.supervise(doing, limit, started, then, Some(Box::new(over)));
    }

    fn undo(&mut self, doing: &str, journal: &Rc<Journal>, then: impl FnOnce(&mut Self) + 'static) {
        let theirs = Rc::clone(journal);
        let keep: Vec<BorrowedFd<'_>> = journal.fd().into_iter().collect();
        self.run_with(
            format!("{doing}: undoing what was done"),
            UNDO_LIMIT,
            &keep,
            move || storage::replay(&theirs),
            move |uvm, undone: Result<(), Failure>| {
                if let Err(failure) = undone {
                    log::error!("{failure}");
                }
                then(uvm);
            },
        );
    }

    /// Watches over a child at work.
    pub(super) fn supervise(
        &mut self,
        label: String,
        limit: Duration,
        started: std::io::Result<Running>,
        then: impl FnOnce(&mut Self, Result<Finished, Failure>) + 'static,
        over: Option<Continuation>,
    ) {
        let Running { pid, channel } = match started {
            Ok(running) => running,
            Err(error) => {
                let failure = Failure::unspecified(format!("{label}: starting a child: {error}"));
                then(self, Err(failure));
                return over.map_or((), |over| over(self));
            }
        };
        self.begin(Task {
            label,
            pid,
            span: Span::begin(),
            deadline: Some(Instant::now() + limit),
            channel: Some(channel),
            received: Received::default(),
            exit: None,
            then: Some(Box::new(then)),
            over,
            told: false,
        });
    }
}

impl Work for Task {
    fn kind(&self) -> WorkKind {
        WorkKind::Task
    }

    fn label(&self) -> &str {
        &self.label
    }

    fn describe(&self) -> String {
        let state = match (self.told, &self.then) {
            (true, _) => " (ending)",
            (false, None) => " (overdue, killed)",
            (false, Some(_)) => "",
        };
        let (pid, elapsed) = (self.pid, self.span.elapsed());
        format!("pid {pid} {elapsed:?} {}{state}", self.label)
    }

    fn awaited(&self) -> Awaited<'_> {
        let channel = self.channel.as_ref().map(AsFd::as_fd);
        Awaited {
            fd: channel.map(|fd| (fd, Interest::READ)),
            until: self.deadline,
            child: self.exit.is_none().then_some(self.pid),
            ..Awaited::default()
        }
    }

    fn wake(&mut self, _: WorkKey, wake: Wake, buffer: &mut [u8]) -> Progress {
        let on = match wake {
            Wake::Ready => self.read(buffer),
            Wake::Due => self.overdue(buffer),
            Wake::Exited(status) => {
                self.exit = Some(status);
                None
            }
            Wake::Begun | Wake::Device | Wake::Absent => None,
        };
        self.settle(on)
    }
}

impl Task {
    /// Takes what has arrived. When the result is complete, it is passed on, and only the end of
    /// the child is awaited.
    fn read(&mut self, buffer: &mut [u8]) -> Option<Continuation> {
        let channel = self.channel.as_ref()?;
        match self.received.read(channel, buffer) {
            Ok(Channel::Open(_)) if !self.received.is_whole() => return None,
            Ok(_) => {}
            Err(error) => {
                log::error!("{}: reading the result: {error}", self.label);
                self.received.bytes.clear();
            }
        }
        self.channel = None;
        if !self.received.is_whole() {
            return None;
        }
        self.told = true;
        // `then` makes the answer, and the time until the child ends is not part of the request.
        self.end_span();
        self.finish(ExitStatus::Exited(0))
    }

    /// The deadline has come. The child is killed and the request answered. A child that is stuck
    /// in the kernel stays on the table until it dies.
    fn overdue(&mut self, buffer: &mut [u8]) -> Option<Continuation> {
        self.deadline = None;
        // Another process may have the pid of a reaped child, so only a child that is not reaped is
        // killed. Its orphans may still hold the channel.
        if self.exit.is_none() {
            process::kill_group(self.pid).ok();
        }
        // Nobody reads the channel any more, and an orphan of the child could hold it open for
        // ever.
        if let Some(channel) = self.channel.take() {
            // This is the last chance to learn of a process that the engine has made. After the
            // channel is closed, the engine cannot name another one and stops.
            while matches!(self.received.read(&channel, buffer), Ok(Channel::Open(1..))) {}
            kill_named(&self.received.fds);
        }
        let elapsed = self.span.elapsed();
        let text = format!("{}: not done after {elapsed:?}", self.label);
        let failure = Failure::new(HResult::TIMEOUT, text);
        log::error!("{failure}");
        let then = self.then.take()?;
        Some(Box::new(move |uvm| then(uvm, Err(failure))))
    }

    /// The task is over when its child is reaped and its channel is at its end. `on` is called in
    /// any case.
    fn settle(&mut self, on: Option<Continuation>) -> Progress {
        let (None, Some(exit)) = (&self.channel, self.exit) else {
            return on.map_or(Progress::Wait, Progress::Go);
        };
        if !self.told {
            self.end_span();
        }
        let rest = self.finish(exit);
        Progress::Over(Box::new(move |uvm| {
            for on in [on, rest].into_iter().flatten() {
                on(uvm);
            }
        }))
    }

    /// Passes on what was received, if somebody waits for it.
    fn finish(&mut self, exit: ExitStatus) -> Option<Continuation> {
        let (then, over) = (self.then.take(), self.over.take());
        if then.is_none() && over.is_none() {
            return None;
        }
        let Received { bytes, fds } = std::mem::take(&mut self.received);
        Some(Box::new(move |uvm| {
            if let Some(then) = then {
                then(uvm, Ok(Finished { bytes, fds, exit }));
            }
            if let Some(over) = over {
                over(uvm);
            }
        }))
    }

    fn end_span(&self) {
        self.span.end("task", &self.label, |record| {
            record.field("pid", self.pid.as_raw());
        });
    }
}
