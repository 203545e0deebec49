//! The connection machine between a scripted stream and packets made by hand.

#[path = "connection/script.rs"]
mod script;

use super::*;
use crate::credit::BUFFER;
use crate::faults::{Fault, Faults};
use script::Script;

const KEY: Key = Key {
    host_port: 1024,
    guest_port: 5000,
};

fn from_guest(op: Op) -> Header {
    Header {
        src_cid: 3,
        dst_cid: 2,
        src_port: KEY.guest_port,
        dst_port: KEY.host_port,
        len: 0,
        kind: 1,
        op: Some(op),
        flags: 0,
        buf_alloc: 1 << 20,
        fwd_cnt: 0,
    }
}

fn shutdown(flags: u32) -> Header {
    Header {
        flags,
        ..from_guest(Op::Shutdown)
    }
}

/// A connection of the guest whose RESPONSE was sent, over a host side that takes everything.
fn open() -> Connection<Script> {
    open_with(Plan::default(), &from_guest(Op::Request))
}

fn open_with(faults: Plan, request: &Header) -> Connection<Script> {
    let script = Script {
        room: usize::MAX,
        ..Script::default()
    };
    let mut connection = Connection::accepted(script, request, faults);
    assert_eq!(packets(&mut connection), [(Op::Response, 0)]);
    connection
}

/// All packets due, each as its operation with its payload length or SHUTDOWN flags.
fn packets(connection: &mut Connection<Script>) -> Vec<(Op, u32)> {
    let mut seen = Vec::new();
    while connection.has_packet() {
        match connection.next_packet(&mut [0; 4096]).unwrap() {
            Some(header) if header.op == Some(Op::Shutdown) => {
                seen.push((Op::Shutdown, header.flags));
            }
            Some(header) => seen.push((header.op.unwrap(), header.len)),
            None => break,
        }
        assert!(seen.len() < 1000, "packets without end");
    }
    seen
}

fn input() -> Ready {
    Ready {
        input: true,
        ..Ready::default()
    }
}

fn output() -> Ready {
    Ready {
        output: true,
        ..Ready::default()
    }
}

fn hang_up() -> Ready {
    Ready {
        hang_up: true,
        ..Ready::default()
    }
}

#[test]
fn end_of_the_host_side_ends_one_direction_only() {
    let mut c = open();
    c.stream.input.extend(b"tail");
    c.stream.ended = true;
    c.ready(input()).unwrap();
    // The short read says nothing about the end; epoll does, level-triggered.
    assert_eq!(packets(&mut c), [(Op::Rw, 4)]);
    c.ready(input()).unwrap();
    assert_eq!(packets(&mut c), [(Op::Shutdown, SHUTDOWN_SEND)]);
    assert!(
        !c.interest().unwrap().input,
        "nothing is read after the end"
    );

    c.receive(&from_guest(Op::Rw), b"answer").unwrap();
    assert_eq!(c.stream.written, b"answer");
    assert!(!c.stream.ended_writing.get());
    assert!(!c.is_over());

    c.receive(&shutdown(SHUTDOWN_SEND), b"").unwrap();
    assert!(c.stream.ended_writing.get());
    assert_eq!(packets(&mut c), [(Op::Shutdown, SHUTDOWN_BOTH)]);
    assert!(c.is_over());
}

#[test]
fn end_of_the_guest_side_ends_one_direction_only() {
    let mut c = open();
    c.receive(&from_guest(Op::Rw), b"question").unwrap();
    c.receive(&shutdown(SHUTDOWN_SEND), b"").unwrap();
    assert_eq!(c.stream.written, b"question");
    assert!(c.stream.ended_writing.get());
    assert!(!c.stream.read_ended.get());
    assert_eq!(packets(&mut c), []);

    c.stream.input.extend(b"answer");
    c.ready(input()).unwrap();
    assert_eq!(packets(&mut c), [(Op::Rw, 6)]);
    c.stream.ended = true;
    c.ready(hang_up()).unwrap();
    assert_eq!(packets(&mut c), [(Op::Shutdown, SHUTDOWN_BOTH)]);
    assert!(c.is_over());
}

#[test]
fn end_of_the_guest_side_waits_for_what_was_sent_before() {
    let mut c = open();
    c.stream.room = 3;
    c.receive(&from_guest(Op::Rw), b"abcdef").unwrap();
    c.receive(&shutdown(SHUTDOWN_SEND), b"").unwrap();
    assert!(!c.stream.ended_writing.get());
    assert!(c.interest().unwrap().output);
    c.stream.room = 100;
    c.ready(output()).unwrap();
    assert_eq!(c.stream.written, b"abcdef");
    assert!(c.stream.ended_writing.get());
    assert!(!c.interest().unwrap().output);
}

#[test]
fn close_by_the_guest_keeps_the_bytes_for_a_slow_reader() {
    for last in [shutdown(SHUTDOWN_BOTH), from_guest(Op::Rst)] {
        let mut c = open();
        c.stream.room = 0;
        c.receive(&from_guest(Op::Rw), b"last words").unwrap();
        c.receive(&last, b"").unwrap();
        assert!(c.is_orphan() && !c.is_over(), "{last:?}");
        assert!(c.stream.read_ended.get(), "the host's writer must notice");
        c.stream.room = 4;
        c.ready(output()).unwrap();
        assert!(!c.is_over());
        c.stream.room = 100;
        c.ready(output()).unwrap();
        assert_eq!(c.stream.written, b"last words");
        assert!(c.is_over());
        assert_eq!(packets(&mut c), [], "the guest has forgotten it");
    }
}

#[test]
fn close_by_the_host_reaches_a_guest_that_only_listens() {
    let mut c = open();
    c.stream.input.extend(b"last words");
    c.stream.ended = true;
    c.stream.closed = true;
    c.ready(Ready {
        input: true,
        output: false,
        hang_up: true,
    })
    .unwrap();
    let seen = packets(&mut c);
    assert_eq!(seen[0], (Op::Rw, 10), "data before the end");
    c.ready(input()).unwrap();
    let seen: Vec<_> = seen.into_iter().chain(packets(&mut c)).collect();
    assert_eq!(seen.last(), Some(&(Op::Shutdown, SHUTDOWN_BOTH)));
    assert!(c.is_over());
}

#[test]
fn a_host_that_stops_reading_is_told_to_the_guest_and_blocks_nothing() {
    let mut c = open();
    c.stream.closed = true;
    c.receive(&from_guest(Op::Rw), &[0; 1000]).unwrap();
    assert_eq!(packets(&mut c), [(Op::Shutdown, SHUTDOWN_RCV)]);
    // What was already on its way is swallowed, and credited.
    for _ in 0..20 {
        c.receive(&from_guest(Op::Rw), &[0; 65536]).unwrap();
    }
    assert_eq!(packets(&mut c), [(Op::CreditUpdate, 0)]);
    c.stream.input.extend(b"still talking");
    c.ready(input()).unwrap();
    assert_eq!(packets(&mut c), [(Op::Rw, 13)]);
}

#[test]
fn no_byte_is_sent_without_credit() {
    let mut request = from_guest(Op::Request);
    request.buf_alloc = 10;
    let mut c = open_with(Plan::default(), &request);
    c.stream.input.extend([7; 25]);
    c.ready(input()).unwrap();
    assert_eq!(packets(&mut c), [(Op::Rw, 10), (Op::CreditRequest, 0)]);
    assert!(!c.interest().unwrap().input, "no spinning without credit");

    let mut update = from_guest(Op::CreditUpdate);
    update.buf_alloc = 10;
    c.receive(&update, b"").unwrap();
    assert_eq!(
        packets(&mut c),
        [],
        "nothing was freed, nothing is asked twice"
    );

    update.fwd_cnt = 10;
    c.receive(&update, b"").unwrap();
    assert_eq!(packets(&mut c), [(Op::Rw, 10), (Op::CreditRequest, 0)]);
    update.fwd_cnt = 20;
    c.receive(&update, b"").unwrap();
    assert_eq!(packets(&mut c), [(Op::Rw, 5)]);
    assert!(c.interest().unwrap().input);
}

#[test]
fn credit_counters_wrap() {
    let mut request = from_guest(Op::Request);
    request.buf_alloc = 4096;
    let mut c = open_with(Plan::default(), &request);
    let mut update = request;
    update.op = Some(Op::CreditUpdate);
    c.credit.sent(u32::MAX as usize - 100);
    update.fwd_cnt = u32::MAX - 100;
    c.receive(&update, b"").unwrap();
    c.stream.input.extend([1; 4000]);
    c.ready(input()).unwrap();
    assert_eq!(packets(&mut c), [(Op::Rw, 4000)]);
    update.fwd_cnt = update.fwd_cnt.wrapping_add(4000);
    c.receive(&update, b"").unwrap();
    assert_eq!(c.credit.room(), 4096);
}

#[test]
fn freed_buffer_space_is_announced_and_an_overrun_is_an_error() {
    let mut c = open();
    c.stream.room = 0;
    for _ in 0..BUFFER / 65536 {
        c.receive(&from_guest(Op::Rw), &[0; 65536]).unwrap();
    }
    assert_eq!(packets(&mut c), [], "nothing was freed");
    c.stream.room = 65536;
    c.ready(output()).unwrap();
    let update = c.next_packet(&mut [0; 64]).unwrap().unwrap();
    assert_eq!(update.op, Some(Op::CreditUpdate));
    assert_eq!((update.buf_alloc as usize, update.fwd_cnt), (BUFFER, 65536));
    c.receive(&from_guest(Op::Rw), &[0; 65536]).unwrap();
    let outcome = c.receive(&from_guest(Op::Rw), &[0]);
    assert_eq!(outcome, Err(Broken::Overrun));
}

#[test]
fn a_credit_request_is_answered_at_once() {
    let mut c = open();
    c.receive(&from_guest(Op::CreditRequest), b"").unwrap();
    assert_eq!(packets(&mut c), [(Op::CreditUpdate, 0)]);
}

#[test]
fn a_client_gets_its_ok_only_from_the_guest() {
    let script = Script {
        room: usize::MAX,
        ..Script::default()
    };
    let mut c = Connection::requested(script, KEY, Plan::default());
    c.stream.input.extend(b"early");
    assert_eq!(packets(&mut c), [(Op::Request, 0)]);
    c.ready(input()).unwrap();
    assert_eq!(packets(&mut c), [], "nothing before the guest answers");
    c.receive(&from_guest(Op::Response), b"").unwrap();
    assert_eq!(c.stream.written, b"OK 1024\n");
    c.ready(input()).unwrap();
    assert_eq!(packets(&mut c), [(Op::Rw, 5)]);
}

#[test]
fn a_refused_client_is_closed_and_one_that_left_resets_the_guest() {
    let mut c = Connection::requested(Script::default(), KEY, Plan::default());
    c.receive(&from_guest(Op::Rst), b"").unwrap();
    assert!(c.is_over());
    assert_eq!(c.stream.written, b"");

    let mut c = Connection::requested(Script::default(), KEY, Plan::default());
    assert_eq!(c.ready(hang_up()), Err(Broken::ClientLeft));
}

#[test]
fn packets_out_of_state_break_the_connection() {
    let mut c = open();
    let outcome = c.receive(&from_guest(Op::Response), b"");
    assert_eq!(outcome, Err(Broken::OutOfState));

    let mut c = open();
    c.receive(&shutdown(SHUTDOWN_SEND), b"").unwrap();
    let outcome = c.receive(&from_guest(Op::Rw), b"more");
    assert_eq!(outcome, Err(Broken::OutOfState));
}

#[test]
fn a_hang_up_that_was_seen_is_not_watched_again() {
    let mut request = from_guest(Op::Request);
    request.buf_alloc = 0;
    let mut c = open_with(Plan::default(), &request);
    c.stream.input.extend(b"no room for this");
    c.stream.ended = true;
    c.ready(hang_up()).unwrap();
    packets(&mut c);
    assert_eq!(c.interest(), None, "or the loop would spin on it");
    let mut update = from_guest(Op::CreditUpdate);
    update.buf_alloc = 100;
    c.receive(&update, b"").unwrap();
    assert_eq!(packets(&mut c), [(Op::Rw, 16)]);
    assert!(c.interest().unwrap().input, "the end is still to be read");
}

#[test]
fn faults_strike_after_their_bytes() {
    let direction = Direction::GuestToHost;
    let bytes = 5;
    let plan = |fault| Faults::default().on_port(1, fault).plan(1);
    let request = from_guest(Op::Request);

    let mut c = open_with(plan(Fault::Reset { direction, bytes }), &request);
    let outcome = c.receive(&from_guest(Op::Rw), b"12345678");
    assert_eq!(outcome, Err(Broken::Injected));
    assert_eq!(c.stream.written, b"12345");

    let mut c = open_with(plan(Fault::Stall { direction, bytes }), &request);
    c.receive(&from_guest(Op::Rw), b"12345678").unwrap();
    c.ready(output()).unwrap();
    assert_eq!(c.stream.written, b"12345");
    assert!(!c.interest().unwrap().output, "a stall does not spin");

    let mut c = open_with(plan(Fault::Drop { direction, bytes }), &request);
    c.receive(&from_guest(Op::Rw), b"12345678").unwrap();
    assert_eq!(packets(&mut c), [(Op::Shutdown, SHUTDOWN_BOTH)]);

    let mut c = open_with(plan(Fault::Short { bytes: 2 }), &request);
    c.stream.input.extend(b"abcde");
    c.ready(input()).unwrap();
    assert_eq!(packets(&mut c), [(Op::Rw, 2), (Op::Rw, 2), (Op::Rw, 1)]);
}
