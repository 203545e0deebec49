//! SecurityPolicy and SecurityPolicyFragment (protocol 7.11, 9.3).

use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::prot::settings::SecurityPolicy;
use crate::uvm::policy::{self, Act};
use crate::uvm::Uvm;

impl Uvm {
    pub(super) fn set_policy(&mut self, ticket: Ticket, sent: SecurityPolicy) {
        let set = self.policy.set(sent, policy::is_confidential());
        crate::log::mute(self.policy.permit(Act::LogOutput).is_err());
        self.outbox.answer(ticket, set.map(|()| Reply::Done));
    }

    pub(super) fn refuse_fragment(&mut self, ticket: Ticket) {
        self.outbox.answer(ticket, Err(policy::fragment_refused()));
    }
}
