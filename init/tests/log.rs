//! The service's log as a host reads it: whose request each line is about, and what a listener
//! that refuses, closes or stops reading costs.

#![allow(clippy::disallowed_methods)] // The test is the host; it may wait for its child.

mod guest;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use gcs::prot::MessageId;
use serde_json::{json, Value};

use guest::{accept, Guest, PATIENCE};

const PORT: u32 = 109;
const FLAGS: &[&str] = &["-log-port", "109", "-log-format", "json"];
const TRACE: &str = "0123456789abcdef0123456789abcdef";
const SPAN: &str = "00000000000000a1";

/// One line, checked as a host checks it (protocol 10.4).
fn record(line: &str) -> Value {
    let record: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
    let text = |name: &str| {
        record[name]
            .as_str()
            .unwrap_or_else(|| panic!("{name}: {line}"))
    };
    let levels = [
        "panic", "fatal", "error", "warning", "info", "debug", "trace",
    ];
    assert!(levels.contains(&text("level")), "{line}");
    text("msg");
    // RFC 3339 with nanoseconds, UTC.
    let time: String = text("time")
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    assert_eq!(time, "0000-00-00T00:00:00.000000000Z", "{line}");
    record
}

/// Reads records up to and with the first that `last` takes. The connection stays usable.
fn read_until(log: &mut impl BufRead, last: impl Fn(&Value) -> bool) -> Vec<Value> {
    let mut records = Vec::new();
    loop {
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "the log ends: {records:#?} {line}");
        records.push(record(&line));
        if last(&records[records.len() - 1]) {
            return records;
        }
    }
}

fn take(guest: &Guest) -> BufReader<UnixStream> {
    let stream = accept(&guest.listen(PORT));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    BufReader::new(stream)
}

/// A request that costs two lines at level debug: its arrival and its end.
fn ask(guest: &mut Guest) -> u64 {
    let sequence = guest.send(MessageId::START, json!({}));
    assert_eq!(guest.answer(sequence)["Result"], 0);
    sequence
}

fn ends(sequence: u64) -> impl Fn(&Value) -> bool {
    move |record| record["message-id"] == sequence && record["span"] == "request"
}

fn sequences(records: &[Value]) -> Vec<u64> {
    records
        .iter()
        .filter_map(|r| r["message-id"].as_u64())
        .collect()
}

#[test]
fn every_line_about_a_request_names_it() {
    let mut guest = Guest::silent(FLAGS);
    let mut log = take(&guest);
    guest.negotiate();
    let base = |members: Value, settings: Value| {
        let mut body = json!({
            "ContainerId": "00000000-0000-0000-0000-000000000000",
            "ActivityId": "5c1b2a44-0000-0000-0000-00000000000a",
            "Settings": settings,
        });
        let more = members.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(more);
        serde_json::to_vec(&body).unwrap()
    };
    let run = |args: &[&str]| {
        let parameters = json!({"CommandArgs": args, "Environment": {"PATH": "/bin"}});
        json!({"ProcessParameters": parameters.to_string()})
    };
    let older = json!({"ocsc": {"TraceID": TRACE, "SpanID": SPAN, "TraceOptions": 1}});
    let newer = json!({"otsc": {"traceparent": format!("00-{TRACE}-{SPAN}-01")}});
    for (members, has_span) in [(older, true), (newer, true), (json!({}), false)] {
        for (program, fails) in [("true", false), ("/no/such/program", true)] {
            let payload = base(members.clone(), run(&[program]));
            let sequence = guest.send_payload(MessageId::EXECUTE_PROCESS, &payload);
            assert_eq!(guest.answer(sequence)["Result"] != 0, fails);
            let records = read_until(&mut log, ends(sequence));
            let about: Vec<&Value> = records
                .iter()
                .filter(|record| record["message-id"] == sequence)
                .collect();
            // Its arrival, the start of the program (later, from the loop), perhaps the failure,
            // its end.
            assert_eq!(about.len(), if fails { 4 } else { 3 }, "{records:#?}");
            for record in about {
                assert_eq!(record["message-type"], "ComputeSystemExecuteProcessV1");
                assert_eq!(record["cid"], "00000000-0000-0000-0000-000000000000");
                assert_eq!(record["activityID"], "5c1b2a44-0000-0000-0000-00000000000a");
                assert_eq!(
                    record["traceID"].as_str(),
                    has_span.then_some(TRACE),
                    "{record}"
                );
                assert_eq!(
                    record["spanID"].as_str(),
                    has_span.then_some(SPAN),
                    "{record}"
                );
            }
            let strays = records
                .iter()
                .filter(|record| record["message-id"].is_null());
            for stray in strays {
                let text = stray["msg"].as_str().unwrap();
                assert!(
                    !text.contains("program") && !text.contains("Process"),
                    "{stray}"
                );
            }
        }
    }
}

#[test]
fn spans_of_a_request_are_within_each_other() {
    let mut guest = Guest::silent(FLAGS);
    let mut log = take(&guest);
    guest.negotiate();
    let sequence = guest.send_execute(&["true"], None);
    assert_eq!(guest.answer(sequence)["Result"], 0);
    let records = read_until(&mut log, ends(sequence));
    let span = |kind: &str| {
        let of = |r: &&Value| r["message-id"] == sequence && r["span"] == kind;
        let record = records.iter().find(of).unwrap();
        let number = |name: &str| record[name].as_u64().unwrap();
        (number("start_us"), number("start_us") + number("took_us"))
    };
    let (request, task) = (span("request"), span("task"));
    assert!(
        request.0 <= task.0 && task.1 <= request.1,
        "{request:?} {task:?}"
    );
}

#[test]
fn a_listener_that_comes_late_gets_all_from_the_first_record() {
    let mut guest = Guest::start_with(FLAGS);
    // Until it was refused at least once.
    while !guest.dump().contains("the log waits") {
        std::thread::yield_now();
    }
    let last = ask(&mut guest);
    let records = read_until(&mut take(&guest), ends(last));
    assert_eq!(records[0]["msg"], "service starts");
    let mut asked = sequences(&records);
    asked.dedup();
    assert_eq!(asked, (1..=last).collect::<Vec<_>>());
    assert!(
        records.iter().all(|r| r["dropped"].is_null()),
        "{records:#?}"
    );
}

#[test]
fn a_lost_connection_is_dialled_again_and_nothing_is_doubled_or_missed() {
    let mut guest = Guest::start_with(FLAGS);
    let mut seen = Vec::new();
    let mut last = 0;
    for round in 0..4 {
        let mut log = take(&guest);
        for _ in 0..20 {
            last = ask(&mut guest);
        }
        seen.extend(read_until(&mut log, ends(last)));
        let path = guest.dir.path().join("v_109");
        std::fs::remove_file(path).unwrap();
        drop(log);
        // These find out, and wait for the next connection.
        for _ in 0..20 {
            ask(&mut guest);
        }
        let lost = |r: &&Value| r["msg"] == "the log connection is lost";
        assert_eq!(seen.iter().filter(lost).count(), round);
    }
    let mut log = take(&guest);
    last = ask(&mut guest);
    seen.extend(read_until(&mut log, ends(last)));
    let mut ends: Vec<u64> = seen
        .iter()
        .filter(|r| r["span"] == "request")
        .filter_map(|r| r["message-id"].as_u64())
        .collect();
    assert_eq!(
        ends.len(),
        ends.iter().collect::<BTreeSet<_>>().len(),
        "doubled"
    );
    ends.sort_unstable();
    assert_eq!(ends, (1..=last).collect::<Vec<_>>());
}

#[test]
fn what_does_not_fit_while_nobody_listens_is_counted() {
    let mut guest = Guest::start_with(FLAGS);
    for _ in 0..1000 {
        ask(&mut guest);
    }
    let last = ask(&mut guest);
    let records = read_until(&mut take(&guest), ends(last));
    let dropped = records[0]["dropped"].as_u64().expect("the first says it");
    let about = sequences(&records);
    // Each request has two lines; before them are those of the start and of the failed dial.
    let total = dropped + about.len() as u64;
    let missing = (2 * last).saturating_sub(total);
    assert_eq!(missing, 0, "{dropped} dropped, {} sent", about.len());
    assert!(
        total <= 2 * last + 10,
        "{dropped} dropped, {} sent",
        about.len()
    );
    assert_eq!(about.last(), Some(&last));
}

#[test]
fn a_listener_that_stops_reading_delays_nothing_and_what_it_missed_is_counted() {
    /// Enough for both socket buffers and the queue before them, several times over.
    const REQUESTS: u64 = 4000;
    let mut guest = Guest::silent(&[FLAGS, &["-loglevel", "trace"]].concat());
    let mut log = take(&guest);
    guest.negotiate();
    let begun = Instant::now();
    let mut records = Vec::new();
    let mut last = 1;
    for number in 0..REQUESTS {
        last = ask(&mut guest);
        // Often enough that nothing has to go.
        if number % 50 == 0 {
            records.extend(read_until(&mut log, ends(last)));
        }
    }
    records.extend(read_until(&mut log, ends(last)));
    let read = begun.elapsed();
    // Three of each, and one of the version that was agreed on.
    assert_eq!(sequences(&records).len() as u64, 3 * last + 1);

    let begun = Instant::now();
    for _ in 0..REQUESTS {
        ask(&mut guest);
    }
    let stalled = begun.elapsed();
    println!("{REQUESTS} requests: {read:?} with a reader, {stalled:?} with one that stands still");
    // Far less work, in truth; a service that waits for the log would never come to an end.
    assert!(stalled < 5 * read, "{stalled:?} against {read:?}");

    // It goes on to read: first what had its place in the queue, then how much had not.
    let dropped_in =
        |records: &[Value]| -> u64 { records.iter().filter_map(|r| r["dropped"].as_u64()).sum() };
    records = read_until(&mut log, |r| !r["dropped"].is_null());
    let end = ask(&mut guest);
    records.extend(read_until(&mut log, ends(end)));
    let (about, dropped) = (sequences(&records).len() as u64, dropped_in(&records));
    assert!(dropped > 0);
    assert_eq!(about + dropped, 3 * (end - last), "{dropped} dropped");
}

#[test]
fn what_children_write_to_their_stderr_is_not_in_the_log() {
    let mut guest = Guest::silent(FLAGS);
    let mut log = take(&guest);
    guest.negotiate();
    let script = "echo raw words >&2; printf '\\377\\001{' >&2; echo more > /dev/stderr; exit 3";
    let started = guest.execute(&["sh", "-c", script], None);
    assert_eq!(guest.exit_code(&started), 3);
    let last = ask(&mut guest);
    for record in read_until(&mut log, ends(last)) {
        assert!(!record.to_string().contains("raw words"), "{record}");
    }
    // Nor on what was its own stderr.
    let mut stderr = String::new();
    guest.disconnect();
    guest
        .log
        .take()
        .unwrap()
        .read_to_string(&mut stderr)
        .unwrap();
    assert_eq!(stderr, "");
}
