//! ExecuteProcess (protocol 4.4, 6): dial the stream ports, start the process, answer its pid.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::unistd::Pid;
use serde_json::Value;

use super::container::{ContainerState, InitStreams};
use super::engine::Execed;
use super::processes::{ProcessKey, Role};
use super::programs::{Command, Started};
use super::streams::{null_streams, Connections, Ports};
use super::Uvm;
use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::bundle;
use crate::error::Failure;
use crate::prot::{
    command_line, ContainerResizeConsole, ExecuteProcessSettings, HResult, MessageBase,
    ProcessParameters, UVM_ID,
};
use crate::stdio::Relay;
use crate::sys::process::ExitStatus;

const PREPARE_LIMIT: Duration = Duration::from_secs(120);

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
            Some(_) => self.containers.find(&id).and_then(|container| {
                if container.has_exited() {
                    return Err(has_exited(&id));
                }
                Ok(())
            }),
        };
        let ports = match checked.and_then(|()| Ports::new(&parameters, &ports)) {
            Ok(ports) => ports,
            Err(failure) => return self.outbox.answer(ticket, Err(failure)),
        };
        let mut init = None;
        if let (false, Some(container)) = (external, self.containers.get_mut(&id)) {
            init = container.init();
            if parameters.oci_process.is_none() {
                container.begin_start();
            }
        }
        self.dial(
            ports.0.iter().flatten().copied().collect(),
            move |uvm, dialled| {
                let connections = match dialled {
                    Ok(connections) => ports.connections(connections),
                    Err(failure) => {
                        if let Some(container) = uvm.containers.starting(&id, init) {
                            container.start_undone();
                        }
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
        match self.containers.find(id)?.state() {
            ContainerState::Created => Ok(()),
            state => Err(Failure::new(
                HResult::INVALID_STATE,
                format!("starting container {id:?}: it is {state:?}, not Created"),
            )),
        }
    }

    fn start_init(
        &mut self,
        ticket: Ticket,
        id: String,
        init: Option<ProcessKey>,
        connections: Connections,
    ) {
        let container = self.containers.starting(&id, init);
        let streams = container.and_then(|container| container.take_streams());
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
        let Some(process_id) = self.processes.pid(key) else {
            return;
        };
        self.processes.set_relay(key, relay);
        self.watch_relay(key);
        if let Some(container) = self.containers.get_mut(&id) {
            container.set_started(true);
        }
        self.start_in_engine(&id.clone(), move |uvm, started| match started {
            Ok(()) => {
                if let Some(container) = uvm.containers.starting(&id, init) {
                    container.runs();
                }
                uvm.outbox
                    .answer(ticket, Ok(Reply::Executed { process_id }));
            }
            Err(failure) => uvm.start_failed(ticket, &id, key, failure),
        });
    }

    /// The streams are used up, so this init cannot be started again. It is ended, and the
    /// container with it, so that the host can delete the container and nothing waits for output.
    fn start_failed(&mut self, ticket: Ticket, id: &str, key: ProcessKey, failure: Failure) {
        self.kill_child(key);
        self.outbox.answer(ticket, Err(failure));
        // Nobody will wait for its exit, so the notification does not wait for a waiter.
        if let Some(container) = self.containers.get_mut(id) {
            container.set_started(false);
            if container.has_exited() {
                self.notify_exit(id);
            }
        }
    }

    fn run_exec(
        &mut self,
        ticket: Ticket,
        id: String,
        init: Option<ProcessKey>,
        process: Value,
        connections: Connections,
    ) {
        let container = self.containers.get(&id);
        let container = container.filter(|c| c.init() == init && !c.has_exited());
        let Some(outline) = container.and_then(|c| c.outline().cloned()) else {
            return self.outbox.answer(ticket, Err(has_exited(&id)));
        };
        let user = process.get("user").cloned().unwrap_or_default();
        let container = outline.clone();
        self.run(
            format!("preparing a process in container {id:?}"),
            PREPARE_LIMIT,
            move || bundle::exec_user(&outline, user),
            move |uvm, user| match user {
                Ok(user) => {
                    let process = bundle::exec_process(&container, process, user);
                    uvm.run_prepared(ticket, id, process, connections);
                }
                Err(failure) => uvm.outbox.answer(ticket, Err(failure)),
            },
        );
    }

    pub(super) fn run_prepared(
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
        let stdio = theirs.each_ref().map(AsFd::as_fd);
        let name = id.clone();
        let then = |uvm: &mut Self, execed: Result<Execed, Failure>| {
            let made = execed.and_then(
                |Execed {
                     pid,
                     terminal,
                     exit,
                 }| { Ok((pid, exit, streams.relay(terminal)?)) },
            );
            match made {
                Ok((pid, exit, relay)) => uvm.exec_runs(ticket, id, (pid, exit), relay),
                Err(failure) => uvm.outbox.answer(ticket, Err(failure)),
            }
        };
        self.exec_in_engine(name, process, stdio, then);
    }

    fn exec_runs(
        &mut self,
        ticket: Ticket,
        id: String,
        (pid, exit): (Pid, Option<ExitStatus>),
        relay: Relay,
    ) {
        let process_id = pid.as_raw().unsigned_abs();
        self.outbox
            .answer(ticket, Ok(Reply::Executed { process_id }));
        let key = self.adopt(Role::Exec(id.clone()), pid, relay, exit);
        let container = self.containers.get(&id);
        if container.is_none_or(|c| c.has_exited()) {
            // It joined the container after the end of init had killed the rest, and may have
            // forked since.
            self.kill_child(key);
            self.kill_leftovers(&id);
        }
        let Some(container) = self.containers.get_mut(&id) else {
            return self.discard_process(key);
        };
        if let Some(stale) = container.add_exec(process_id, key) {
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
        let key = self.process(&base.container_id, body.process_id);
        let result = key.and_then(|key| self.processes.resize(key, body.height, body.width));
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
                        if let Some(stale) = uvm.processes.set_external(key) {
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
        let args = args_of(&mut parameters)?;
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

/// The args of a process that is given by its command line, or by its args.
pub(super) fn args_of(parameters: &mut ProcessParameters) -> Result<Vec<String>, Failure> {
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

/// The relay's ends of the streams of an exec that the engine is making.
enum ExecStreams {
    Pipes(Relay),
    Terminal(Connections),
}

impl ExecStreams {
    /// The relay of the running exec; `terminal` is the one that the engine made.
    fn relay(self, terminal: Option<OwnedFd>) -> Result<Relay, Failure> {
        match (self, terminal) {
            (Self::Pipes(relay), _) => Ok(relay),
            (Self::Terminal(connections), Some(master)) => connections
                .relay(InitStreams::Terminal(master))
                .map_err(|error| Failure::unspecified(format!("joining streams: {error}"))),
            (Self::Terminal(_), None) => Err(Failure::unspecified("the engine sent no terminal")),
        }
    }
}
