//! One request: decode, check that the session may have it, hand it to its handler.

use std::time::Duration;

use super::policy::Act;
use super::session::Protocol;
use super::{v1, Uvm};
use crate::bridge::codec::{self, Reply, Request};
use crate::bridge::frame::Frame;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::prot::{
    ContainerWaitForProcess, GcsCapabilities, HResult, MessageBase, NegotiateProtocol,
    ProtocolVersion, INFINITE_WAIT_TIMEOUT, MESSAGE_HEADER_SIZE, UVM_ID,
};

impl Uvm {
    /// Handles one frame. Its answer is owed from here on; see [`Ticket`].
    pub fn on_frame(&mut self, frame: &Frame) {
        self.session
            .received(MESSAGE_HEADER_SIZE + frame.payload.len());
        if self.session.is_v1(frame.id) {
            return v1::on_frame(self, frame);
        }
        let incoming = codec::decode(frame);
        let base = incoming.base;
        let ticket = self.outbox.open(frame.id, frame.sequence, &base);
        let _about = ticket.scope.enter();
        crate::log::request(frame.id, frame.sequence, &frame.payload);
        log::debug!(
            "{} {} for {:?}",
            frame.id,
            frame.sequence,
            base.container_id
        );
        let request = self.session.admit(frame.id).and(incoming.request);
        let permitted = request.and_then(|request| {
            if let Some(act) = Act::of(&request, &base.container_id) {
                self.policy.permit(act)?;
            }
            Ok(request)
        });
        match permitted {
            Ok(request) => self.dispatch(ticket, &base, request),
            Err(failure) => self.outbox.answer(ticket, Err(failure)),
        }
    }

    fn dispatch(&mut self, ticket: Ticket, base: &MessageBase, request: Request) {
        match request {
            Request::Negotiate(body) => {
                let reply = Self::negotiate(&body);
                let agreed = reply.is_ok();
                self.outbox.answer(ticket, reply);
                if agreed {
                    self.open_session(Protocol::V4);
                }
            }
            Request::Create(body) => self.create(ticket, base, body.container_config.into_inner()),
            // The program starts with ExecuteProcess, which alone knows the stream ports.
            Request::Start(_) => self.outbox.answer(ticket, Ok(Reply::Done)),
            Request::ShutdownGraceful(_) => self.shutdown(ticket, base, nix::libc::SIGTERM),
            Request::ShutdownForced(_) => self.shutdown(ticket, base, nix::libc::SIGKILL),
            Request::ExecuteProcess(body) => self.execute(ticket, base, body.settings),
            Request::WaitForProcess(body) => self.wait(ticket, base, &body),
            Request::SignalProcess(body) => {
                self.signal(ticket, base, body.process_id, body.signal());
            }
            Request::ResizeConsole(body) => self.resize(ticket, base, &body),
            Request::GetProperties(body) => self.properties(ticket, base, body.query.into_inner()),
            Request::ModifySettings(body) => self.modify(ticket, base, body.request),
            Request::DumpStacks => self.dump(ticket),
            Request::DeleteContainerState(_) => self.delete(ticket, base),
        }
    }

    fn negotiate(body: &NegotiateProtocol) -> Result<Reply, Failure> {
        let ProtocolVersion(ours) = ProtocolVersion::V4;
        if body.maximum_version < ours || body.minimum_version > ours {
            let text = format!(
                "the host speaks protocol versions {} to {}, this guest {ours}",
                body.minimum_version, body.maximum_version
            );
            return Err(Failure::new(HResult::UNSUPPORTED_PROTOCOL_VERSION, text));
        }
        log::info!("negotiated protocol version {ours}");
        let capabilities = GcsCapabilities::linux();
        Ok(Reply::Negotiated {
            version: ProtocolVersion::V4,
            capabilities,
        })
    }

    fn wait(&mut self, ticket: Ticket, base: &MessageBase, body: &ContainerWaitForProcess) {
        let (id, pid) = (&base.container_id, body.process_id);
        if self.outbox.has_too_many_waits() {
            let text = format!("waiting for process {pid}: too many requests wait already");
            return self.outbox.answer(ticket, Err(Failure::unspecified(text)));
        }
        let key = self.process(id, pid).map_err(|failure| match id.as_str() {
            // An unknown pid has another code here than for signals (protocol 4.5, 4.6).
            UVM_ID => Failure {
                code: HResult::NOT_FOUND,
                ..failure
            },
            _ => failure,
        });
        let limit = match body.timeout_in_ms {
            INFINITE_WAIT_TIMEOUT => None,
            millis => Some(Duration::from_millis(millis.into())),
        };
        match key {
            Ok(key) => self.wait_for(key, ticket, limit),
            Err(failure) => self.outbox.answer(ticket, Err(failure)),
        }
    }
}
