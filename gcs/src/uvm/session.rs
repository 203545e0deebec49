//! The session with the host: begun by NegotiateProtocol, over with its connection. When the
//! bridge is lost it is dialled again until it is there (protocol 12.1): containers, processes
//! and requests that run go on meanwhile, and a host that is done with this machine ends it.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::{Deadline, Uvm};
use crate::stage::{self, Event, Stage};
use crate::transport::{DialFailure, BRIDGE_PORT};

/// Between the loss of the bridge, or a failed dial, and the next dial.
const REDIAL_PAUSE: Duration = Duration::from_millis(100);

/// What the host may ask for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Session {
    /// Only to agree on a version.
    #[default]
    Unnegotiated,
    /// Everything else.
    V4,
    /// What the retired protocol had; begun by a first Create (section 8).
    V3,
}

/// A bridge that was lost and is dialled again.
#[derive(Debug, Default)]
pub(super) struct Redial {
    /// Dials that failed since the loss.
    failed: u32,
    connected: Option<OwnedFd>,
}

impl Uvm {
    /// The bridge is gone. The next one comes by [`Self::take_bridge`].
    pub fn bridge_lost(&mut self) {
        self.session = Session::default();
        self.outbox.disconnect();
        self.redial = Redial::default();
        self.redial_later();
    }

    /// The bridge that was dialled anew, once.
    pub fn take_bridge(&mut self) -> Option<OwnedFd> {
        let bridge = self.redial.connected.take()?;
        log::info!(
            "the bridge is connected again, after {} failed dials",
            self.redial.failed
        );
        self.outbox.connect();
        self.clock_hurry();
        Some(bridge)
    }

    fn redial_later(&mut self) {
        self.timers
            .add(Instant::now() + REDIAL_PAUSE, Deadline::Redial);
    }

    pub(super) fn redial_due(&mut self) {
        self.dial(vec![BRIDGE_PORT], |uvm, dialled| match dialled {
            Ok(mut connections) => uvm.redial.connected = connections.pop(),
            Err(failure) => uvm.redial_failed(&failure),
        });
    }

    fn redial_failed(&mut self, failure: &DialFailure) {
        // Once, not ten times a second.
        if self.redial.failed == 0 {
            log::warn!("{failure}; dialling on");
        }
        self.redial.failed = self.redial.failed.saturating_add(1);
        self.redial_later();
    }

    /// A version was agreed on; its answer is on its way.
    pub(super) fn open_session(&mut self, session: Session) {
        self.session = session;
        self.outbox.open_session();
        stage::tell(Event::Done(Stage::Negotiation));
    }
}
