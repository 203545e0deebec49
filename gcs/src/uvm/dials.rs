//! Dials under way.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use super::pending::{Awaited, Progress, Wake, Work, WorkKey, WorkKind};
use super::Uvm;
use crate::reactor::Interest;
use crate::transport::{Dial, DialFailure, DialStep};

type Dialled = Box<dyn FnOnce(&mut Uvm, Result<Vec<OwnedFd>, DialFailure>)>;

struct PendingDial {
    dial: Dial,
    /// When the connect counts as failed, or the next attempt is due.
    until: Option<Instant>,
    then: Option<Dialled>,
}

impl Uvm {
    /// Connects to `ports` one after another, then goes on with the connections in their order.
    pub fn dial<F>(&mut self, ports: Vec<u32>, then: F)
    where
        F: FnOnce(&mut Self, Result<Vec<OwnedFd>, DialFailure>) + 'static,
    {
        let dial = Dial::new(self.dialer.clone(), ports);
        self.begin(PendingDial {
            dial,
            until: None,
            then: Some(Box::new(then)),
        });
    }
}

impl Work for PendingDial {
    fn kind(&self) -> WorkKind {
        WorkKind::Dial
    }

    fn label(&self) -> &str {
        "a dial"
    }

    fn describe(&self) -> String {
        self.label().to_owned()
    }

    fn awaited(&self) -> Awaited<'_> {
        let fd = self.dial.pending().map(AsFd::as_fd);
        Awaited {
            fd: fd.map(|fd| (fd, Interest::WRITE)),
            until: self.until,
            ..Awaited::default()
        }
    }

    fn wake(&mut self, _: WorkKey, wake: Wake, _: &mut [u8]) -> Progress {
        let is_ready = wake == Wake::Ready;
        let result = match self.dial.advance(is_ready, Instant::now()) {
            DialStep::Done(connections) => Ok(connections),
            DialStep::Failed(failure) => Err(failure),
            DialStep::Pause(until) | DialStep::Writable(_, until) => {
                self.until = Some(until);
                return Progress::Wait;
            }
        };
        match self.then.take() {
            Some(then) => Progress::Over(Box::new(move |uvm| then(uvm, result))),
            None => Progress::Wait,
        }
    }
}
