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

pub use container::StorageV1;

impl Uvm {
    pub(super) fn on_v1_frame(&mut self, frame: &Frame) {
        let (base, request) = codec::decode_v1(frame);
        let ticket = self.outbox.open(frame.id, frame.sequence, &base);
        let _about = ticket.scope.enter();
        crate::log::request(frame.id, frame.sequence, &frame.payload);
        log::debug!("{} {} (V1)", frame.id, frame.sequence);
        let permitted = self.admit_v1(frame.id).and(request).and_then(|request| {
            let act = match &request {
                RequestV1::Create(_) => Some(Act::Create),
                RequestV1::Modify(_) => Some(Act::MountDevice),
                RequestV1::Common(request) => Act::of(request, &base.container_id),
            };
            act.map_or(Ok(()), |act| self.policy.permit(act))?;
            Ok(request)
        });
        match permitted {
            Ok(RequestV1::Create(body)) => {
                self.create_v1(ticket, &base, body.container_config.into_inner());
            }
            Ok(RequestV1::Modify(body)) => self.modify_v1(ticket, &base, body.request),
            Ok(RequestV1::Common(request)) => self.dispatch_v1(ticket, &base, request),
            Err(failure) => self.outbox.answer(ticket, Err(failure)),
        }
    }

    /// The retired protocol has no second container.
    fn admit_v1(&self, message: MessageId) -> Result<(), Failure> {
        let known = match message {
            MessageId::CREATE => self.containers.is_empty() && self.session.is_unnegotiated(),
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

    fn dispatch_v1(&mut self, ticket: Ticket, base: &MessageBase, request: Request) {
        match request {
            Request::ExecuteProcess(body) => self.execute_v1(ticket, base, body.settings),
            Request::ShutdownGraceful(_) => self.shutdown_v1(ticket, base, SIGTERM),
            Request::ShutdownForced(_) => self.shutdown_v1(ticket, base, SIGKILL),
            Request::WaitForProcess(body) => self.wait_v1(ticket, &body),
            Request::SignalProcess(body) => {
                let sent = self.signal_v1(&body);
                self.outbox.answer(ticket, sent.map(|()| Reply::Done));
            }
            Request::ResizeConsole(body) => {
                let resized = self.resize_v1(&body);
                self.outbox.answer(ticket, resized.map(|()| Reply::Done));
            }
            Request::GetProperties(body) => self.properties(ticket, base, body.query.into_inner()),
            // `admit_v1` has refused it.
            _ => drop(ticket),
        }
    }

    fn wait_v1(&mut self, ticket: Ticket, body: &ContainerWaitForProcess) {
        let limit = match body.timeout_in_ms {
            INFINITE_WAIT_TIMEOUT => None,
            millis => Some(Duration::from_millis(millis.into())),
        };
        match self.processes.newest(body.process_id) {
            Ok(key) => self.wait_for(key, ticket, limit),
            Err(failure) => self.outbox.answer(ticket, Err(failure)),
        }
    }

    fn signal_v1(&self, body: &ContainerSignalProcess) -> Result<(), Failure> {
        let pid = body.process_id;
        let key = self.processes.newest(pid)?;
        match self.processes.living(key) {
            Some(pid) => super::shutdown::send(pid, body.signal()),
            None => {
                let text = format!("signalling process {pid}: it has ended");
                Err(Failure::unspecified(text))
            }
        }
    }

    fn resize_v1(&self, body: &ContainerResizeConsole) -> Result<(), Failure> {
        let key = self.processes.newest(body.process_id)?;
        self.processes.resize(key, body.height, body.width)
    }

    /// It has no effect before the first process. The type of the exit is always the same (8.5).
    fn shutdown_v1(&mut self, ticket: Ticket, base: &MessageBase, signal: i32) {
        let id = base.container_id.clone();
        if id == UVM_ID {
            return self.shutdown(ticket, base, signal);
        }
        match self.containers.find(&id).map(|container| container.init()) {
            Err(failure) => self.outbox.answer(ticket, Err(failure)),
            Ok(None) => self.outbox.answer(ticket, Ok(Reply::Done)),
            Ok(Some(_)) => {
                let doing = format!("sending signal {signal} to container {id:?}");
                self.signal_all(doing, &id, signal, move |uvm, sent| {
                    uvm.outbox.answer(ticket, sent.map(|()| Reply::Done));
                });
            }
        }
    }
}
