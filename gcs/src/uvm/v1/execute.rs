//! ExecuteProcess of the retired protocol. The first one of a container brings the spec; later ones
//! may have no OCI document (8.4).

use std::time::Duration;

use nix::unistd::Pid;
use serde_json::Value;

use super::{container, document, storage};
use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::prot::{ExecuteProcessSettings, HResult, MessageBase, ProcessParameters};
use crate::stdio::Relay;
use crate::uvm::container::ContainerState;
use crate::uvm::engine::WaitingInit;
use crate::uvm::execute::args_of;
use crate::uvm::processes::Role;
use crate::uvm::streams::{Connections, Ports};
use crate::uvm::Uvm;

const WRITE_LIMIT: Duration = Duration::from_secs(30);

pub(super) fn execute(
    uvm: &mut Uvm,
    ticket: Ticket,
    base: &MessageBase,
    settings: ExecuteProcessSettings,
) {
    let id = base.container_id.clone();
    if settings.process_parameters.create_in_utility_vm {
        return uvm.execute(ticket, base, settings);
    }
    let stage = container::mounted(uvm, &id).map(drop).and_then(|()| {
        let container = uvm.containers.find(&id)?;
        Ok((container.state(), container.init().is_some()))
    });
    let parameters = settings.process_parameters.into_inner();
    let first = match stage {
        Ok((ContainerState::Created, false)) => begin(uvm, &id, &parameters).map(Some),
        Ok((ContainerState::Running, _)) => Ok(None),
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
            back_to_created(uvm, &id);
            return uvm.outbox.answer(ticket, Err(failure));
        }
    };
    uvm.dial(
        ports.0.iter().flatten().copied().collect(),
        move |uvm, dialled| {
            let connections = match dialled {
                Ok(connections) => ports.connections(connections),
                Err(failure) => {
                    back_to_created(uvm, &id);
                    let failure = Failure::unspecified(failure.to_string());
                    return uvm.outbox.answer(ticket, Err(failure));
                }
            };
            match first {
                Some(spec) => write_bundle(uvm, ticket, id, spec, connections),
                None => further(uvm, ticket, id, parameters, connections),
            }
        },
    );
}

/// The spec of the first process. A later call is not for the first process any more.
fn begin(uvm: &mut Uvm, id: &str, parameters: &ProcessParameters) -> Result<Value, Failure> {
    let Some(sent) = &parameters.oci_specification else {
        return Err(Failure::unspecified(format!(
            "the first process of container {id:?} needs OciSpecification"
        )));
    };
    let root = container::mounted(uvm, id)?.attached.root();
    let spec = document::spec(id, &root, sent.0.clone())?;
    uvm.containers.find(id)?.begin_start();
    Ok(spec)
}

fn back_to_created(uvm: &mut Uvm, id: &str) {
    if let Some(container) = uvm.containers.starting(id, None) {
        container.start_undone();
    }
}

fn refuse(uvm: &mut Uvm, ticket: Ticket, id: &str, failure: Failure) {
    uvm.outbox.answer(ticket, Err(failure));
    container::start_failed(uvm, id);
}

fn write_bundle(uvm: &mut Uvm, ticket: Ticket, id: String, spec: Value, connections: Connections) {
    let prepared = container::mounted(uvm, &id).map(|mounts| {
        let resolv_conf = document::resolv_conf(&mounts.adapters);
        (mounts.attached.clone(), resolv_conf)
    });
    let (attached, resolv_conf) = match prepared {
        Ok(prepared) => prepared,
        Err(failure) => return uvm.outbox.answer(ticket, Err(failure)),
    };
    if let Ok(container) = uvm.containers.find(&id) {
        let linux = spec["linux"].as_object();
        container.set_owns_pid_namespace(linux.is_some_and(crate::bundle::owns_pid_namespace));
    }
    let terminal = spec["process"]["terminal"] == true;
    uvm.run(
        format!("writing the bundle of container {id:?}"),
        WRITE_LIMIT,
        move || storage::write_bundle(&attached, &spec, resolv_conf.as_deref()),
        move |uvm, written: Result<(), Failure>| match written {
            Ok(()) => make_init(uvm, ticket, id, terminal, connections),
            Err(failure) => refuse(uvm, ticket, &id, failure),
        },
    );
}

fn make_init(uvm: &mut Uvm, ticket: Ticket, id: String, terminal: bool, connections: Connections) {
    let Some(bundle) = uvm.containers.get(&id).map(|c| c.bundle().to_owned()) else {
        return;
    };
    uvm.create_in_engine(&id.clone(), bundle, terminal, move |uvm, made| {
        let made = made.and_then(|WaitingInit { pid, streams }| {
            let relay = connections.relay(streams).map_err(|error| {
                Failure::unspecified(format!("joining the streams of {id:?}: {error}"))
            })?;
            Ok((pid, relay))
        });
        match made {
            Ok((pid, relay)) => connect(uvm, ticket, id, pid, relay),
            Err(failure) => refuse(uvm, ticket, &id, failure),
        }
    });
}

/// The init waits. It gets its adapters and is then started.
fn connect(uvm: &mut Uvm, ticket: Ticket, id: String, pid: Pid, relay: Relay) {
    let key = uvm.adopt(Role::Init(id.clone()), pid, relay, None);
    let Some(container) = uvm.containers.get_mut(&id) else {
        return;
    };
    container.set_init(key);
    container.set_started(true);
    let mounts = container::mounted(uvm, &id);
    match mounts.and_then(|mounts| document::assignments(&mounts.adapters)) {
        Ok(assignments) if assignments.is_empty() => start(uvm, ticket, id, pid),
        Ok(assignments) => {
            let doing = format!("network of container {id:?}");
            uvm.move_adapters(
                doing,
                assignments,
                pid.as_raw(),
                move |uvm, moved| match moved {
                    Ok(_) => start(uvm, ticket, id, pid),
                    Err(failure) => refuse(uvm, ticket, &id, failure),
                },
            );
        }
        Err(failure) => refuse(uvm, ticket, &id, failure),
    }
}

fn start(uvm: &mut Uvm, ticket: Ticket, id: String, pid: Pid) {
    uvm.start_in_engine(&id.clone(), move |uvm, started| match started {
        Ok(()) => {
            if let Some(container) = uvm.containers.get_mut(&id) {
                container.runs();
            }
            let process_id = pid.as_raw().unsigned_abs();
            uvm.outbox
                .answer(ticket, Ok(Reply::Executed { process_id }));
        }
        Err(failure) => refuse(uvm, ticket, &id, failure),
    });
}

fn further(
    uvm: &mut Uvm,
    ticket: Ticket,
    id: String,
    mut parameters: ProcessParameters,
    connections: Connections,
) {
    let process = match parameters.oci_process.take() {
        Some(process) => Ok(process.0),
        None => args_of(&mut parameters).map(|args| document::process(parameters, args)),
    };
    match process {
        Ok(process) => uvm.run_prepared(ticket, id, process, connections),
        Err(failure) => uvm.outbox.answer(ticket, Err(failure)),
    }
}
