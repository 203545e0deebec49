//! The retired protocol 3 (protocol section 8). A VM has one container, which the guest itself
//! makes from disks, and a pid alone names a process.
//!
//! ```text
//! Create ─ storage (task) ─ CreatedV1        the session is V3 from here on
//! Execute ─ engine create, network, start    the first; needs a spec
//!         ─ engine exec                      later ones
//! init ended ─ storage taken apart (task) ─ waiters, notification, forgotten
//! ```
//!
//! The session tells the two protocols apart. The rest of the state knows only that a container may
//! have [`StorageV1`], which delays the publication of its exit until the storage is gone.

mod container;
mod document;
mod execute;
mod modify;
mod storage;

use std::time::Duration;

use nix::libc::{SIGKILL, SIGTERM};

use super::policy::Act;
use super::Uvm;
use crate::bridge::codec::{self, Reply, Request, RequestV1};
use crate::bridge::frame::Frame;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::prot::{
    ContainerResizeConsole, ContainerSignalProcess, ContainerWaitForProcess, MessageBase,
    MessageId, INFINITE_WAIT_TIMEOUT, UVM_ID,
};

pub use container::{storage_is_gone, StorageV1};

pub fn on_frame(uvm: &mut Uvm, frame: &Frame) {
    let (base, request) = codec::decode_v1(frame);
    let ticket = uvm.outbox.open(frame.id, frame.sequence, &base);
    let _about = ticket.scope.enter();
    crate::log::request(frame.id, frame.sequence, &frame.payload);
    log::debug!("{} {} (V1)", frame.id, frame.sequence);
    let permitted = admit(uvm, frame.id).and(request).and_then(|request| {
        let act = match &request {
            RequestV1::Create(_) => Some(Act::Create),
            RequestV1::Modify(_) => Some(Act::MountDevice),
            RequestV1::Common(request) => Act::of(request, &base.container_id),
        };
        act.map_or(Ok(()), |act| uvm.policy.permit(act))?;
        Ok(request)
    });
    match permitted {
        Ok(RequestV1::Create(body)) => {
            container::create(uvm, ticket, &base, body.container_config.into_inner());
        }
        Ok(RequestV1::Modify(body)) => modify::modify(uvm, ticket, &base, body.request),
        Ok(RequestV1::Common(request)) => dispatch(uvm, ticket, &base, request),
        Err(failure) => uvm.outbox.answer(ticket, Err(failure)),
    }
}

/// The retired protocol has no second container.
fn admit(uvm: &Uvm, message: MessageId) -> Result<(), Failure> {
    let known = match message {
        MessageId::CREATE => uvm.containers.is_empty() && uvm.session.is_unnegotiated(),
        MessageId::EXECUTE_PROCESS
        | MessageId::SHUTDOWN_FORCED
        | MessageId::SHUTDOWN_GRACEFUL
        | MessageId::SIGNAL_PROCESS
        | MessageId::GET_PROPERTIES
        | MessageId::WAIT_FOR_PROCESS
        | MessageId::RESIZE_CONSOLE
        | MessageId::MODIFY_SETTINGS => true,
        _ => false,
    };
    match known {
        true => Ok(()),
        false => Err(codec::unsupported(message)),
    }
}

fn dispatch(uvm: &mut Uvm, ticket: Ticket, base: &MessageBase, request: Request) {
    match request {
        Request::ExecuteProcess(body) => execute::execute(uvm, ticket, base, body.settings),
        Request::ShutdownGraceful(_) => shutdown(uvm, ticket, base, SIGTERM),
        Request::ShutdownForced(_) => shutdown(uvm, ticket, base, SIGKILL),
        Request::WaitForProcess(body) => wait(uvm, ticket, &body),
        Request::SignalProcess(body) => {
            let sent = signal(uvm, &body);
            uvm.outbox.answer(ticket, sent.map(|()| Reply::Done));
        }
        Request::ResizeConsole(body) => {
            let resized = resize(uvm, &body);
            uvm.outbox.answer(ticket, resized.map(|()| Reply::Done));
        }
        Request::GetProperties(body) => uvm.properties(ticket, base, body.query.into_inner()),
        // [`admit`] has refused it.
        _ => drop(ticket),
    }
}

fn wait(uvm: &mut Uvm, ticket: Ticket, body: &ContainerWaitForProcess) {
    let limit = match body.timeout_in_ms {
        INFINITE_WAIT_TIMEOUT => None,
        millis => Some(Duration::from_millis(millis.into())),
    };
    match uvm.processes.newest(body.process_id) {
        Ok(key) => uvm.wait_for(key, ticket, limit),
        Err(failure) => uvm.outbox.answer(ticket, Err(failure)),
    }
}

fn signal(uvm: &Uvm, body: &ContainerSignalProcess) -> Result<(), Failure> {
    let pid = body.process_id;
    let key = uvm.processes.newest(pid)?;
    match uvm.processes.living(key) {
        Some(pid) => super::shutdown::send(pid, body.signal()),
        None => {
            let text = format!("signalling process {pid}: it has ended");
            Err(Failure::unspecified(text))
        }
    }
}

fn resize(uvm: &Uvm, body: &ContainerResizeConsole) -> Result<(), Failure> {
    let key = uvm.processes.newest(body.process_id)?;
    uvm.processes.resize(key, body.height, body.width)
}

/// It has no effect before the first process. The type of the exit is always the same (8.5).
fn shutdown(uvm: &mut Uvm, ticket: Ticket, base: &MessageBase, signal: i32) {
    let id = base.container_id.clone();
    if id == UVM_ID {
        return uvm.shutdown(ticket, base, signal);
    }
    match uvm.containers.find(&id).map(|container| container.init()) {
        Err(failure) => uvm.outbox.answer(ticket, Err(failure)),
        Ok(None) => uvm.outbox.answer(ticket, Ok(Reply::Done)),
        Ok(Some(_)) => {
            let doing = format!("sending signal {signal} to container {id:?}");
            uvm.signal_all(doing, &id, signal, move |uvm, sent| {
                uvm.outbox.answer(ticket, sent.map(|()| Reply::Done));
            });
        }
    }
}
