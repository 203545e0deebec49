//! Devices that requests wait for. The loop waits for the kernel's events, so a device that never
//! comes does not cost a process.
//!
//! ```text
//! begin ─ look (task) ─ there ── what is to be done with it, in the same task
//!    └───────┴─ not yet ─ its event, or some were lost ─ look again
//!                     └── deadline ─ look once more, and say what is missing
//! ```
//!
//! An event that comes while a task looks makes it look again, so none is missed.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::Serialize;

use super::pending::{Awaited, Continuation, Progress, Wake, Work, WorkKey, WorkKind};
use super::Uvm;
use crate::error::Failure;
use crate::machine::uevent::{Device, Matcher, Uevent};
use crate::storage::Journal;

/// How long a device may take to come, and its task to look for it and use it.
#[derive(Debug, Clone, Copy)]
pub struct ArrivalLimits {
    pub arrival: Duration,
    pub task: Duration,
}

impl Uvm {
    /// Runs `job` in a task once the kernel has made the device. While `job` finds the device not
    /// ready (`None`), it runs again at each event of the device, and must leave nothing behind.
    /// `then` gets the result of `job`, or the failure that the device has not come in time.
    /// `failed` is as in [`Uvm::run_undoable`].
    pub(super) fn run_when_there<T, J>(
        &mut self,
        doing: String,
        limits: ArrivalLimits,
        device: impl Device + 'static,
        job: J,
        then: impl FnOnce(&mut Self, Result<T, Failure>) + 'static,
        failed: impl FnOnce(&mut Self) + 'static,
    ) where
        T: Serialize + DeserializeOwned + 'static,
        J: Fn(&Journal) -> Result<Option<T>, Failure> + 'static,
    {
        let now = Instant::now();
        self.begin(Arrival {
            label: doing,
            limit: limits.task,
            device: Rc::new(device),
            started: now,
            deadline: Some(now + limits.arrival),
            state: ArrivalState::Waiting,
            job: Rc::new(job),
            outcome: Rc::new(ArrivalOutcome {
                then: Cell::new(Some(Box::new(then))),
                failed: Cell::new(Some(Box::new(failed))),
            }),
        });
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ArrivalState {
    Waiting,
    Looking {
        /// It may have come since.
        again: bool,
    },
}

type DeviceUsed<T> = Box<dyn FnOnce(&mut Uvm, Result<T, Failure>)>;

/// What is called in the end, by whichever task or deadline comes first.
struct ArrivalOutcome<T> {
    then: Cell<Option<DeviceUsed<T>>>,
    failed: Cell<Option<Continuation>>,
}

impl<T> ArrivalOutcome<T> {
    fn settle(&self, uvm: &mut Uvm, result: Result<T, Failure>) {
        if let Some(then) = self.then.take() {
            then(uvm, result);
        }
    }

    fn failed(&self, uvm: &mut Uvm) {
        if let Some(failed) = self.failed.take() {
            failed(uvm);
        }
    }
}

/// Looks for the device and uses it; none when it is not there.
type Look<T> = dyn Fn(&Journal) -> Result<Option<T>, Failure>;

struct Arrival<T> {
    /// What the device is needed for.
    label: String,
    limit: Duration,
    device: Rc<dyn Device>,
    started: Instant,
    /// None when it has come.
    deadline: Option<Instant>,
    state: ArrivalState,
    job: Rc<Look<T>>,
    outcome: Rc<ArrivalOutcome<T>>,
}

impl<T: Serialize + DeserializeOwned + 'static> Arrival<T> {
    fn look(&mut self, own: WorkKey) -> Progress {
        self.state = ArrivalState::Looking { again: false };
        let is_last = self.deadline.is_none();
        let (label, limit, started) = (self.label.clone(), self.limit, self.started);
        let (device, job) = (Rc::clone(&self.device), Rc::clone(&self.job));
        let job = move |journal: &Journal| match job(journal)? {
            // The answer is made in the task, because the last look for what is missing may block.
            None if is_last => device.missing(started.elapsed()).map_or(Ok(None), Err),
            looked => Ok(looked),
        };
        let (found, undone) = (Rc::clone(&self.outcome), Rc::clone(&self.outcome));
        Progress::Go(Box::new(move |uvm| {
            let late = format!("{label}: the device came too late");
            let then = move |uvm: &mut Uvm, looked: Result<Option<T>, Failure>| {
                let result = match looked {
                    Ok(None) if !is_last => return uvm.wake(own, Wake::Absent),
                    Ok(None) => Err(Failure::unspecified(late)),
                    Ok(Some(found)) => Ok(found),
                    Err(failure) => Err(failure),
                };
                uvm.cancel(own);
                found.settle(uvm, result);
            };
            let failed = move |uvm: &mut Uvm| undone.failed(uvm);
            uvm.run_undoable(label, limit, &[], job, then, failed);
        }))
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Work for Arrival<T> {
    fn kind(&self) -> WorkKind {
        WorkKind::Arrival
    }

    fn label(&self) -> &str {
        &self.label
    }

    fn describe(&self) -> String {
        let (label, state) = (&self.label, self.state);
        format!("{label} for {:?}: {state:?}", self.started.elapsed())
    }

    fn awaited(&self) -> Awaited<'_> {
        Awaited {
            until: self.deadline,
            device: Some(&*self.device),
            ..Awaited::default()
        }
    }

    fn wake(&mut self, own: WorkKey, wake: Wake, _: &mut [u8]) -> Progress {
        match wake {
            // Most devices have not arrived yet, and that can be seen without a process.
            Wake::Begun if self.device.is_announced() => self.look(own),
            Wake::Absent => match std::mem::replace(&mut self.state, ArrivalState::Waiting) {
                ArrivalState::Looking { again: true } => self.look(own),
                ArrivalState::Looking { again: false } | ArrivalState::Waiting => Progress::Wait,
            },
            Wake::Due | Wake::Device => {
                if wake == Wake::Due {
                    self.deadline = None;
                }
                match &mut self.state {
                    ArrivalState::Looking { again } => {
                        *again = true;
                        Progress::Wait
                    }
                    ArrivalState::Waiting => self.look(own),
                }
            }
            Wake::Begun | Wake::Ready | Wake::Exited(_) => Progress::Wait,
        }
    }
}

/// Several devices, all of which have to be there.
pub struct AllOf(pub Vec<Box<dyn Device>>);

impl Matcher for AllOf {
    fn is_match(&self, event: &Uevent) -> bool {
        self.0.iter().any(|device| device.is_match(event))
    }
}

impl Device for AllOf {
    fn is_announced(&self) -> bool {
        self.0.iter().all(|device| device.is_announced())
    }

    fn missing(&self, waited: Duration) -> Option<Failure> {
        self.0.iter().find_map(|device| device.missing(waited))
    }
}
