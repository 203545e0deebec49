//! A bridge that is lost and dialled again (P-018 to P-021, protocol 12.1), without containers.

#![allow(clippy::disallowed_methods)] // The test is the host; it may wait for its child.

mod guest;

use std::io::{BufRead, BufReader, Read};
use std::time::{Duration, Instant};

use gcs::prot::MessageId;
use serde_json::json;

use guest::{accept, Guest, PATIENCE};

const TIMEOUT: i32 = 0xc037_0109_u32.cast_signed();
const NOT_IMPLEMENTED: i32 = 0x8000_4001_u32.cast_signed();

/// Reads the guest's log up to this text.
fn wait_for_line(log: impl Read, text: &str) {
    let found = BufReader::new(log)
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains(text));
    assert!(found, "the guest has ended");
}

/// Drops the bridge and takes the next one, not negotiated.
fn reconnect(guest: &mut Guest) {
    guest.disconnect();
    guest.accept();
}

#[test]
fn the_session_begins_anew_and_processes_go_on() {
    let mut guest = Guest::dialling();
    let listener = guest.listen(7);
    let script = "echo before; exec sleep 1000";
    let started = guest.execute(&["sh", "-c", script], Some(7));
    let mut output = accept(&listener);
    let pending = guest.send_wait(&started, u32::MAX);
    for _ in 0..3 {
        reconnect(&mut guest);
        let early = guest.ask(MessageId::DUMP_STACKS, json!({}));
        assert_eq!(early["Result"], NOT_IMPLEMENTED, "{early}");
        guest.negotiate();
        let body = json!({"ProcessId": started["ProcessId"], "TimeoutInMs": 0});
        let runs = guest.ask(MessageId::WAIT_FOR_PROCESS, body);
        assert_eq!(runs["Result"], TIMEOUT, "{runs}");
    }
    let body = json!({"ProcessId": started["ProcessId"], "Options": {"Signal": 15}});
    assert_eq!(guest.ask(MessageId::SIGNAL_PROCESS, body)["Result"], 0);
    // The request of the first connection is answered on the fourth, by its number.
    assert_eq!(guest.answer(pending)["ExitCode"], 143);
    let mut said = String::new();
    output.read_to_string(&mut said).unwrap();
    assert_eq!(said, "before\n");
}

#[test]
fn an_exit_without_a_bridge_can_be_asked_for_and_the_lost_answer_does_not_come() {
    let mut guest = Guest::dialling();
    let listener = guest.listen(7);
    let mark = guest.dir.path().join("mark");
    let script = format!(
        "while ! [ -e {} ]; do sleep 0.02; done; exit 3",
        mark.display()
    );
    let started = guest.execute(&["sh", "-c", &script], Some(7));
    let mut output = accept(&listener);
    let lost = guest.send_wait(&started, u32::MAX);
    // This was asked after it, so it was read.
    assert_eq!(guest.ask(MessageId::DUMP_STACKS, json!({}))["Result"], 0);
    guest.refuse_dials(true);
    guest.disconnect();
    let log = guest.log.take().unwrap();
    wait_for_line(log, "the bridge is lost");
    std::fs::write(&mark, "").unwrap();
    // The end of its output is the end of the process; reaping it follows at once.
    output.read_to_end(&mut Vec::new()).unwrap();
    guest.wait_reaped(&started);
    guest.refuse_dials(false);
    guest.accept();
    guest.negotiate();
    assert_eq!(guest.exit_code(&started), 3);
    let stray = guest.answer_within(lost, Duration::ZERO);
    assert_eq!(stray, None);
}

#[test]
fn a_frame_sent_in_part_is_not_continued() {
    let mut guest = Guest::dialling();
    // Far more than the socket holds, so that a frame is cut where it was full.
    for _ in 0..100 {
        guest.send(MessageId::DUMP_STACKS, json!({}));
    }
    let mark = guest.dir.path().join("mark");
    guest.send_execute(&["touch", mark.to_str().unwrap()], None);
    let begun = Instant::now();
    while !mark.exists() {
        assert!(begun.elapsed() < PATIENCE, "the service is blocked");
        std::thread::yield_now();
    }
    reconnect(&mut guest);
    // What comes first is the answer to this, at the beginning of a frame.
    guest.negotiate();
    assert_eq!(guest.ask(MessageId::DUMP_STACKS, json!({}))["Result"], 0);
}

#[test]
fn a_senseless_size_drops_the_bridge_and_nothing_else() {
    let mut guest = Guest::dialling();
    let started = guest.execute(&["sleep", "1000"], None);
    for size in [0_u32, 15, u32::MAX] {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&MessageId::DUMP_STACKS.0.to_le_bytes());
        header[4..8].copy_from_slice(&size.to_le_bytes());
        guest.send_bytes(&header);
        guest.wait_closed();
        guest.accept();
        guest.negotiate();
    }
    let body = json!({"ProcessId": started["ProcessId"]});
    assert_eq!(guest.ask(MessageId::SIGNAL_PROCESS, body)["Result"], 0);
    assert_eq!(guest.exit_code(&started), 137);
}

#[test]
fn a_host_that_does_not_listen_is_dialled_without_haste() {
    let mut guest = Guest::dialling();
    guest.refuse_dials(true);
    let cpu = |guest: &Guest| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", guest.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        let ticks = |at: usize| fields[at].parse::<u64>().unwrap();
        ticks(11) + ticks(12)
    };
    let before = cpu(&guest);
    guest.disconnect();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        std::thread::sleep(Duration::from_millis(100));
    }
    let used = cpu(&guest) - before;
    assert!(used < 50, "{used} of 100 ticks went into dialling");
    guest.refuse_dials(false);
    guest.accept();
    guest.negotiate();
    assert_eq!(guest.ask(MessageId::DUMP_STACKS, json!({}))["Result"], 0);
}
