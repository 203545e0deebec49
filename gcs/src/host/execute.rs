//! ExecuteProcess (protocol 4.4, 6): dial the stream ports, start the process, answer its pid.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::Pid;
use serde_json::Value;

use super::container::{InitStreams, State};
use super::process::Role;
use super::programs::{Command, Started};
use super::Host;
use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::prot::{
    command_line, ContainerResizeConsole, ExecuteProcessSettings, HResult, MessageBase,
    ProcessParameters, VsockStdioRelaySettings, UVM_ID,
};
use crate::runtime::{Order, Report};
use crate::spec;
use crate::stdio::{Input, Output, Relay, StreamKind};
use crate::sys::channel::set_nonblocking;

const START_LIMIT: Duration = Duration::from_secs(60);
const EXEC_LIMIT: Duration = Duration::from_secs(120);

/// The ports to dial, by stream.
struct Ports([Option<u32>; 3]);

/// The connections made, by stream.
struct Connections([Option<OwnedFd>; 3]);

impl Ports {
    /// A stream is dialled when its flag is set; then it needs a port (P-150, P-151).
    fn new(
        parameters: &ProcessParameters,
        ports: &VsockStdioRelaySettings,
    ) -> Result<Self, Failure> {
        let wanted = [
            ("stdin", parameters.create_std_in_pipe, ports.std_in),
            ("stdout", parameters.create_std_out_pipe, ports.std_out),
            ("stderr", parameters.create_std_err_pipe, ports.std_err),
        ];
        let mut result = [None; 3];
        for (slot, (name, flag, port)) in result.iter_mut().zip(wanted) {
            if flag && port == 0 {
                let text = format!("{name} is asked for without a port");
                return Err(Failure::new(HResult::INVALID_ARGUMENT, text));
            }
            *slot = flag.then_some(port);
        }
        Ok(Self(result))
    }
}

impl Host {
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
                    State::Exited | State::Deleting => Err(Failure::unspecified(format!(
                        "running a process in container {id:?}: it has exited"
                    ))),
                    _ => Ok(()),
                }),
        };
        let ports = match checked.and_then(|()| Ports::new(&parameters, &ports)) {
            Ok(ports) => ports,
            Err(failure) => return self.outbox.answer(ticket, Err(failure)),
        };
        if !external && parameters.oci_process.is_none() {
            if let Some(container) = self.containers.get_mut(&id) {
                container.state = State::Starting;
            }
        }
        self.dial(
            ports.0.iter().flatten().copied().collect(),
            move |host, dialled| {
                let mut open = match dialled {
                    Ok(connections) => connections.into_iter(),
                    Err(failure) => {
                        host.back_to_created(&id);
                        let failure = Failure::unspecified(failure.to_string());
                        return host.outbox.answer(ticket, Err(failure));
                    }
                };
                let connections = Connections(ports.0.map(|port| port.and_then(|_| open.next())));
                if external {
                    host.run_external(ticket, parameters, connections);
                } else if let Some(process) = parameters.oci_process {
                    host.run_exec(ticket, id, process.0, connections);
                } else {
                    host.start_init(ticket, id, connections);
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

    fn back_to_created(&mut self, id: &str) {
        if let Some(container) = self.containers.get_mut(id) {
            if container.state == State::Starting {
                container.state = State::Created;
            }
        }
    }

    fn start_init(&mut self, ticket: Ticket, id: String, connections: Connections) {
        let Some(container) = self.containers.get_mut(&id) else {
            return;
        };
        let (Some(streams), Some(key)) = (container.streams.take(), container.init) else {
            let text = format!("starting container {id:?}: its init has ended");
            return self.outbox.answer(ticket, Err(Failure::unspecified(text)));
        };
        let relay = match connections.relay(streams) {
            Ok(relay) => relay,
            Err(error) => {
                let text = format!("starting container {id:?}: joining its streams: {error}");
                return self.outbox.answer(ticket, Err(Failure::unspecified(text)));
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
            move |host, started: Result<(), Failure>| match started {
                Ok(()) => {
                    if let Some(container) = host.containers.get_mut(&id) {
                        if container.state == State::Starting {
                            container.state = State::Running;
                        }
                    }
                    host.outbox
                        .answer(ticket, Ok(Reply::Executed { process_id: pid }));
                }
                Err(failure) => host.outbox.answer(ticket, Err(failure)),
            },
        );
    }

    fn run_exec(&mut self, ticket: Ticket, id: String, process: Value, connections: Connections) {
        let container = match self.container(&id) {
            Ok(container) => container,
            Err(failure) => return self.outbox.answer(ticket, Err(failure)),
        };
        let (config, bundle) = (container.config.clone(), container.bundle.clone());
        self.run(
            format!("preparing a process in container {id:?}"),
            EXEC_LIMIT,
            move || spec::exec_process(&config, &bundle, process),
            move |host, process| match process {
                Ok(process) => host.run_exec_in_engine(ticket, id, process, connections),
                Err(failure) => host.outbox.answer(ticket, Err(failure)),
            },
        );
    }

    fn run_exec_in_engine(
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
        self.run_helper(doing, EXEC_LIMIT, &order, stdio, move |host, result| {
            let made = result.and_then(|(report, mut fds)| match report {
                Report::Failed(failure) => Err(failure),
                Report::Done { pid: None } => {
                    Err(Failure::unspecified("the engine's report lacks the pid"))
                }
                Report::Done { pid: Some(pid) } => Ok((pid, fds.pop())),
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
                Ok((pid, relay)) => host.exec_runs(ticket, id, Pid::from_raw(pid), relay),
                Err(failure) => host.outbox.answer(ticket, Err(failure)),
            }
        });
    }

    fn exec_runs(&mut self, ticket: Ticket, id: String, pid: Pid, relay: Relay) {
        let process_id = pid.as_raw().unsigned_abs();
        self.outbox
            .answer(ticket, Ok(Reply::Executed { process_id }));
        let key = self.adopt(Role::Exec(id.clone()), pid, relay, None);
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
                self.start_program(&command, fds, move |host, result| match result {
                    Ok(Started { pid, exit }) => {
                        let process_id = pid.as_raw().unsigned_abs();
                        host.outbox
                            .answer(ticket, Ok(Reply::Executed { process_id }));
                        let key = host.adopt(Role::External, pid, relay, exit);
                        // A record of an exited process with the same pid is replaced (P-216).
                        if let Some(stale) = host.externals.insert(process_id, key) {
                            host.discard_process(stale);
                        }
                    }
                    Err(failure) => {
                        if let Err(error) = relay.abandon(&mut host.poller) {
                            log::error!("closing the streams of a failed start: {error}");
                        }
                        host.outbox.answer(ticket, Err(failure));
                    }
                });
            }
        }
    }

    fn prepare_external(
        &mut self,
        parameters: ProcessParameters,
        connections: Connections,
    ) -> Result<(Command, [OwnedFd; 3], Relay), Failure> {
        let args = if parameters.command_args.is_empty() {
            command_line::split(&parameters.command_line).map_err(|error| {
                Failure::unspecified(format!("splitting the command line: {error}"))
            })?
        } else {
            parameters.command_args
        };
        if args.is_empty() {
            return Err(Failure::new(
                HResult::INVALID_ARGUMENT,
                "the command line is empty",
            ));
        }
        let command = Command {
            args,
            env: parameters.environment.into_iter().collect(),
            cwd: parameters.working_directory,
            controlling_terminal: parameters.emulate_console,
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

impl Connections {
    /// The relay of an init: streams not asked for read nothing, and what they write is
    /// dropped.
    fn relay(self, streams: InitStreams) -> std::io::Result<Relay> {
        let Self([stdin, stdout, stderr]) = self;
        let mut relay = Relay::default();
        match streams {
            InitStreams::Pipes {
                stdin: to,
                stdout: out,
                stderr: err,
            } => {
                if let Some(connection) = stdin {
                    relay.add(StreamKind::Stdin, Input::new(connection, to, false));
                }
                relay.add(StreamKind::Stdout, Output::new(out, stdout, false));
                relay.add(StreamKind::Stderr, Output::new(err, stderr, false));
            }
            InitStreams::Terminal(master) => {
                set_nonblocking(master.as_fd(), true)?;
                if let Some(connection) = stdin {
                    relay.add(
                        StreamKind::Stdin,
                        Input::new(connection, master.try_clone()?, true),
                    );
                }
                relay.terminal = Some(master.try_clone()?);
                relay.add(StreamKind::Stdout, Output::new(master, stdout, true));
                relay.idle.extend(stderr);
            }
        }
        Ok(relay)
    }

    /// The connections themselves become the descriptors of the process: no relay, and the exit
    /// is known as soon as it is reaped (protocol 6.6).
    fn handed_over(self) -> std::io::Result<([OwnedFd; 3], Relay)> {
        let mut stdio = null_streams()?;
        for (slot, connection) in stdio.iter_mut().zip(self.0) {
            if let Some(connection) = connection {
                set_nonblocking(connection.as_fd(), false)?;
                *slot = connection;
            }
        }
        Ok((stdio, Relay::default()))
    }

    /// Pipes for the streams asked for, `/dev/null` for the others (P-163).
    fn pipes(self) -> std::io::Result<([OwnedFd; 3], Relay)> {
        let Self([stdin, stdout, stderr]) = self;
        let mut stdio = null_streams()?;
        let mut relay = Relay::default();
        if let Some(connection) = stdin {
            let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
            set_nonblocking(write.as_fd(), true)?;
            stdio[0] = read;
            relay.add(StreamKind::Stdin, Input::new(connection, write, false));
        }
        let outputs = [(StreamKind::Stdout, stdout), (StreamKind::Stderr, stderr)];
        for (slot, (kind, connection)) in stdio[1..].iter_mut().zip(outputs) {
            if connection.is_some() {
                let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
                set_nonblocking(read.as_fd(), true)?;
                *slot = write;
                relay.add(kind, Output::new(read, connection, false));
            }
        }
        Ok((stdio, relay))
    }

    /// A new terminal for the process, relayed like a container's.
    fn through_terminal(self) -> std::io::Result<([OwnedFd; 3], Relay)> {
        use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = posix_openpt(flags)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave: OwnedFd = std::fs::File::options()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_NOCTTY)
            .open(ptsname_r(&master)?)?
            .into();
        let relay = self.relay(InitStreams::Terminal(OwnedFd::from(master)))?;
        Ok(([slave.try_clone()?, slave.try_clone()?, slave], relay))
    }
}

/// What a process in a container will be relayed through, while the engine makes it.
enum ExecStreams {
    Pipes(Relay),
    Terminal(Connections),
}

fn null_streams() -> std::io::Result<[OwnedFd; 3]> {
    let null: OwnedFd = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?
        .into();
    Ok([null.try_clone()?, null.try_clone()?, null])
}
