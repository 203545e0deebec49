//! The service as a process of this machine, its bridge on stdin and stdout and its stdio ports
//! on Unix sockets: what it does when what it talks to goes away.

#![allow(clippy::disallowed_methods)] // The test is the host; it may wait for its child.

mod guest;

use std::io::Read;

use gcs::prot::MessageId;
use serde_json::json;

use guest::{accept, Guest, PATIENCE};

#[test]
fn a_lost_log_connection_ends_nothing() {
    let mut guest = Guest::start();
    drop(guest.log.take());
    // The first records find out; programs start although low descriptor numbers are free now.
    for code in [0, 7] {
        let started = guest.execute(&["sh", "-c", &format!("exit {code}")], None);
        assert_eq!(started["Result"], 0, "{started}");
        assert_eq!(guest.exit_code(&started), code);
    }
    let text = guest.dump();
    assert!(text.contains("the log connection is lost"), "{text}");
}

#[test]
fn no_child_reaches_the_bridge_through_the_services_own_streams() {
    let mut guest = Guest::start();
    let script = "for fd in 0 1; do readlink /proc/$PPID/fd/$fd; done; ls /proc/$$/fd | wc -l";
    let listener = guest.listen(7);
    let started = guest.execute(&["sh", "-c", script], Some(7));
    assert_eq!(started["Result"], 0, "{started}");
    let mut said = String::new();
    let mut stream = accept(&listener);
    assert_eq!(guest.exit_code(&started), 0);
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said.lines().take(2).collect::<Vec<_>>(), ["/dev/null"; 2]);
}

#[test]
fn a_port_without_listener_and_a_program_that_is_not_there_are_named() {
    let mut guest = Guest::start();
    for (args, port, named) in [
        (&["true"][..], Some(9), "port 9"),
        (&["no-such-program"], None, "no-such-program"),
        (&["/etc/passwd"], None, "/etc/passwd"),
    ] {
        let refused = guest.execute(args, port);
        assert_ne!(refused["Result"], 0, "{refused}");
        assert!(
            refused["ErrorMessage"].as_str().unwrap().contains(named),
            "{refused}"
        );
    }
    let started = guest.execute(&["true"], None);
    assert_eq!(guest.exit_code(&started), 0);
}

#[test]
fn answers_that_nobody_reads_do_not_block_the_service() {
    let mut guest = Guest::start();
    // Far more than a pipe holds.
    let dumps: Vec<u64> = (0..100)
        .map(|_| guest.send(MessageId::DUMP_STACKS, json!({})))
        .collect();
    let mark = guest.dir.path().join("mark");
    let parameters = json!({"CommandArgs": ["touch", mark]});
    let settings = json!({"ProcessParameters": parameters.to_string()});
    let last = guest.send(MessageId::EXECUTE_PROCESS, json!({"Settings": settings}));
    let begun = std::time::Instant::now();
    while !mark.exists() {
        assert!(begun.elapsed() < PATIENCE, "the service is blocked");
        std::thread::yield_now();
    }
    for sequence in dumps.into_iter().chain([last]) {
        assert_eq!(guest.answer(sequence)["Result"], 0);
    }
}

#[test]
fn a_dump_tells_all_and_fits_its_frame_when_everything_is_full() {
    let mut guest = Guest::start();
    let started = guest.execute(&["sleep", "1000"], None);
    let pid = started["ProcessId"].as_u64().unwrap();
    let text = guest.dump();
    for words in [
        "received 3 frames",
        "sent 2 frames",
        "pending requests (1)",
        &format!("pid {pid} External"),
        "open descriptors ",
        "last log records (",
    ] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
    assert!(!text.contains("are cut"), "{text}");

    // Fills the list of requests and their deadlines, then the log.
    let wait = |limit: u32| json!({"ProcessId": pid, "TimeoutInMs": limit});
    for _ in 0..1000 {
        guest.send(MessageId::WAIT_FOR_PROCESS, wait(3_600_000));
    }
    for _ in 0..1000 {
        let unknown = json!({"ProcessId": pid + 1, "TimeoutInMs": 0});
        let answer = guest.ask(MessageId::WAIT_FOR_PROCESS, unknown);
        assert_eq!(answer["Result"], 0x8007_0490_u32.cast_signed(), "{answer}");
    }
    let text = guest.dump();
    for words in [
        "pending requests (1001)",
        "waiters=1000",
        "deadlines (1000)",
        &format!("time-out of a wait for process {pid}"),
        "more\n",
        "older ones are cut)",
        "counts (",
    ] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
    // The newest record is the one that stays.
    let last = text.lines().last().unwrap();
    assert!(last.contains("DumpStacks"), "{last}");
    let size = serde_json::to_vec(&text).unwrap().len();
    assert!((50_000..60_100).contains(&size), "{size} bytes");
}

#[test]
fn the_end_of_a_given_bridge_ends_the_service() {
    let mut guest = Guest::start();
    guest.disconnect();
    assert!(!guest.child.wait().unwrap().success());
}

#[test]
fn more_requests_than_are_worked_on_at_once_are_each_answered() {
    let mut guest = Guest::start();
    // More than the bound, and in one piece, so that they are read together.
    let started: Vec<u64> = (0..600)
        .map(|_| guest.send_execute(&["true"], None))
        .collect();
    for sequence in started {
        let answer = guest.answer(sequence);
        assert_eq!(answer["Result"], 0, "{answer}");
        assert_eq!(guest.exit_code(&answer), 0);
    }
}
