//! The fake host against a fake guest over Unix sockets: calls, streams, and strict mode.

mod fake_guest;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use fake_guest::{pair, stdio_ports, FakeGuest};
use serde_json::{json, Value};
use uvm_host::wire::{self, Rpc};
use uvm_host::{End, Host, HostError};

const LONG: Duration = Duration::from_secs(60);

fn tempdir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn negotiated() -> Value {
    json!({"Result": 0, "Version": 4, "Capabilities": {"RuntimeOsType": "Linux"}})
}

/// Runs a host with an outstanding Start against a guest that misbehaves; the words of the report.
fn violation(misbehave: impl FnOnce(&mut FakeGuest, u64) + Send + 'static) -> String {
    let dir = tempdir();
    let (host, guest) = pair(dir.path(), true, |mut guest| {
        let (_, id, _) = guest.request().unwrap();
        misbehave(&mut guest, id);
        // Holds the bridge open until the host is done.
        let mut rest = Vec::new();
        // A reset is an end too, because the host may close before it has read every byte of the
        // guest.
        drop(guest.bridge.read_to_end(&mut rest));
    });
    host.wait_connected(LONG).unwrap();
    let call = host.send(Rpc::Start, "c", json!({})).unwrap();
    let end = host.wait_end(LONG).unwrap();
    drop((call, host));
    guest.join().unwrap();
    match end {
        End::Violation(text) => text,
        other => panic!("ended otherwise: {other}"),
    }
}

#[test]
fn negotiation_and_calls_out_of_order() {
    let dir = tempdir();
    let (host, guest) = pair(dir.path(), true, |mut guest| {
        let (rpc, id, body) = guest.request().unwrap();
        assert_eq!((rpc, id), (Rpc::NegotiateProtocol, 0));
        assert_eq!(body["MinimumVersion"], 4);
        guest.answer(rpc, id, negotiated());
        let first = guest.request().unwrap();
        let second = guest.request().unwrap();
        guest.answer(second.0, second.1, json!({"Result": 0}));
        guest.answer(
            first.0,
            first.1,
            json!({"Result": -1070137074, "ErrorMessage": "no such"}),
        );
    });
    host.wait_connected(LONG).unwrap();
    assert_eq!(host.negotiate().unwrap()["RuntimeOsType"], "Linux");
    let mut first = host.send(Rpc::Start, "a", json!({})).unwrap();
    let mut second = host.send(Rpc::Start, "b", json!({})).unwrap();
    second.wait(LONG).unwrap();
    let refusal = first.wait(LONG).unwrap_err();
    assert_eq!(refusal.refused(), Some(-1070137074));
    assert!(
        refusal.to_string().contains("0xc037010e: no such"),
        "{refusal}"
    );
    guest.join().unwrap();
    let end = host.wait_end(LONG).unwrap();
    assert_eq!(end, End::BridgeClosed);
}

#[test]
fn a_guest_that_chooses_another_version_is_refused() {
    let dir = tempdir();
    let (host, guest) = pair(dir.path(), true, |mut guest| {
        let (rpc, id, _) = guest.request().unwrap();
        guest.answer(rpc, id, json!({"Result": 0}));
        guest
    });
    host.wait_connected(LONG).unwrap();
    let said = host.negotiate().unwrap_err().to_string();
    assert!(said.contains("version 0"), "{said}");
    drop(guest.join().unwrap());
}

/// Answers one external process that echoes its input and says `err` on its error stream.
fn echo_process(guest: &mut FakeGuest, code: u32) {
    let (rpc, id, body) = guest.request().unwrap();
    assert_eq!(rpc, Rpc::ExecuteProcess);
    let [stdin, stdout, stderr] = stdio_ports(&body);
    let mut input = guest.dial(stdin);
    let mut output = guest.dial(stdout);
    let mut error = guest.dial(stderr);
    guest.answer(rpc, id, json!({"Result": 0, "ProcessId": 77}));
    let (rpc, id, body) = guest.request().unwrap();
    assert_eq!((rpc, &body["ProcessId"]), (Rpc::WaitForProcess, &json!(77)));
    error.write_all(b"err").unwrap();
    drop(error);
    std::io::copy(&mut input, &mut output).unwrap();
    // The exit is reported before the output is read, and must not cut it off.
    guest.answer(rpc, id, json!({"Result": 0, "ExitCode": code}));
    output.write_all(b"tail").unwrap();
    output.shutdown(Shutdown::Write).unwrap();
}

#[test]
fn streams_carry_everything_and_ports_are_never_used_again() {
    let dir = tempdir();
    let (host, guest) = pair(dir.path(), true, |mut guest| {
        echo_process(&mut guest, 7);
        echo_process(&mut guest, 137);
    });
    host.wait_connected(LONG).unwrap();
    let input: Vec<u8> = (0..4_000_000_u32).map(|i| (i % 251) as u8).collect();
    for code in [7, 137] {
        let out = host.external(&["cat"]).input(input.clone()).run().unwrap();
        assert_eq!(out.code, code);
        assert!(out.complete);
        assert_eq!(out.stderr, b"err");
        assert_eq!(out.stdout.len(), input.len() + 4);
        assert!(out.stdout.starts_with(&input) && out.stdout.ends_with(b"tail"));
    }
    guest.join().unwrap();
}

#[test]
fn a_refused_process_closes_its_ports() {
    let dir = tempdir();
    let base = dir.path().to_owned();
    let (host, guest) = pair(dir.path(), true, |mut guest| {
        let (rpc, id, _) = guest.request().unwrap();
        guest.answer(
            rpc,
            id,
            json!({"Result": -2147467259, "ErrorMessage": "not found: nix"}),
        );
        guest
    });
    host.wait_connected(LONG).unwrap();
    let said = host.external(&["nix"]).run().unwrap_err();
    assert_eq!(said.refused(), Some(-2147467259));
    assert_eq!(
        std::fs::read_dir(base).unwrap().count(),
        0,
        "sockets stay behind"
    );
    drop(guest.join().unwrap());
}

#[test]
fn a_process_whose_stream_stays_open_does_not_hold_us() {
    let dir = tempdir();
    let (host, guest) = pair(dir.path(), true, |mut guest| {
        let (rpc, id, body) = guest.request().unwrap();
        let mut held = guest.dial(stdio_ports(&body)[1]);
        drop(guest.dial(stdio_ports(&body)[2]));
        guest.answer(rpc, id, json!({"Result": 0, "ProcessId": 1}));
        let (rpc, id, _) = guest.request().unwrap();
        held.write_all(b"early").unwrap();
        guest.answer(rpc, id, json!({"Result": 0, "ExitCode": 0}));
        (guest, held)
    });
    host.wait_connected(LONG).unwrap();
    let out = host.external(&["sh"]).run().unwrap();
    assert_eq!((out.text().as_str(), out.complete), ("early", false));
    drop(guest.join().unwrap());
}

#[test]
fn notifications_are_queued_for_known_containers() {
    let dir = tempdir();
    let (host, guest) = pair(dir.path(), true, |mut guest| {
        let (rpc, id, _) = guest.request().unwrap();
        guest.answer(rpc, id, json!({"Result": 0, "SelectedProtocolVersion": 0}));
        guest.notify("c");
        guest
    });
    host.wait_connected(LONG).unwrap();
    host.create("c", "/run/gcs/c/c", &json!({"ociVersion": "1.1.0"}), "")
        .unwrap();
    let note = host.wait_notification("c", LONG).unwrap();
    assert_eq!(note.members["Type"], "UnexpectedExit");
    drop(guest.join().unwrap());
}

#[test]
fn breaches_end_the_run_with_a_report() {
    let start = wire::response_to(Rpc::Start as u32);
    let ok = r#"{"Result":0}"#;
    let said = violation(move |guest, id| guest.send(start, id + 1, ok));
    assert!(
        said.contains("no call with this id is outstanding"),
        "{said}"
    );
    let said = violation(move |guest, id| {
        guest.send(start, id, ok);
        guest.send(start, id, ok);
    });
    assert!(
        said.contains("no call with this id is outstanding"),
        "{said}"
    );
    let said = violation(move |guest, id| guest.send(0x2010_0101, id, ok));
    assert!(said.contains("was a Start request"), "{said}");
    let said = violation(move |guest, id| guest.send(start, id, "{"));
    assert!(said.contains("not JSON"), "{said}");
    let said = violation(move |guest, id| guest.send(start, id, r#"{"ActivityId":""}"#));
    assert!(said.contains("not a GUID"), "{said}");
    let said = violation(|guest, _| guest.send(Rpc::Start as u32, 0, "{}"));
    assert!(said.contains("only responses and notifications"), "{said}");
    let said = violation(|guest, _| guest.notify("stranger"));
    assert!(said.contains("created no container"), "{said}");
    let said = violation(|guest, _| guest.send(0x3010_0201, 0, "{}"));
    assert!(said.contains("0x30100201"), "{said}");
    let said = violation(move |guest, id| guest.send(start, id, &" ".repeat(65521)));
    assert!(said.contains("65537"), "{said}");
    let said = violation(|guest, _| {
        guest
            .bridge
            .write_all(&[1; 7])
            .and_then(|()| guest.bridge.shutdown(Shutdown::Write))
            .unwrap()
    });
    assert!(said.contains("inside a frame"), "{said}");
    let said = violation(|guest, _| guest.say("Segmentation fault\n"));
    assert!(said.contains("Segmentation fault"), "{said}");
    let said = violation(|guest, _| guest.say(r#"{"level":"noisy","msg":"x"}"#));
    assert!(said.contains("\"noisy\" is not a level"), "{said}");
}

#[test]
fn a_second_notification_is_a_breach() {
    let dir = tempdir();
    let (host, guest) = pair(dir.path(), true, |mut guest| {
        let (rpc, id, _) = guest.request().unwrap();
        guest.answer(rpc, id, json!({}));
        guest.notify("c");
        guest.notify("c");
        guest
    });
    host.wait_connected(LONG).unwrap();
    host.create("c", "/b", &json!({}), "").unwrap();
    let end = host.wait_end(LONG).unwrap();
    assert!(end.to_string().contains("the second one"), "{end}");
    drop(guest.join().unwrap());
}

#[test]
fn without_strict_mode_breaches_are_noted_and_the_run_goes_on() {
    let dir = tempdir();
    let (host, guest) = pair(dir.path(), false, |mut guest| {
        let (rpc, id, _) = guest.request().unwrap();
        guest.notify("stranger");
        guest.answer(rpc, id + 9, json!({}));
        guest.answer(rpc, id, json!({}));
        guest
    });
    host.wait_connected(LONG).unwrap();
    host.start("c").unwrap();
    assert_eq!(host.tolerated().len(), 2, "{:?}", host.tolerated());
    drop(guest.join().unwrap());
}

#[test]
fn the_cause_of_a_lost_bridge_wins_over_the_loss() {
    let dir = tempdir();
    let (host, guest) = pair(dir.path(), true, |mut guest| drop(guest.request()));
    host.wait_connected(LONG).unwrap();
    let mut call = host.send(Rpc::Start, "c", json!({})).unwrap();
    guest.join().unwrap();
    host.end(End::Panic("Kernel panic - not syncing: x".into()));
    match call.wait(LONG) {
        Err(HostError::Ended {
            end: End::Panic(text),
            ..
        }) => assert!(text.contains("syncing: x")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_call_nobody_answers_times_out_by_name() {
    let dir = tempdir();
    let (host, guest) = pair(dir.path(), true, |mut guest| {
        drop(guest.request());
        guest
    });
    host.wait_connected(LONG).unwrap();
    let said = call_briefly(&host);
    assert!(said.contains("Start of c: no answer within"), "{said}");
    drop(guest.join().unwrap());
}

fn call_briefly(host: &Host) -> String {
    let mut call = host.send(Rpc::Start, "c", json!({})).unwrap();
    call.wait(Duration::from_millis(50))
        .unwrap_err()
        .to_string()
}
