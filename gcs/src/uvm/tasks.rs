//! Tasks under way: each has a deadline, after which its request is answered whatever the
//! child does, and code that goes on with the result.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc::SIGKILL;
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde::Serialize;

use super::{note_poll_error, Child, Deadline, Key, Source, Uvm};
use crate::error::Failure;
use crate::log::{Scope, Span};
use crate::prot::HResult;
use crate::reactor::{Interest, Registration, TimerKey};
use crate::storage::{self, Journal};
use crate::sys::pidfd;
use crate::sys::process::{self, ExitStatus};
use crate::task::{self, Channel, Received, Running};

type Then = Box<dyn FnOnce(&mut Uvm, Result<Finished, Failure>)>;
type Over = Box<dyn FnOnce(&mut Uvm)>;

/// An undo that takes longer leaves the rest.
const UNDO_LIMIT: Duration = Duration::from_secs(120);

/// What a task has said of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// It was killed or died; or it was through, but nobody waited any more.
    Nothing,
    Success,
    /// It has undone what it did.
    Failure,
}

/// What a task left behind.
pub struct Finished {
    bytes: Vec<u8>,
    pub fds: Vec<OwnedFd>,
    exit: ExitStatus,
}

pub struct Task {
    label: String,
    pid: Pid,
    /// What it was started for; its end is about the same.
    scope: Scope,
    span: Span,
    timer: Option<TimerKey>,
    channel: Option<(OwnedFd, Registration)>,
    received: Received,
    exit: Option<ExitStatus>,
    /// Gone once the request was answered because the deadline came first.
    then: Option<Then>,
    /// What must wait until the child can do nothing more.
    over: Option<Over>,
    /// Its result is known; its end is all that is missing.
    told: bool,
}

impl Task {
    fn end_span(&self) {
        self.span.end("task", &self.label, |record| {
            record.field("pid", self.pid.as_raw());
        });
    }
}

/// Ends the processes whose pidfds are among `fds`: the engine names one that it is making, and
/// has failed or was killed since. Other descriptors are left alone.
pub(super) fn kill_named(fds: &[OwnedFd]) {
    for fd in fds {
        match pidfd::signal(fd, SIGKILL) {
            Ok(()) => log::info!("a process that the container engine left half-made is killed"),
            // Gone already, or no pidfd.
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

    /// The same for work that changes the machine in steps and notes them in its journal. It
    /// undoes them itself when it fails; when it is killed or dies, another task does. `failed`
    /// comes after `then` when there was no success, and not before all of it is over.
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
        // Without a journal nothing is begun.
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
        let told = Rc::new(Cell::new(Told::Nothing));
        let heard = Rc::clone(&told);
        let then = move |uvm: &mut Self, finished: Result<Finished, Failure>| {
            let report =
                finished.and_then(|f| task::decode_report::<Result<T, Failure>>(&f.bytes, f.exit));
            let result = report.and_then(|result| {
                heard.set(match result {
                    Ok(_) => Told::Success,
                    Err(_) => Told::Failure,
                });
                result
            });
            then(uvm, result);
        };
        let label = doing.clone();
        let over = move |uvm: &mut Self| match told.get() {
            Told::Success => {}
            Told::Failure => failed(uvm),
            Told::Nothing => uvm.undo(&label, &journal, failed),
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

    /// Has the container engine carry out `order` in a process of its own; `then` also gets the
    /// descriptors that came with the report. A process that it named by a pidfd dies when it
    /// does not come to a report.
    pub fn run_helper<T, R, F>(
        &mut self,
        doing: impl Into<String>,
        limit: Duration,
        order: &T,
        stdio: [BorrowedFd<'_>; 3],
        then: F,
    ) where
        T: Serialize,
        R: DeserializeOwned,
        F: FnOnce(&mut Self, Result<(R, Vec<OwnedFd>), Failure>) + 'static,
    {
        let started = task::helper(crate::runtime::APPLET, order, stdio);
        let then = move |uvm: &mut Self, finished: Result<Finished, Failure>| {
            let result = finished.and_then(|f| {
                let report =
                    task::decode_report(&f.bytes, f.exit).inspect_err(|_| kill_named(&f.fds))?;
                Ok((report, f.fds))
            });
            then(uvm, result);
        };
        self.supervise(doing.into(), limit, started, then, None);
    }

    fn supervise(
        &mut self,
        label: String,
        limit: Duration,
        started: std::io::Result<Running>,
        then: impl FnOnce(&mut Self, Result<Finished, Failure>) + 'static,
        over: Option<Over>,
    ) {
        let Running { pid, channel } = match started {
            Ok(running) => running,
            Err(error) => {
                let failure = Failure::unspecified(format!("{label}: starting a child: {error}"));
                then(self, Err(failure));
                return over.map_or((), |over| over(self));
            }
        };
        let key = self.key();
        let timer = self.timers.add(Instant::now() + limit, Deadline::Task(key));
        let mut registration = Registration::default();
        let watched = self.poller.watch(
            &mut registration,
            channel.as_fd(),
            Interest::READ,
            Source::Task(key),
        );
        note_poll_error(&label, watched);
        self.expect_exit(pid, Child::Task(key));
        self.tasks.insert(
            key,
            Task {
                label,
                pid,
                scope: Scope::current(),
                span: Span::begin(),
                timer: Some(timer),
                channel: Some((channel, registration)),
                received: Received::default(),
                exit: None,
                then: Some(Box::new(then)),
                over,
                told: false,
            },
        );
    }

    pub(super) fn task_ready(&mut self, key: Key) {
        let Some(task) = self.tasks.get_mut(&key) else {
            return;
        };
        let Some((channel, registration)) = &mut task.channel else {
            return;
        };
        let _about = task.scope.enter();
        match task.received.read(channel, &mut self.scratch) {
            Ok(Channel::Open(_)) if !task.received.is_whole() => return,
            Ok(_) => {}
            Err(error) => {
                log::error!("{}: reading the result: {error}", task.label);
                task.received.bytes.clear();
            }
        }
        note_poll_error(
            &task.label,
            self.poller.forget(registration, channel.as_fd()),
        );
        task.channel = None;
        self.task_told(key);
        self.task_settle(key);
    }

    /// Goes on with a result that is whole: what is left of the child is its end.
    fn task_told(&mut self, key: Key) {
        let Some(task) = self.tasks.get_mut(&key) else {
            return;
        };
        if !task.received.is_whole() {
            return;
        }
        task.told = true;
        // Its answer comes out of `then`; the child's own end is nobody's time.
        task.end_span();
        let over = task.over.take();
        if let Some(then) = task.then.take() {
            let Received { bytes, fds } = std::mem::take(&mut task.received);
            let exit = ExitStatus::Exited(0);
            then(self, Ok(Finished { bytes, fds, exit }));
        }
        if let Some(over) = over {
            over(self);
        }
    }

    pub(super) fn task_exited(&mut self, key: Key, status: ExitStatus) {
        if let Some(task) = self.tasks.get_mut(&key) {
            task.exit = Some(status);
            self.task_settle(key);
        }
    }

    /// A task is over when it was reaped and its channel is at its end.
    fn task_settle(&mut self, key: Key) {
        let over = |task: &Task| task.channel.is_none() && task.exit.is_some();
        if !self.tasks.get(&key).is_some_and(over) {
            return;
        }
        let Some(task) = self.tasks.remove(&key) else {
            return;
        };
        if let Some(timer) = task.timer {
            self.timers.cancel(timer);
        }
        let _about = task.scope.enter();
        if !task.told {
            task.end_span();
        }
        if let (Some(then), Some(exit)) = (task.then, task.exit) {
            let Received { bytes, fds } = task.received;
            then(self, Ok(Finished { bytes, fds, exit }));
        }
        if let Some(over) = task.over {
            over(self);
        }
        if self.tasks.is_empty() {
            self.unclaimed.clear();
        }
    }

    /// The deadline came: the child is killed and the request answered. A child that cannot die
    /// (stuck in the kernel) stays on the books until it does.
    pub(super) fn task_overdue(&mut self, key: Key) {
        let Some(task) = self.tasks.get_mut(&key) else {
            return;
        };
        let _about = task.scope.enter();
        task.timer = None;
        // A reaped child's number may be another's; then only what it left holds the channel.
        if task.exit.is_none() {
            process::kill_group(task.pid).ok();
        }
        // Nobody reads it any more, and an orphan of the child may hold it open for ever.
        if let Some((channel, mut registration)) = task.channel.take() {
            // The last chance to learn of a process made; with the channel closed, one that was
            // not named yet fails to do so and goes no further.
            while matches!(
                task.received.read(&channel, &mut self.scratch),
                Ok(Channel::Open(1..))
            ) {}
            kill_named(&task.received.fds);
            let forgotten = self.poller.forget(&mut registration, channel.as_fd());
            note_poll_error(&task.label, forgotten);
        }
        let failure = Failure::new(
            HResult::TIMEOUT,
            format!("{}: not done after {:?}", task.label, task.span.elapsed()),
        );
        log::error!("{failure}");
        if let Some(then) = task.then.take() {
            then(self, Err(failure));
        }
        self.task_settle(key);
    }

    pub(super) fn describe_tasks(&self) -> Vec<String> {
        let line = |task: &Task| {
            let stuck = match (task.told, &task.then) {
                (true, _) => " (ending)",
                (false, None) => " (overdue, killed)",
                (false, Some(_)) => "",
            };
            format!(
                "pid {} {:?} {}{stuck}",
                task.pid,
                task.span.elapsed(),
                task.label
            )
        };
        self.tasks.values().map(line).collect()
    }

    /// The label and the child of each task, for the state dump.
    pub(super) fn task_children(&self) -> impl Iterator<Item = (&str, Pid)> {
        self.tasks
            .values()
            .map(|task| (task.label.as_str(), task.pid))
    }

    pub(super) fn task_label(&self, key: Key) -> Option<&str> {
        self.tasks.get(&key).map(|task| task.label.as_str())
    }
}
