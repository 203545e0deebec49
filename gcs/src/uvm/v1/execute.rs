//! ExecuteProcess of the retired protocol: the first process of a container brings the spec,
//! later ones may do without a document (8.4).

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::unistd::Pid;
use serde_json::Value;

use super::{document, storage};
use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::net::assign::assign;
use crate::prot::{ExecuteProcessSettings, HResult, MessageBase, ProcessParameters};
use crate::runtime::Order;
use crate::stdio::Relay;
use crate::uvm::container::{InitStreams, State};
use crate::uvm::create::{made_init, Pipes};
use crate::uvm::execute::{words, START_LIMIT};
use crate::uvm::process::Role;
use crate::uvm::streams::{Connections, Ports};
use crate::uvm::Uvm;

const WRITE_LIMIT: Duration = Duration::from_secs(30);
const ENGINE_LIMIT: Duration = Duration::from_secs(120);
const NETWORK_LIMIT: Duration = Duration::from_secs(90);

impl Uvm {
    pub(super) fn execute_v1(
        &mut self,
        ticket: Ticket,
        base: &MessageBase,
        settings: ExecuteProcessSettings,
    ) {
        let id = base.container_id.clone();
        if settings.process_parameters.create_in_utility_vm {
            return self.execute(ticket, base, settings);
        }
        let stage = self.mounts_v1(&id).map(drop).and_then(|()| {
            let container = self.container(&id)?;
            Ok((container.state, container.init.is_some()))
        });
        let parameters = settings.process_parameters.into_inner();
        let first = match stage {
            Ok((State::Created, false)) => self.begin_v1(&id, &parameters).map(Some),
            Ok((State::Running, _)) => Ok(None),
            Ok((state, _)) => Err(Failure::new(
                HResult::INVALID_STATE,
                format!("a process in container {id:?}: it is {state:?}"),
            )),
            Err(failure) => Err(failure),
        };
        let checked = first.and_then(|first| {
            let ports = Ports::new(&parameters, &settings.vsock_stdio_relay_settings)?;
            Ok((first, ports))
        });
        let (first, ports) = match checked {
            Ok(checked) => checked,
            Err(failure) => {
                self.back_to_created_v1(&id);
                return self.outbox.answer(ticket, Err(failure));
            }
        };
        self.dial(
            ports.0.iter().flatten().copied().collect(),
            move |uvm, dialled| {
                let connections = match dialled {
                    Ok(connections) => ports.connections(connections),
                    Err(failure) => {
                        uvm.back_to_created_v1(&id);
                        let failure = Failure::unspecified(failure.to_string());
                        return uvm.outbox.answer(ticket, Err(failure));
                    }
                };
                match first {
                    Some(spec) => uvm.write_bundle_v1(ticket, id, spec, connections),
                    None => uvm.further_v1(ticket, id, parameters, connections),
                }
            },
        );
    }

    /// The spec of the first process; from here on there is no other first one.
    fn begin_v1(&mut self, id: &str, parameters: &ProcessParameters) -> Result<Value, Failure> {
        let Some(sent) = &parameters.oci_specification else {
            return Err(Failure::unspecified(format!(
                "the first process of container {id:?} needs OciSpecification"
            )));
        };
        let root = self.mounts_v1(id)?.attached.root();
        let spec = document::spec(id, &root, sent.0.clone())?;
        self.container(id)?.state = State::Starting;
        Ok(spec)
    }

    fn back_to_created_v1(&mut self, id: &str) {
        if let Some(container) = self.containers.get_mut(id) {
            if container.state == State::Starting && container.init.is_none() {
                container.state = State::Created;
            }
        }
    }

    fn refuse_v1(&mut self, ticket: Ticket, id: &str, failure: Failure) {
        self.outbox.answer(ticket, Err(failure));
        self.failed_v1(id);
    }

    fn write_bundle_v1(
        &mut self,
        ticket: Ticket,
        id: String,
        spec: Value,
        connections: Connections,
    ) {
        let prepared = self.mounts_v1(&id).map(|mounts| {
            let resolv_conf = document::resolv_conf(&mounts.adapters);
            (mounts.attached.clone(), resolv_conf)
        });
        let (attached, resolv_conf) = match prepared {
            Ok(prepared) => prepared,
            Err(failure) => return self.outbox.answer(ticket, Err(failure)),
        };
        if let Ok(container) = self.container(&id) {
            container.owns_pid_namespace = spec["linux"]
                .as_object()
                .is_some_and(crate::bundle::owns_pid_namespace);
        }
        let terminal = spec["process"]["terminal"] == true;
        self.run(
            format!("writing the bundle of container {id:?}"),
            WRITE_LIMIT,
            move || storage::write_bundle(&attached, &spec, resolv_conf.as_deref()),
            move |uvm, written: Result<(), Failure>| match written {
                Ok(()) => uvm.create_in_engine_v1(ticket, id, terminal, connections),
                Err(failure) => uvm.refuse_v1(ticket, &id, failure),
            },
        );
    }

    fn create_in_engine_v1(
        &mut self,
        ticket: Ticket,
        id: String,
        terminal: bool,
        connections: Connections,
    ) {
        let made = streams(terminal);
        let (theirs, ours) = match made {
            Ok(made) => made,
            Err(error) => {
                let text = format!("making the streams of container {id:?}: {error}");
                return self.refuse_v1(ticket, &id, Failure::unspecified(text));
            }
        };
        let order = Order::Create {
            id: id.clone(),
            bundle: self.containers[&id].bundle.clone(),
            terminal,
        };
        let stdio = theirs.each_ref().map(AsFd::as_fd);
        let doing = format!("creating container {id:?} in the engine");
        self.run_helper(doing, ENGINE_LIMIT, &order, stdio, move |uvm, result| {
            let made = result.and_then(|(report, fds)| made_init(report, fds, ours));
            let made = made.and_then(|(pid, streams)| {
                let relay = connections.relay(streams).map_err(|error| {
                    Failure::unspecified(format!("joining the streams of {id:?}: {error}"))
                })?;
                Ok((Pid::from_raw(pid), relay))
            });
            match made {
                Ok((pid, relay)) => uvm.connect_v1(ticket, id, pid, relay),
                Err(failure) => uvm.refuse_v1(ticket, &id, failure),
            }
        });
    }

    /// The init waits: it gets its adapters, then its start.
    fn connect_v1(&mut self, ticket: Ticket, id: String, pid: Pid, relay: Relay) {
        let key = self.adopt(Role::Init(id.clone()), pid, relay, None);
        let Some(container) = self.containers.get_mut(&id) else {
            return;
        };
        container.init = Some(key);
        container.started = true;
        let assignments = match self.mounts_v1(&id) {
            Ok(mounts) => document::assignments(&mounts.adapters),
            Err(failure) => Err(failure),
        };
        match assignments {
            Ok(assignments) if assignments.is_empty() => self.start_v1(ticket, id, pid),
            Ok(assignments) => self.run(
                format!("network of container {id:?}"),
                NETWORK_LIMIT,
                move || assign(Path::new("/sys"), &assignments, pid.as_raw()).map(drop),
                move |uvm, assigned: Result<(), Failure>| match assigned {
                    Ok(()) => uvm.start_v1(ticket, id, pid),
                    Err(failure) => uvm.refuse_v1(ticket, &id, failure),
                },
            ),
            Err(failure) => self.refuse_v1(ticket, &id, failure),
        }
    }

    fn start_v1(&mut self, ticket: Ticket, id: String, pid: Pid) {
        let name = id.clone();
        self.run(
            format!("starting container {id:?}"),
            START_LIMIT,
            move || crate::runtime::start(&name),
            move |uvm, started: Result<(), Failure>| match started {
                Ok(()) => {
                    if let Some(container) = uvm.containers.get_mut(&id) {
                        if container.state == State::Starting {
                            container.state = State::Running;
                        }
                    }
                    let process_id = pid.as_raw().unsigned_abs();
                    uvm.outbox
                        .answer(ticket, Ok(Reply::Executed { process_id }));
                }
                Err(failure) => uvm.refuse_v1(ticket, &id, failure),
            },
        );
    }

    fn further_v1(
        &mut self,
        ticket: Ticket,
        id: String,
        mut parameters: ProcessParameters,
        connections: Connections,
    ) {
        let process = match parameters.oci_process.take() {
            Some(process) => Ok(process.0),
            None => words(&mut parameters).map(|args| document::process(parameters, args)),
        };
        match process {
            Ok(process) => self.run_exec_in_engine(ticket, id, process, connections),
            Err(failure) => self.outbox.answer(ticket, Err(failure)),
        }
    }
}

/// The engine's ends of an init's streams and, unless it has a terminal, the relay's.
fn streams(terminal: bool) -> std::io::Result<([OwnedFd; 3], Option<InitStreams>)> {
    if terminal {
        return Ok((crate::uvm::streams::null_streams()?, None));
    }
    let Pipes { theirs, ours } = Pipes::new()?;
    Ok((theirs, Some(ours)))
}
