//! The session with the host. NegotiateProtocol begins it, and it ends with its connection. A lost
//! bridge is dialled until it is connected again (protocol 12.1). Containers, processes and
//! requests go on meanwhile. A host that does not need this machine any more ends it.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::Uvm;
use crate::error::Failure;
use crate::prot::{HResult, MessageId};
use crate::stage::{self, Event, Stage};
use crate::transport::{DialFailure, BRIDGE_PORT};

/// Between the loss of the bridge, or a failed dial, and the next dial.
const REDIAL_PAUSE: Duration = Duration::from_millis(100);

/// What the host may ask for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// Only to agree on a version.
    #[default]
    Unnegotiated,
    /// Everything else.
    V4,
    /// The messages of the retired protocol, which a first Create begins (section 8).
    V3,
}

/// The state of the session. When its bridge is lost, the bridge of the next session.
#[derive(Debug)]
pub struct Session {
    protocol: Protocol,
    /// A first Create does not begin a session of the retired protocol (`-v4`).
    v4_only: bool,
    /// Dials that failed since the bridge was lost.
    failed: u32,
    connected: Option<OwnedFd>,
    /// Frames and bytes from the host, for the state dump.
    received: (u64, u64),
}

impl Session {
    pub fn new(v4_only: bool) -> Self {
        Self {
            protocol: Protocol::default(),
            v4_only,
            failed: 0,
            connected: None,
            received: (0, 0),
        }
    }

    /// Counts a frame of this many bytes.
    pub fn received(&mut self, bytes: usize) {
        self.received.0 += 1;
        self.received.1 += bytes as u64;
    }

    /// Whether a frame belongs to the retired protocol: it is in such a session, or is a first
    /// Create.
    pub fn is_v1(&self, message: MessageId) -> bool {
        match self.protocol {
            Protocol::V3 => true,
            Protocol::V4 => false,
            Protocol::Unnegotiated => !self.v4_only && message == MessageId::CREATE,
        }
    }

    pub fn is_unnegotiated(&self) -> bool {
        self.protocol == Protocol::Unnegotiated
    }

    /// Whether a process stays known by its pid after its exit was collected, until the pid is used
    /// again. The retired protocol does that (8.5).
    pub fn keeps_collected(&self) -> bool {
        self.protocol == Protocol::V3
    }

    /// What may be asked before and after the version was agreed (P-074, P-075).
    pub fn admit(&self, message: MessageId) -> Result<(), Failure> {
        let negotiates = message == MessageId::NEGOTIATE_PROTOCOL;
        let when = match self.protocol {
            Protocol::Unnegotiated if negotiates => return Ok(()),
            Protocol::V4 if !negotiates => return Ok(()),
            Protocol::Unnegotiated => "before",
            Protocol::V4 | Protocol::V3 => "after",
        };
        let text = format!("{message} cannot be sent {when} the version was negotiated");
        Err(Failure::new(HResult::NOT_IMPLEMENTED, text))
    }

    /// The bridge is gone, and the session with it.
    fn lost(&mut self) {
        self.protocol = Protocol::default();
        self.failed = 0;
        self.connected = None;
    }

    fn dial_failed(&mut self, failure: &DialFailure) {
        // Once, not ten times a second.
        if self.failed == 0 {
            log::warn!("{failure}; dialling on");
        }
        self.failed = self.failed.saturating_add(1);
    }

    pub fn describe(&self) -> String {
        let (frames, bytes) = self.received;
        format!("received {frames} frames, {bytes} bytes")
    }
}

impl Uvm {
    /// Whether a version is agreed on with the host.
    pub fn is_negotiated(&self) -> bool {
        !self.session.is_unnegotiated()
    }

    /// The bridge is lost. [`Self::take_bridge`] returns the next one.
    pub fn bridge_lost(&mut self) {
        self.session.lost();
        self.outbox.disconnect();
        self.redial_later();
    }

    /// The new bridge, once, after it was dialled.
    pub fn take_bridge(&mut self) -> Option<OwnedFd> {
        let bridge = self.session.connected.take()?;
        log::info!(
            "the bridge is connected again, after {} failed dials",
            self.session.failed
        );
        self.outbox.connect();
        self.clock_hurry();
        Some(bridge)
    }

    fn redial_later(&mut self) {
        let at = Instant::now() + REDIAL_PAUSE;
        self.at(at, "dial of the bridge", |uvm| {
            uvm.dial(vec![BRIDGE_PORT], |uvm, dialled| match dialled {
                Ok(mut connections) => uvm.session.connected = connections.pop(),
                Err(failure) => {
                    uvm.session.dial_failed(&failure);
                    uvm.redial_later();
                }
            });
        });
    }

    /// A version was agreed on; its answer is on its way.
    pub(super) fn open_session(&mut self, protocol: Protocol) {
        self.session.protocol = protocol;
        self.outbox.open_session();
        stage::tell(Event::Done(Stage::Negotiation));
    }
}
