//! What goes to the host: one ordered queue of whole frames.
//!
//! Every request is opened here and gets a [`Ticket`]; answering takes the ticket, so that
//! nothing is answered twice. A ticket that is dropped unanswered (a handler panicked, a path
//! was forgotten) is answered with an error: every request gets exactly one answer.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::codec::{self, Reply};
use crate::error::Failure;
use crate::prot::{ContainerNotification, MessageId};

/// While more than this waits to be sent, no further requests are read.
const BACKLOG: usize = 4 * 1024 * 1024;

type Lost = Rc<RefCell<Vec<u64>>>;

/// The right and duty to answer one request.
#[derive(Debug)]
pub struct Ticket {
    number: u64,
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
    since: Instant,
}

/// The queue, and the requests not yet answered.
#[derive(Default)]
pub struct Outbox {
    open: BTreeMap<u64, Open>,
    next: u64,
    lost: Lost,
    queue: VecDeque<Vec<u8>>,
    /// Bytes of the first frame that are sent already.
    sent: usize,
    queued: usize,
    /// Frames and bytes that left, for the state dump.
    total: (u64, u64),
}

impl Outbox {
    /// Notes a request; its answer is owed from now on.
    pub fn open(&mut self, message: MessageId, sequence: u64, activity: String) -> Ticket {
        self.next += 1;
        let request = Open {
            message,
            sequence,
            activity,
            since: Instant::now(),
        };
        self.open.insert(self.next, request);
        Ticket {
            number: self.next,
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
        self.open.remove(&ticket.number);
    }

    fn answer_number(&mut self, number: u64, result: Result<Reply, Failure>) {
        let Some(request) = self.open.remove(&number) else {
            return;
        };
        if let Err(failure) = &result {
            log::warn!(
                "{} {}: {:?}: {failure}",
                request.message,
                request.sequence,
                failure.code
            );
        }
        let frame = codec::encode_response(
            request.message,
            request.sequence,
            &request.activity,
            &result,
        );
        self.push(frame);
    }

    /// Queues an exit notification; the caller sees to it that there is one per container.
    pub fn notify(&mut self, notification: &ContainerNotification) {
        self.push(codec::encode_notification(notification));
    }

    fn push(&mut self, frame: Vec<u8>) {
        self.queued += frame.len();
        self.queue.push_back(frame);
    }

    /// Answers the tickets that were dropped.
    pub fn answer_lost(&mut self) {
        let lost = std::mem::take(&mut *self.lost.borrow_mut());
        for number in lost {
            let failure = Failure::unspecified("the request was dropped by a defect of the guest");
            self.answer_number(number, Err(failure));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether the host takes its answers too slowly for more requests to be read.
    pub fn is_congested(&self) -> bool {
        self.queued > BACKLOG
    }

    /// Writes as much as the connection takes now.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn flush(&mut self, connection: BorrowedFd<'_>) -> Result<(), Errno> {
        while let Some(frame) = self.queue.front() {
            match nix::unistd::write(connection, &frame[self.sent..]) {
                Ok(count) => {
                    self.sent += count;
                    self.total.1 += count as u64;
                    if self.sent == frame.len() {
                        self.total.0 += 1;
                        self.queued -= frame.len();
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
            .map(|open| (open.message, open.sequence, open.since.elapsed()))
    }
}
