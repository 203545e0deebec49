//! A container: its state in its life, what it is made of, and its processes. This module only
//! holds state; `create`, `execute`, `exits` and `delete` change it.
//!
//! ```text
//! Creating ─→ Created ─→ Starting ─→ Running ─→ Exited ─→ Deleting ─→ forgotten
//!                 └─────────┴───── init ended ────┘
//! ```

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::engine::Engined;
use super::pending::WorkKey;
use super::processes::{ProcessKey, Processes};
use super::v1::StorageV1;
use crate::bridge::outbox::Ticket;
use crate::bundle::{Context, Made, Outline};
use crate::prot::{ContainerNotification, NotificationType};

/// The state of a container, in the order in which a container passes through them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContainerState {
    /// The engine is making it.
    Creating,
    /// Its init waits for ExecuteProcess.
    Created,
    /// ExecuteProcess is under way.
    Starting,
    Running,
    /// Its init was reaped; its output may not have reached the host yet.
    Exited,
    /// DeleteContainerState is under way.
    Deleting,
}

/// The relay's ends of init's streams, from Create until ExecuteProcess.
pub enum InitStreams {
    Pipes {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    Terminal(OwnedFd),
}

/// A DeleteContainerState that waits for the killed init.
pub struct WaitingDelete {
    pub ticket: Ticket,
    /// Its time-out.
    pub timer: Option<WorkKey>,
}

pub struct Container {
    state: ContainerState,
    /// `ActivityId` of its Create request, for the notification.
    activity: String,
    bundle: PathBuf,
    /// The directory that DeleteContainerState removes; an empty path means none.
    scratch: PathBuf,
    /// A summary of its spec, once that is known.
    outline: Option<Outline>,
    /// What its Create has made for the whole pod, kept until the Create has succeeded.
    shared: Made,
    /// With its own pid namespace the kernel ends all its processes when init ends.
    owns_pid_namespace: bool,
    streams: Option<InitStreams>,
    init: Option<ProcessKey>,
    /// Further processes by pid, until their exit was collected.
    execs: BTreeMap<u32, ProcessKey>,
    /// What the notification will say of the exit.
    exit_type: NotificationType,
    /// Whether its start was asked for. Otherwise nobody waits for its exit.
    started: bool,
    notified: bool,
    /// Its storage, when it is one of the retired protocol.
    v1: Option<StorageV1>,
    delete: Option<WaitingDelete>,
    /// None until the engine has made it.
    engined: Option<Engined>,
}

impl Container {
    pub fn creating(activity: String, bundle: PathBuf, scratch: PathBuf) -> Self {
        Self {
            state: ContainerState::Creating,
            activity,
            bundle,
            scratch,
            outline: None,
            shared: Made::default(),
            owns_pid_namespace: false,
            streams: None,
            init: None,
            execs: BTreeMap::new(),
            exit_type: NotificationType::UnexpectedExit,
            started: false,
            notified: false,
            v1: None,
            delete: None,
            engined: None,
        }
    }

    pub fn state(&self) -> ContainerState {
        self.state
    }

    /// Whether its init has ended.
    pub fn has_exited(&self) -> bool {
        self.state >= ContainerState::Exited
    }

    pub fn bundle(&self) -> &Path {
        &self.bundle
    }

    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// The directory of its generated files.
    pub fn own_directory(&self, id: &str) -> PathBuf {
        let known = self.outline.as_ref().map(|outline| outline.own.clone());
        known.unwrap_or_else(|| Context::default().root(id, &self.bundle))
    }

    pub fn outline(&self) -> Option<&Outline> {
        self.outline.as_ref()
    }

    pub fn init(&self) -> Option<ProcessKey> {
        self.init
    }

    pub fn owns_pid_namespace(&self) -> bool {
        self.owns_pid_namespace
    }

    pub fn set_owns_pid_namespace(&mut self, owns: bool) {
        self.owns_pid_namespace = owns;
    }

    /// Its files are written.
    pub fn prepared(&mut self, outline: Outline, shared: Made, owns_pid_namespace: bool) {
        self.outline = Some(outline);
        self.shared = shared;
        self.owns_pid_namespace = owns_pid_namespace;
    }

    /// What a failed Create has to undo.
    pub fn take_shared(&mut self) -> Made {
        std::mem::take(&mut self.shared)
    }

    /// Its init waits to be started. `streams` are for the relay.
    pub fn created(&mut self, streams: InitStreams) {
        self.state = ContainerState::Created;
        self.shared = Made::default();
        self.streams = Some(streams);
    }

    /// The same in the retired protocol, where the init comes with the start.
    pub fn created_v1(&mut self, bundle: PathBuf, storage: StorageV1) {
        self.state = ContainerState::Created;
        self.bundle = bundle;
        self.v1 = Some(storage);
    }

    /// The engine has made it.
    pub fn set_engined(&mut self, engined: Engined) {
        self.engined = Some(engined);
    }

    pub fn engined(&self) -> Option<&Engined> {
        self.engined.as_ref()
    }

    /// The end by which its init is started, once.
    pub fn take_control(&mut self) -> Option<OwnedFd> {
        self.engined.as_mut()?.take_control()
    }

    pub fn set_init(&mut self, init: ProcessKey) {
        self.init = Some(init);
    }

    pub fn begin_start(&mut self) {
        self.state = ContainerState::Starting;
    }

    /// The streams of its init, which can be taken once.
    pub fn take_streams(&mut self) -> Option<InitStreams> {
        self.streams.take()
    }

    /// Notes whether its start was asked for, so that somebody will wait for its exit.
    pub fn set_started(&mut self, started: bool) {
        self.started = started;
    }

    pub fn is_started(&self) -> bool {
        self.started
    }

    /// Its program runs, unless it has ended already.
    pub fn runs(&mut self) {
        if self.state == ContainerState::Starting {
            self.state = ContainerState::Running;
        }
    }

    /// Its start has failed before it did anything: it can be started again.
    pub fn start_undone(&mut self) {
        if self.state == ContainerState::Starting {
            self.state = ContainerState::Created;
        }
    }

    /// Its init was reaped.
    pub fn init_exited(&mut self) {
        self.state = self.state.max(ContainerState::Exited);
        self.streams = None;
    }

    pub fn begin_delete(&mut self, waiting: Option<WaitingDelete>) {
        self.state = ContainerState::Deleting;
        self.delete = waiting;
    }

    /// The DeleteContainerState that goes on now that init has ended.
    pub fn take_delete(&mut self) -> Option<WaitingDelete> {
        self.delete.take()
    }

    /// The deletion has failed. The container goes back to the state it had: its init waits, or has
    /// ended.
    pub fn delete_failed(&mut self, state: ContainerState) {
        self.state = state;
    }

    /// Adds an exec. Returns the one that had its pid before.
    #[must_use]
    pub fn add_exec(&mut self, pid: u32, key: ProcessKey) -> Option<ProcessKey> {
        self.execs.insert(pid, key)
    }

    /// The further process of this pid.
    pub fn exec(&self, pid: u32) -> Option<ProcessKey> {
        self.execs.get(&pid).copied()
    }

    /// Forgets an exec, unless a newer one has its pid by now.
    pub fn forget_exec(&mut self, pid: u32, key: ProcessKey) {
        if self.execs.get(&pid) == Some(&key) {
            self.execs.remove(&pid);
        }
    }

    /// All its processes that are known.
    pub fn processes(&self) -> impl Iterator<Item = ProcessKey> + '_ {
        self.init.iter().chain(self.execs.values()).copied()
    }

    /// Notes what will have caused the exit. Returns what was noted before.
    pub fn note_exit_type(&mut self, exit_type: NotificationType) -> NotificationType {
        std::mem::replace(&mut self.exit_type, exit_type)
    }

    /// Takes a note back, unless a later one was made.
    pub fn forget_exit_type(&mut self, noted: &NotificationType, before: NotificationType) {
        if self.exit_type == *noted {
            self.exit_type = before;
        }
    }

    /// The one exit notification of a container (P-210); none when it was sent.
    pub fn notify(&mut self, id: &str) -> Option<ContainerNotification> {
        let first = !std::mem::replace(&mut self.notified, true);
        first.then(|| ContainerNotification::exit(id, &self.activity, self.exit_type.clone()))
    }

    pub fn v1(&mut self) -> &mut Option<StorageV1> {
        &mut self.v1
    }

    pub fn describe(&self, id: &str, processes: &Processes) -> String {
        format!(
            "{id} {:?} init={:?} execs={:?} exit_type={:?} notified={}",
            self.state,
            self.init.and_then(|key| processes.pid(key)),
            self.execs.keys().collect::<Vec<_>>(),
            self.exit_type,
            self.notified
        )
    }
}
