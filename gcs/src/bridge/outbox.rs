//! What goes to the host: one ordered queue of whole frames.
//!
//! Every request is opened here and gets a [`Ticket`]; answering takes the ticket, so that
//! nothing is answered twice. A ticket that is dropped unanswered (a handler panicked, a path
//! was forgotten) is answered with an error: every request gets exactly one answer.
//!
//! When the bridge is lost, the answers that are not sent yet are lost too, because the host has
//! given up on their requests. Notifications are kept. They are sent when a session is opened on
//! the next connection, and so are the answers of requests that still run (protocol 12.1).

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;

use super::codec::{self, Reply};
use crate::error::Failure;
use crate::log::{Scope, Span};
use crate::prot::{ContainerNotification, MessageBase, MessageId};

/// While more than this waits to be sent, no further requests are read.
const BACKLOG: usize = 4 * 1024 * 1024;
/// The most requests at work at once; each may have a child. More are read as these are answered.
/// All of them have deadlines, so the host is never locked out.
const AT_WORK: usize = 256;
/// The most WaitForProcess requests at once. They cost only memory, but may stay for ever.
const WAITS: usize = 64 * 1024;

type Lost = Rc<RefCell<Vec<u64>>>;

/// The right and duty to answer one request.
#[derive(Debug)]
pub struct Ticket {
    number: u64,
    /// The request, for records about it.
    pub scope: Scope,
    lost: Lost,
    answered: bool,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.answered {
            self.lost.borrow_mut().push(self.number);
        }
    }
}

struct Open {
    message: MessageId,
    sequence: u64,
    activity: String,
    scope: Scope,
    span: Span,
    /// The connection it came by.
    connection: u64,
}

/// A frame to be sent.
struct Outgoing {
    bytes: Vec<u8>,
    /// Whether it survives the loss of the connection.
    notification: bool,
}

/// Whether there is a host to take frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Link {
    /// Connected, and no session opened yet.
    #[default]
    Fresh,
    Open,
    Down,
}

/// The queue, and the requests not yet answered.
#[derive(Default)]
pub struct Outbox {
    open: BTreeMap<u64, Open>,
    /// How many of those wait for a process.
    waits: usize,
    next: u64,
    lost: Lost,
    link: Link,
    /// Counts connections.
    connection: u64,
    queue: VecDeque<Outgoing>,
    /// Frames that wait until a session is opened.
    held: VecDeque<Outgoing>,
    /// Bytes of the first frame that are sent already.
    sent: usize,
    queued: usize,
    /// Frames and bytes that left, for the state dump.
    total: (u64, u64),
}

impl Outbox {
    /// Notes a request, known by its base members; its answer is owed from now on.
    pub fn open(&mut self, message: MessageId, sequence: u64, base: &MessageBase) -> Ticket {
        self.next += 1;
        let scope = Scope::of(message, sequence, base);
        let request = Open {
            message,
            sequence,
            activity: base.activity_id.clone(),
            scope: scope.clone(),
            span: Span::begin(),
            connection: self.connection,
        };
        self.waits += usize::from(message == MessageId::WAIT_FOR_PROCESS);
        self.open.insert(self.next, request);
        Ticket {
            number: self.next,
            scope,
            lost: Rc::clone(&self.lost),
            answered: false,
        }
    }

    pub fn answer(&mut self, mut ticket: Ticket, result: Result<Reply, Failure>) {
        ticket.answered = true;
        self.answer_number(ticket.number, result);
    }

    /// Forgets a request that by the protocol has no answer (power-off of the utility VM).
    pub fn leave_unanswered(&mut self, mut ticket: Ticket) {
        ticket.answered = true;
        self.close(ticket.number);
    }

    fn close(&mut self, number: u64) -> Option<Open> {
        let request = self.open.remove(&number)?;
        self.waits -= usize::from(request.message == MessageId::WAIT_FOR_PROCESS);
        Some(request)
    }

    fn answer_number(&mut self, number: u64, result: Result<Reply, Failure>) {
        let Some(request) = self.close(number) else {
            return;
        };
        let _about = request.scope.enter();
        if let Err(failure) = &result {
            log::warn!(
                "{} {}: {:?}: {failure}",
                request.message,
                request.sequence,
                failure.code
            );
        }
        let told = request.message.name().unwrap_or("unknown request");
        request.span.end("request", told, |record| {
            if let Err(failure) = &result {
                record.field("result", format!("{:?}", failure.code));
            }
        });
        let frame = codec::encode_response(
            request.message,
            request.sequence,
            &request.activity,
            &result,
        );
        let frame = Outgoing {
            bytes: frame,
            notification: false,
        };
        match self.link {
            Link::Down => log::warn!(
                "the answer to {} {} is lost: there is no bridge",
                request.message,
                request.sequence
            ),
            Link::Fresh if request.connection != self.connection => self.held.push_back(frame),
            Link::Fresh | Link::Open => self.push(frame),
        }
    }

    /// Queues an exit notification. The caller makes sure that there is one per container.
    pub fn notify(&mut self, notification: &ContainerNotification) {
        let frame = Outgoing {
            bytes: codec::encode_notification(notification),
            notification: true,
        };
        match self.link {
            Link::Open => self.push(frame),
            Link::Fresh | Link::Down => self.held.push_back(frame),
        }
    }

    fn push(&mut self, frame: Outgoing) {
        self.queued += frame.bytes.len();
        self.queue.push_back(frame);
    }

    /// The connection is lost. The host has not received a frame that was sent in part, and the
    /// rest of it would make no sense on the next connection.
    pub fn disconnect(&mut self) {
        self.link = Link::Down;
        self.connection += 1;
        self.sent = 0;
        self.queued = 0;
        let unsent = std::mem::take(&mut self.queue).into_iter();
        let held = std::mem::take(&mut self.held).into_iter();
        self.held = unsent.chain(held).filter(|f| f.notification).collect();
    }

    /// There is a new connection.
    pub fn connect(&mut self) {
        self.link = Link::Fresh;
    }

    /// The host has agreed on a version, so the frames that waited for that can be sent.
    pub fn open_session(&mut self) {
        self.link = Link::Open;
        for frame in std::mem::take(&mut self.held) {
            self.push(frame);
        }
    }

    /// Answers the tickets that were dropped.
    pub fn answer_lost(&mut self) {
        let lost = std::mem::take(&mut *self.lost.borrow_mut());
        for number in lost {
            let failure = Failure::unspecified("the request was dropped by a defect of the guest");
            self.answer_number(number, Err(failure));
        }
    }

    /// Whether there is a connection for answers.
    pub fn is_connected(&self) -> bool {
        self.link != Link::Down
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether to stop reading requests for now, because the host reads its answers too slowly or
    /// enough requests are at work.
    pub fn is_congested(&self) -> bool {
        self.queued > BACKLOG || self.open.len() - self.waits >= AT_WORK
    }

    /// Whether the limit of requests that may wait for ever is reached.
    pub fn has_too_many_waits(&self) -> bool {
        self.waits > WAITS
    }

    /// Writes as much as the connection takes now.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn flush(&mut self, connection: BorrowedFd<'_>) -> Result<(), Errno> {
        while let Some(frame) = self.queue.front() {
            match nix::unistd::write(connection, &frame.bytes[self.sent..]) {
                Ok(count) => {
                    self.sent += count;
                    self.total.1 += count as u64;
                    if self.sent == frame.bytes.len() {
                        self.total.0 += 1;
                        self.queued -= frame.bytes.len();
                        self.sent = 0;
                        self.queue.pop_front();
                    }
                }
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// What went to the host and what waits to go, for the state dump.
    pub fn describe(&self) -> String {
        let (frames, bytes) = self.total;
        let (queue, queued) = (self.queue.len(), self.queued);
        format!("sent {frames} frames, {bytes} bytes; to be sent {queue} frames, {queued} bytes")
    }

    /// Requests not yet answered, oldest first, for the state dump.
    pub fn pending(&self) -> impl Iterator<Item = (MessageId, u64, Duration)> + '_ {
        self.open
            .values()
            .map(|open| (open.message, open.sequence, open.span.elapsed()))
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
