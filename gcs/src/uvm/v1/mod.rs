//! The retired protocol 3 (protocol section 8): one container a VM, made of disks by the guest
//! itself, and processes that are known by their pid alone.
//!
//! ```text
//! Create ─ storage (task) ─ CreatedV1        the session is V3 from here on
//! Execute ─ engine create, network, start    the first; needs a spec
//!         ─ engine exec                      later ones
//! init ended ─ storage taken apart (task) ─ waiters, notification, forgotten
//! ```
//!
//! Told apart by the session: the rest of the host knows of it only that a container may have
//! [`Stage`], which keeps back what its exit means until its storage is gone.

mod container;
mod document;
mod execute;
mod modify;
mod storage;

use std::time::Duration;

use nix::libc::{SIGKILL, SIGTERM};

use super::policy::Act;
use super::session::Session;
use super::{Key, Uvm};
use crate::bridge::codec::{self, Reply, Request, RequestV1};
use crate::bridge::frame::Frame;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::prot::{
    ContainerResizeConsole, ContainerSignalProcess, ContainerWaitForProcess, HResult, MessageBase,
    MessageId, INFINITE_WAIT_TIMEOUT, UVM_ID,
};

pub use container::Stage;

impl Uvm {
    /// Whether a frame is one of the retired protocol: in its session, and a first Create.
    pub(super) fn is_v1(&self, message: MessageId) -> bool {
        match self.session {
            Session::V3 => true,
            Session::V4 => false,
            Session::Unnegotiated => !self.settings.v4_only && message == MessageId::CREATE,
        }
    }

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

    /// A second container is none of the retired protocol's.
    fn admit_v1(&self, message: MessageId) -> Result<(), Failure> {
        let known = match message {
            MessageId::CREATE => self.containers.is_empty() && self.session == Session::default(),
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
            // Not let in.
            _ => drop(ticket),
        }
    }

    /// The newest process of this pid, wherever it runs (8.5).
    fn process_by_pid(&self, pid: u32) -> Result<Key, Failure> {
        let newest = self.processes.iter().rev().find(|(_, p)| p.pid == pid);
        newest.map(|(key, _)| *key).ok_or_else(|| {
            let text = format!("there is no process {pid} that the host started");
            Failure::new(HResult::NOT_FOUND, text)
        })
    }

    fn wait_v1(&mut self, ticket: Ticket, body: &ContainerWaitForProcess) {
        let limit = match body.timeout_in_ms {
            INFINITE_WAIT_TIMEOUT => None,
            millis => Some(Duration::from_millis(millis.into())),
        };
        match self.process_by_pid(body.process_id) {
            Ok(key) => self.wait_for(key, ticket, limit),
            Err(failure) => self.outbox.answer(ticket, Err(failure)),
        }
    }

    fn signal_v1(&self, body: &ContainerSignalProcess) -> Result<(), Failure> {
        let pid = body.process_id;
        let key = self.process_by_pid(pid)?;
        if self.processes[&key].has_exited() {
            let text = format!("signalling process {pid}: it has ended");
            return Err(Failure::unspecified(text));
        }
        super::shutdown::send(pid, body.signal())
    }

    fn resize_v1(&self, body: &ContainerResizeConsole) -> Result<(), Failure> {
        let key = self.process_by_pid(body.process_id)?;
        self.processes[&key].resize(body.height, body.width)
    }

    /// Without effect before the first process; the type of the exit is always the same (8.5).
    fn shutdown_v1(&mut self, ticket: Ticket, base: &MessageBase, signal: i32) {
        let id = base.container_id.clone();
        if id == UVM_ID {
            return self.shutdown(ticket, base, signal);
        }
        match self.container(&id).map(|container| container.init) {
            Err(failure) => self.outbox.answer(ticket, Err(failure)),
            Ok(None) => self.outbox.answer(ticket, Ok(Reply::Done)),
            Ok(Some(_)) => self.run(
                format!("sending signal {signal} to container {id:?}"),
                super::shutdown::SIGNAL_LIMIT,
                move || crate::runtime::signal_all(&id, signal),
                move |uvm, sent: Result<(), Failure>| {
                    uvm.outbox.answer(ticket, sent.map(|()| Reply::Done));
                },
            ),
        }
    }
}
