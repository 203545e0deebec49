//! Containers: their states, and the end of one.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::process::{Process, Role};
use super::v1::Stage;
use super::{Deadline, Key, Uvm};
use crate::bridge::outbox::Ticket;
use crate::bundle::{Made, Outline};
use crate::error::Failure;
use crate::prot::{ContainerNotification, HResult, NotificationType};

/// How long an exit that nobody waited for yet is kept back.
const WAITER_GRACE: Duration = Duration::from_secs(5);

/// Where a container stands. The order is the order of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// The engine is making it.
    Creating,
    /// Its init waits for ExecuteProcess.
    Created,
    /// ExecuteProcess is under way.
    Starting,
    Running,
    /// Its init was reaped; output may still be on its way.
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

pub struct Container {
    pub state: State,
    /// `ActivityId` of its Create request, for the notification.
    pub activity: String,
    pub bundle: PathBuf,
    /// Removed at DeleteContainerState; empty: nothing is.
    pub scratch: PathBuf,
    /// Of the spec it runs by; none until that is known.
    pub outline: Option<Outline>,
    /// What its Create made for the whole pod, until it has succeeded.
    pub shared: Made,
    /// With its own pid namespace the kernel ends all its processes when init ends.
    pub owns_pid_namespace: bool,
    pub streams: Option<InitStreams>,
    pub init: Option<Key>,
    /// Further processes by pid, until their exit was collected.
    pub execs: BTreeMap<u32, Key>,
    /// What the notification will say of the exit.
    pub exit_type: NotificationType,
    /// Whether its program was to run; else nobody waits for it.
    pub started: bool,
    pub notified: bool,
    /// Its storage, when it is one of the retired protocol.
    pub v1: Option<Stage>,
    /// A DeleteContainerState that waits for the killed init.
    pub delete: Option<Ticket>,
}

impl Container {
    pub fn creating(activity: String, bundle: PathBuf, scratch: PathBuf) -> Self {
        Self {
            state: State::Creating,
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
        }
    }
}

impl Uvm {
    /// A container that requests can be made of; one still being created is in the wrong state
    /// (P-056, P-058).
    pub(super) fn container(&mut self, id: &str) -> Result<&mut Container, Failure> {
        match self.containers.get_mut(id) {
            None => Err(Failure::new(
                HResult::SYSTEM_NOT_FOUND,
                format!("there is no container {id:?}"),
            )),
            Some(container) if container.state == State::Creating => Err(Failure::new(
                HResult::INVALID_STATE,
                format!("container {id:?} is still being created"),
            )),
            Some(container) => Ok(container),
        }
    }

    /// The process `pid` of a container (P-057).
    pub(super) fn container_process(&mut self, id: &str, pid: u32) -> Result<Key, Failure> {
        let container = self.container(id)?;
        let (init, exec) = (container.init, container.execs.get(&pid).copied());
        let is_init = |key: &Key| self.processes.get(key).is_some_and(|p| p.pid == pid);
        exec.or_else(|| init.filter(is_init)).ok_or_else(|| {
            let text = format!("container {id:?} has no process {pid}");
            Failure::new(HResult::NOT_FOUND, text)
        })
    }

    /// Init was reaped: what is left of the container is killed, else its streams would never
    /// end (protocol 6.5).
    pub(super) fn init_exited(&mut self, id: &str) {
        self.end_tenancies(id);
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        container.state = container.state.max(State::Exited);
        container.streams = None;
        self.kill_leftovers(id);
    }

    /// Kills what the end of init has left running (P-213): a pid namespace of the container's
    /// own sees to that itself.
    pub(super) fn kill_leftovers(&mut self, id: &str) {
        if self.containers.get(id).is_none_or(|c| c.owns_pid_namespace) {
            return;
        }
        let id = id.to_owned();
        self.run(
            format!("killing what is left of container {id:?}"),
            super::shutdown::SIGNAL_LIMIT,
            move || crate::runtime::signal_all(&id, nix::libc::SIGKILL),
            |_, result: Result<(), Failure>| {
                if let Err(failure) = result {
                    log::warn!("{failure}");
                }
            },
        );
    }

    /// Init's exit is known to all who waited: the notification follows. When nobody has waited
    /// yet, the host's WaitForProcess is most likely on its way: it gets a moment, so that the
    /// exit code goes first (P-023).
    pub(super) fn container_exited(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let collected = |key| self.processes.get(key).is_some_and(Process::is_collected);
        match container.init {
            Some(key) if container.started && !collected(&key) => {
                self.timers
                    .add(Instant::now() + WAITER_GRACE, Deadline::Notification(key));
            }
            _ => self.notify_exit(id),
        }
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        if let Some(ticket) = container.delete.take() {
            self.notify_exit(id);
            self.delete_files(id.to_owned(), ticket);
        }
    }

    pub(super) fn notification_due(&mut self, key: Key) {
        if let Some(Process {
            role: Role::Init(id),
            ..
        }) = self.processes.get(&key)
        {
            self.notify_exit(&id.clone());
        }
    }

    /// The notification of a container that the host thinks may have exited: when its exit is
    /// known to all who wait for it, who are to hear it first (P-023).
    pub(super) fn notify_if_known(&mut self, id: &str) {
        let init = self.containers.get(id).and_then(|c| c.init);
        let process = init.and_then(|key| self.processes.get(&key));
        if process.is_some_and(Process::is_published) {
            self.notify_exit(id);
        }
    }

    /// The one exit notification of a container (P-210); nothing when it was sent.
    pub(super) fn notify_exit(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        if !container.notified {
            container.notified = true;
            self.outbox.notify(&ContainerNotification::exit(
                id,
                &container.activity,
                container.exit_type.clone(),
            ));
        }
    }

    pub(super) fn describe_containers(&self) -> Vec<String> {
        let line = |(id, container): (&String, &Container)| {
            format!(
                "{id} {:?} init={:?} execs={:?} exit_type={:?} notified={}",
                container.state,
                container
                    .init
                    .and_then(|key| self.processes.get(&key))
                    .map(|p| p.pid),
                container.execs.keys().collect::<Vec<_>>(),
                container.exit_type,
                container.notified
            )
        };
        self.containers.iter().map(line).collect()
    }
}
