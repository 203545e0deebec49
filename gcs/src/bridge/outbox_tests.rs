use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use super::*;
use crate::bridge::frame::{Decoder, MAX_FROM_HOST};
use crate::prot::{HResult, NotificationType};

/// One connection, and what the host reads of it.
struct Wire {
    guest: UnixStream,
    host: UnixStream,
    decoder: Decoder,
}

impl Wire {
    fn new() -> Self {
        let (guest, host) = UnixStream::pair().unwrap();
        guest.set_nonblocking(true).unwrap();
        host.set_nonblocking(true).unwrap();
        Self {
            guest,
            host,
            decoder: Decoder::new(MAX_FROM_HOST),
        }
    }

    /// Message and sequence of every frame that arrives when the outbox is flushed.
    fn flush(&mut self, outbox: &mut Outbox) -> Vec<(MessageId, u64)> {
        let mut frames = Vec::new();
        let mut buffer = [0; 65536];
        loop {
            outbox.flush(self.guest.as_fd()).unwrap();
            while let Ok(count @ 1..) = self.host.read(&mut buffer) {
                self.decoder.feed(&buffer[..count]);
            }
            while let Some(frame) = self.decoder.next().unwrap() {
                frames.push((frame.id, frame.sequence));
            }
            if outbox.is_empty() {
                return frames;
            }
        }
    }
}

fn open(outbox: &mut Outbox, message: MessageId, sequence: u64) -> Ticket {
    outbox.open(message, sequence, &MessageBase::default())
}

fn exit(id: &str) -> ContainerNotification {
    ContainerNotification::exit(id, "", NotificationType::UnexpectedExit)
}

/// Negotiates by `sequence`, as the first request of a connection.
fn negotiate(outbox: &mut Outbox, sequence: u64) {
    let ticket = open(outbox, MessageId::NEGOTIATE_PROTOCOL, sequence);
    outbox.answer(ticket, Ok(Reply::Done));
    outbox.open_session();
}

const NEGOTIATED: MessageId = MessageId::RESPONSE_NEGOTIATE_PROTOCOL;
const WAITED: MessageId = MessageId::RESPONSE_WAIT_FOR_PROCESS;

#[test]
fn notifications_and_late_answers_wait_for_the_next_session() {
    let mut outbox = Outbox::default();
    negotiate(&mut outbox, 0);
    let running = open(&mut outbox, MessageId::WAIT_FOR_PROCESS, 1);
    let finished = open(&mut outbox, MessageId::WAIT_FOR_PROCESS, 2);
    let unsent = open(&mut outbox, MessageId::START, 3);
    outbox.answer(unsent, Ok(Reply::Done));
    outbox.notify(&exit("before"));
    outbox.disconnect();
    outbox.notify(&exit("meanwhile"));
    outbox.answer(finished, Ok(Reply::Exited { exit_code: 0 }));

    let mut wire = Wire::new();
    outbox.connect();
    outbox.answer(running, Ok(Reply::Exited { exit_code: 0 }));
    // A refusal of this connection is not held back for a session.
    let early = open(&mut outbox, MessageId::START, 4);
    outbox.answer(early, Err(Failure::new(HResult::NOT_IMPLEMENTED, "early")));
    assert_eq!(wire.flush(&mut outbox), [(MessageId::RESPONSE_START, 4)]);
    negotiate(&mut outbox, 5);
    assert_eq!(
        wire.flush(&mut outbox),
        [
            (NEGOTIATED, 5),
            (MessageId::NOTIFICATION, 0),
            (MessageId::NOTIFICATION, 0),
            (WAITED, 1)
        ]
    );
}

#[test]
fn a_notification_sent_in_part_is_sent_again_whole() {
    let mut outbox = Outbox::default();
    negotiate(&mut outbox, 0);
    let mut wire = Wire::new();
    wire.flush(&mut outbox);
    // Until the socket is full, which is within a frame.
    let mut queued = 0;
    while outbox.is_empty() {
        outbox.notify(&exit(&"x".repeat(60_000)));
        queued += 1;
        outbox.flush(wire.guest.as_fd()).unwrap();
    }
    assert!(outbox.sent > 0, "nothing of the last frame has left");
    let whole = {
        let mut buffer = vec![0; 1 << 20];
        let mut decoder = Decoder::new(MAX_FROM_HOST);
        while let Ok(count @ 1..) = wire.host.read(&mut buffer) {
            decoder.feed(&buffer[..count]);
        }
        std::iter::from_fn(|| decoder.next().unwrap()).count()
    };
    outbox.disconnect();
    outbox.connect();
    negotiate(&mut outbox, 1);
    let mut wire = Wire::new();
    let rest = vec![(MessageId::NOTIFICATION, 0); queued - whole];
    assert_eq!(
        wire.flush(&mut outbox),
        [vec![(NEGOTIATED, 1)], rest].concat()
    );
}

#[test]
fn waits_do_not_keep_other_requests_out() {
    let mut outbox = Outbox::default();
    let waits: Vec<_> = (0..2 * AT_WORK)
        .map(|n| open(&mut outbox, MessageId::WAIT_FOR_PROCESS, n as u64))
        .collect();
    assert!(!outbox.is_congested() && !outbox.has_too_many_waits());
    let mut work: Vec<_> = (0..AT_WORK)
        .map(|n| open(&mut outbox, MessageId::CREATE, n as u64))
        .collect();
    assert!(outbox.is_congested());
    outbox.answer(work.pop().unwrap(), Ok(Reply::Created));
    assert!(!outbox.is_congested());
    drop((waits, work));
    outbox.answer_lost();
    assert_eq!(outbox.pending().count(), 0);
    assert_eq!(outbox.waits, 0);
}
