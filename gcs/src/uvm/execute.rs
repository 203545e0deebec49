//! ExecuteProcess (protocol 4.4, 6): dial the stream ports, start the process, answer its pid.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::unistd::Pid;
use serde_json::Value;

use super::container::{Container, InitStreams, State};
use super::process::Role;
use super::programs::{Command, Started};
use super::streams::{null_streams, Connections, Ports};
use super::tasks::kill_named;
use super::{Key, Uvm};
use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::bundle;
use crate::error::Failure;
use crate::prot::{
    command_line, ContainerResizeConsole, ExecuteProcessSettings, HResult, MessageBase,
    ProcessParameters, UVM_ID,
};
use crate::runtime::{Order, Report};
use crate::stdio::Relay;

/// Over the engine's own limit, which can say more.
pub(super) const START_LIMIT: Duration = Duration::from_secs(70);
const EXEC_LIMIT: Duration = Duration::from_secs(120);

impl Uvm {
    pub(super) fn execute(
        &mut self,
        ticket: Ticket,
        base: &MessageBase,
        settings: ExecuteProcessSettings,
    ) {
        let parameters = settings.process_parameters.into_inner();
        let ports = settings.vsock_stdio_relay_settings;
        let id = base.container_id.clone();
        let external = parameters.create_in_utility_vm || id == UVM_ID;
        let checked = match &parameters.oci_process {
            _ if external => Ok(()),
            None => self.may_start_init(&id),
            Some(_) => self
                .container(&id)
                .and_then(|container| match container.state {
                    State::Exited | State::Deleting => Err(has_exited(&id)),
                    _ => Ok(()),
                }),
        };
        let ports = match checked.and_then(|()| Ports::new(&parameters, &ports)) {
            Ok(ports) => ports,
            Err(failure) => return self.outbox.answer(ticket, Err(failure)),
        };
        let mut init = None;
        if let (false, Some(container)) = (external, self.containers.get_mut(&id)) {
            init = container.init;
            if parameters.oci_process.is_none() {
                container.state = State::Starting;
            }
        }
        self.dial(
            ports.0.iter().flatten().copied().collect(),
            move |uvm, dialled| {
                let connections = match dialled {
                    Ok(connections) => ports.connections(connections),
                    Err(failure) => {
                        uvm.back_to_created(&id, init);
                        let failure = Failure::unspecified(failure.to_string());
                        return uvm.outbox.answer(ticket, Err(failure));
                    }
                };
                if external {
                    uvm.run_external(ticket, parameters, connections);
                } else if let Some(process) = parameters.oci_process {
                    uvm.run_exec(ticket, id, init, process.0, connections);
                } else {
                    uvm.start_init(ticket, id, init, connections);
                }
            },
        );
    }

    /// A second start is refused before it touches anything (P-155, P-218).
    fn may_start_init(&mut self, id: &str) -> Result<(), Failure> {
        match self.container(id)?.state {
            State::Created => Ok(()),
            state => Err(Failure::new(
                HResult::INVALID_STATE,
                format!("starting container {id:?}: it is {state:?}, not Created"),
            )),
        }
    }

    /// The container whose start began, unless it ended, or was replaced, under way.
    fn starting(&mut self, id: &str, init: Option<Key>) -> Option<&mut Container> {
        let same = |c: &&mut Container| c.state == State::Starting && c.init == init;
        self.containers.get_mut(id).filter(same)
    }

    fn back_to_created(&mut self, id: &str, init: Option<Key>) {
        if let Some(container) = self.starting(id, init) {
            container.state = State::Created;
        }
    }

    fn start_init(
        &mut self,
        ticket: Ticket,
        id: String,
        init: Option<Key>,
        connections: Connections,
    ) {
        let container = self.starting(&id, init);
        let streams = container.and_then(|container| container.streams.take());
        let (Some(streams), Some(key)) = (streams, init) else {
            let text = format!("starting container {id:?}: its init has ended");
            return self.outbox.answer(ticket, Err(Failure::unspecified(text)));
        };
        let relay = match connections.relay(streams) {
            Ok(relay) => relay,
            Err(error) => {
                let text = format!("starting container {id:?}: joining its streams: {error}");
                return self.start_failed(ticket, &id, key, Failure::unspecified(text));
            }
        };
        let Some(process) = self.processes.get_mut(&key) else {
            return;
        };
        let pid = process.pid;
        process.set_relay(relay);
        self.watch_relay(key);
        if let Some(container) = self.containers.get_mut(&id) {
            container.started = true;
        }
        let name = id.clone();
        self.run(
            format!("starting container {id:?}"),
            START_LIMIT,
            move || crate::runtime::start(&name),
            move |uvm, started: Result<(), Failure>| match started {
                Ok(()) => {
                    if let Some(container) = uvm.starting(&id, init) {
                        container.state = State::Running;
                    }
                    uvm.outbox
                        .answer(ticket, Ok(Reply::Executed { process_id: pid }));
                }
                Err(failure) => uvm.start_failed(ticket, &id, key, failure),
            },
        );
    }

    /// Its streams are used up, so this init cannot be started again: it ends, and the container
    /// with it, so that it can be deleted and nothing waits for its output.
    fn start_failed(&mut self, ticket: Ticket, id: &str, key: Key, failure: Failure) {
        self.kill_child(key);
        self.outbox.answer(ticket, Err(failure));
        // Nobody will wait for it: its notification is not kept back.
        if let Some(container) = self.containers.get_mut(id) {
            container.started = false;
            if container.state >= State::Exited {
                self.notify_exit(id);
            }
        }
    }

    fn run_exec(
        &mut self,
        ticket: Ticket,
        id: String,
        init: Option<Key>,
        process: Value,
        connections: Connections,
    ) {
        let same = |c: &&Container| c.init == init && c.state < State::Exited;
        let container = self.containers.get(&id).filter(same);
        let Some(outline) = container.and_then(|c| c.outline.clone()) else {
            return self.outbox.answer(ticket, Err(has_exited(&id)));
        };
        let user = process.get("user").cloned().unwrap_or_default();
        let container = outline.clone();
        self.run(
            format!("preparing a process in container {id:?}"),
            EXEC_LIMIT,
            move || bundle::exec_user(&outline, user),
            move |uvm, user| match user {
                Ok(user) => {
                    let process = bundle::exec_process(&container, process, user);
                    uvm.run_exec_in_engine(ticket, id, process, connections);
                }
                Err(failure) => uvm.outbox.answer(ticket, Err(failure)),
            },
        );
    }

    pub(super) fn run_exec_in_engine(
        &mut self,
        ticket: Ticket,
        id: String,
        process: Value,
        connections: Connections,
    ) {
        let terminal = process
            .get("terminal")
            .and_then(Value::as_bool)
            .unwrap_or(false);
        let made = if terminal {
            null_streams().map(|theirs| (theirs, ExecStreams::Terminal(connections)))
        } else {
            connections
                .pipes()
                .map(|(theirs, relay)| (theirs, ExecStreams::Pipes(relay)))
        };
        let (theirs, streams) = match made {
            Ok(made) => made,
            Err(error) => {
                let text = format!("making the streams of a process in container {id:?}: {error}");
                return self.outbox.answer(ticket, Err(Failure::unspecified(text)));
            }
        };
        let order = Order::Exec {
            id: id.clone(),
            process,
            terminal,
        };
        let stdio = theirs.each_ref().map(AsFd::as_fd);
        let doing = format!("running a process in container {id:?}");
        self.run_helper(doing, EXEC_LIMIT, &order, stdio, move |uvm, result| {
            let made = result.and_then(|(report, mut fds)| match report {
                Report::Done { pid: Some(pid) } => Ok((pid, terminal.then(|| fds.pop()).flatten())),
                Report::Done { pid: None } => {
                    Err(Failure::unspecified("the engine's report lacks the pid"))
                }
                Report::Failed(failure) => {
                    // It may have got as far as to wait for a word from the engine.
                    kill_named(&fds);
                    Err(failure)
                }
            });
            let made = made.and_then(|(pid, master)| match (streams, master) {
                (ExecStreams::Pipes(relay), _) => Ok((pid, relay)),
                (ExecStreams::Terminal(connections), Some(master)) => connections
                    .relay(InitStreams::Terminal(master))
                    .map(|relay| (pid, relay))
                    .map_err(|error| Failure::unspecified(format!("joining streams: {error}"))),
                (ExecStreams::Terminal(_), None) => {
                    Err(Failure::unspecified("the engine sent no terminal"))
                }
            });
            match made {
                Ok((pid, relay)) => uvm.exec_runs(ticket, id, Pid::from_raw(pid), relay),
                Err(failure) => uvm.outbox.answer(ticket, Err(failure)),
            }
        });
    }

    fn exec_runs(&mut self, ticket: Ticket, id: String, pid: Pid, relay: Relay) {
        let process_id = pid.as_raw().unsigned_abs();
        self.outbox
            .answer(ticket, Ok(Reply::Executed { process_id }));
        let key = self.adopt(Role::Exec(id.clone()), pid, relay, None);
        let container = self.containers.get(&id);
        if container.is_none_or(|c| c.state >= State::Exited) {
            // It joined behind the kill that the end of init brought, and may have forked since.
            self.kill_child(key);
            self.kill_leftovers(&id);
        }
        let Some(container) = self.containers.get_mut(&id) else {
            return self.discard_process(key);
        };
        if let Some(stale) = container.execs.insert(process_id, key) {
            self.discard_process(stale);
        }
    }

    /// ResizeConsole (P-166, P-167).
    pub(super) fn resize(
        &mut self,
        ticket: Ticket,
        base: &MessageBase,
        body: &ContainerResizeConsole,
    ) {
        let (id, pid) = (&base.container_id, body.process_id);
        let key = if id == UVM_ID {
            self.external(pid)
        } else {
            self.container_process(id, pid)
        };
        let result = key.and_then(|key| self.processes[&key].resize(body.height, body.width));
        self.outbox.answer(ticket, result.map(|()| Reply::Done));
    }

    fn run_external(
        &mut self,
        ticket: Ticket,
        parameters: ProcessParameters,
        connections: Connections,
    ) {
        match self.prepare_external(parameters, connections) {
            Err(failure) => self.outbox.answer(ticket, Err(failure)),
            Ok((command, stdio, relay)) => {
                let fds = stdio.each_ref().map(AsFd::as_fd);
                self.start_program(&command, fds, move |uvm, result| match result {
                    Ok(Started { pid, exit }) => {
                        let process_id = pid.as_raw().unsigned_abs();
                        uvm.outbox
                            .answer(ticket, Ok(Reply::Executed { process_id }));
                        let key = uvm.adopt(Role::External, pid, relay, exit);
                        // A record of an exited process with the same pid is replaced (P-216).
                        if let Some(stale) = uvm.externals.insert(process_id, key) {
                            uvm.discard_process(stale);
                        }
                    }
                    Err(failure) => {
                        if let Err(error) = relay.abandon(&mut uvm.poller) {
                            log::error!("closing the streams of a failed start: {error}");
                        }
                        uvm.outbox.answer(ticket, Err(failure));
                    }
                });
            }
        }
    }

    fn prepare_external(
        &mut self,
        mut parameters: ProcessParameters,
        connections: Connections,
    ) -> Result<(Command, [OwnedFd; 3], Relay), Failure> {
        let args = words(&mut parameters)?;
        let command = Command {
            args,
            env: parameters.environment.into_iter().collect(),
            cwd: parameters.working_directory,
            controlling_terminal: parameters.emulate_console,
            dumps_core: self.settings.dumps_core,
        };
        let streams = if parameters.emulate_console {
            connections.through_terminal()
        } else {
            connections.handed_over()
        };
        let (stdio, relay) = streams
            .map_err(|error| Failure::unspecified(format!("making the streams: {error}")))?;
        Ok((command, stdio, relay))
    }
}

/// The words of a process that is given by its command line, or by words.
pub(super) fn words(parameters: &mut ProcessParameters) -> Result<Vec<String>, Failure> {
    let args = match std::mem::take(&mut parameters.command_args) {
        args if !args.is_empty() => args,
        _ => command_line::split(&parameters.command_line).map_err(|error| {
            Failure::unspecified(format!("splitting the command line: {error}"))
        })?,
    };
    if args.is_empty() {
        return Err(Failure::new(
            HResult::INVALID_ARGUMENT,
            "the command line is empty",
        ));
    }
    Ok(args)
}

fn has_exited(id: &str) -> Failure {
    Failure::unspecified(format!(
        "running a process in container {id:?}: it has exited"
    ))
}

/// What a process in a container will be relayed through, while the engine makes it.
enum ExecStreams {
    Pipes(Relay),
    Terminal(Connections),
}
