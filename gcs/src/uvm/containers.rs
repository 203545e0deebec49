//! The containers: the state of each in its life, what it is made of, and its processes. This
//! module only holds state; `create`, `execute`, `exits` and `delete` change it.
//!
//! ```text
//! Creating ─→ Created ─→ Starting ─→ Running ─→ Exited ─→ Deleting ─→ forgotten
//!                 └─────────┴───── init ended ────┘
//! ```

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::engine::Engined;
use super::pending::WorkKey;
use super::processes::{ProcessKey, Processes};
use super::v1::StorageV1;
use crate::bridge::outbox::Ticket;
use crate::bundle::{sandbox_id, Context, Made, Outline};
use crate::error::Failure;
use crate::prot::{ContainerNotification, HResult, NotificationType};

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

    fn describe(&self, id: &str, processes: &Processes) -> String {
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

/// All containers by their id. No bundle lies inside the bundle of another container.
#[derive(Default)]
pub struct Containers(BTreeMap<String, Container>);

impl Containers {
    /// # Errors
    /// The id is in use; or the bundle overlaps with that of another container, which removes it
    /// when it is deleted.
    pub fn add(&mut self, id: &str, container: Container) -> Result<(), Failure> {
        self.check_free(id)?;
        let bundle = &container.bundle;
        let overlaps = |other: &Path| bundle.starts_with(other) || other.starts_with(bundle);
        // A container whose bundle is not known yet shares none.
        let mut others = self.0.iter().filter(|_| !bundle.as_os_str().is_empty());
        if let Some((other, _)) = others.find(|(_, other)| overlaps(&other.bundle)) {
            let text =
                format!("OciBundlePath {bundle:?}: container {other:?} has its bundle there");
            return Err(Failure::new(HResult::INVALID_ARGUMENT, text));
        }
        self.0.insert(id.to_owned(), container);
        Ok(())
    }

    /// # Errors
    /// There is a container of this id.
    pub fn check_free(&self, id: &str) -> Result<(), Failure> {
        if self.0.contains_key(id) {
            let text = format!("there is a container {id:?} already");
            return Err(Failure::new(HResult::SYSTEM_ALREADY_EXISTS, text));
        }
        Ok(())
    }

    /// A workload is refused when its pod does not exist (P-375).
    ///
    /// # Errors
    /// The spec of the container `id` names a sandbox that there is not.
    pub fn check_pod(&self, id: &str, spec: &Value) -> Result<(), Failure> {
        match sandbox_id(spec) {
            Some(sandbox) if sandbox != id && !self.0.contains_key(sandbox) => {
                let text =
                    format!("container {id:?} belongs to pod {sandbox:?}, which is not there");
                Err(Failure::unspecified(text))
            }
            _ => Ok(()),
        }
    }

    /// A container that requests can act on. One that is still being created is in the wrong state
    /// (P-056, P-058).
    pub fn find(&mut self, id: &str) -> Result<&mut Container, Failure> {
        match self.0.get_mut(id) {
            None => Err(Failure::new(
                HResult::SYSTEM_NOT_FOUND,
                format!("there is no container {id:?}"),
            )),
            Some(container) if container.state == ContainerState::Creating => Err(Failure::new(
                HResult::INVALID_STATE,
                format!("container {id:?} is still being created"),
            )),
            Some(container) => Ok(container),
        }
    }

    /// A container in whatever state.
    pub fn get(&self, id: &str) -> Option<&Container> {
        self.0.get(id)
    }

    pub fn get_mut(&mut self, id: &str) -> Option<&mut Container> {
        self.0.get_mut(id)
    }

    pub fn remove(&mut self, id: &str) -> Option<Container> {
        self.0.remove(id)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The process `pid` of a container (P-057).
    pub fn process(
        &mut self,
        id: &str,
        pid: u32,
        processes: &Processes,
    ) -> Result<ProcessKey, Failure> {
        let container = self.find(id)?;
        let exec = container.execs.get(&pid).copied();
        let init = container
            .init
            .filter(|key| processes.pid(*key) == Some(pid));
        exec.or(init).ok_or_else(|| {
            let text = format!("container {id:?} has no process {pid}");
            Failure::new(HResult::NOT_FOUND, text)
        })
    }

    /// The container whose start is under way, unless it has ended or was replaced since.
    pub fn starting(&mut self, id: &str, init: Option<ProcessKey>) -> Option<&mut Container> {
        let same = |c: &&mut Container| c.state == ContainerState::Starting && c.init == init;
        self.0.get_mut(id).filter(same)
    }

    /// The mount sources of all containers except this one. `None` while they are not known,
    /// because one of them is being created.
    pub fn sources_of_others(&self, id: &str) -> Option<Vec<PathBuf>> {
        let mut sources = Vec::new();
        for (_, container) in self.0.iter().filter(|(other, _)| *other != id) {
            sources.extend_from_slice(&container.outline.as_ref()?.sources);
        }
        Some(sources)
    }

    /// The bundles of ended containers whose scratch lies below this path. They are mounted from
    /// there.
    pub fn ended_bundles_on(&self, path: &Path) -> Vec<PathBuf> {
        let ended = self.0.values().filter(|container| {
            container.state == ContainerState::Exited && container.scratch.starts_with(path)
        });
        ended.map(|container| container.bundle.clone()).collect()
    }

    /// One line for each, for the state dump.
    pub fn describe(&self, processes: &Processes) -> Vec<String> {
        let line = |(id, container): (&String, &Container)| container.describe(id, processes);
        self.0.iter().map(line).collect()
    }
}
