//! The timeline of a made-up run, and the file.

use serde_json::json;

use super::*;
use crate::log::Level;

fn record(message: &str, fields: Value) -> Record {
    let Value::Object(fields) = fields else {
        panic!("an object")
    };
    Record {
        level: Level::Debug,
        time: String::new(),
        message: message.into(),
        complete: true,
        fields,
    }
}

/// Complete events by their name.
fn named<'e>(timeline: &'e Value, name: &str) -> &'e Value {
    let events = timeline["traceEvents"].as_array().unwrap();
    let found = events.iter().find(|e| e["ph"] == "X" && e["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {timeline:#}"))
}

fn bounds(event: &Value) -> (f64, f64) {
    let start = event["ts"].as_f64().unwrap();
    (start, start + event["dur"].as_f64().unwrap())
}

fn within(inner: &Value, outer: &Value) -> bool {
    let (inner, outer) = (bounds(inner), bounds(outer));
    outer.0 <= inner.0 + 0.01 && inner.1 <= outer.1 + 0.01
}

#[test]
fn the_guests_work_is_within_the_request_that_asked_for_it() {
    let recorder = Recorder::new();
    let stage = recorder.stage("attaching");
    let id = recorder.request("Create of c").unwrap();
    std::thread::sleep(Duration::from_millis(2));
    recorder.answered(id, 5, i64::from(0x8000_4005_u32.cast_signed()));
    drop(stage);
    let about = |kind: &str, start: u64, took: u64| json!({"span": kind, "start_us": start, "took_us": took, "spanID": id.to_string()});
    // The guest was booted long ago.
    let boot = json!({"uptime_us": 1000, "mounts_us": 500});
    recorder.guest_record(&record("boot: mounts 500 us", boot));
    recorder.guest_record(&record("making", about("task", 7_000_100, 300)));
    recorder.guest_record(&record("late", about("task", 7_000_500, 90_000)));
    recorder.guest_record(&record("Create", about("request", 7_000_000, 900)));
    let alone = json!({"span": "task", "start_us": 7_000_200, "took_us": 5});
    recorder.guest_record(&record("of no request", alone));

    let timeline = recorder.timeline();
    let (host, guest) = (named(&timeline, "Create of c"), named(&timeline, "Create"));
    let (task, late) = (named(&timeline, "making"), named(&timeline, "late"));
    assert!(within(host, named(&timeline, "attaching")));
    assert!(within(guest, host) && within(task, guest), "{timeline:#}");
    assert_eq!(
        host["args"]["parent"],
        named(&timeline, "attaching")["args"]["id"]
    );
    assert_eq!(guest["args"]["parent"], host["args"]["id"]);
    assert_eq!(task["args"]["parent"], guest["args"]["id"]);
    assert_eq!(host["args"]["id"], id.to_string());
    assert_eq!(host["args"]["result"], "0x80004005");
    assert_eq!(
        (task["pid"].as_u64(), &task["tid"]),
        (Some(2), &guest["tid"])
    );
    // Not drawn inside what ended before it.
    assert!(late["args"]["parent"].is_null() && late["tid"] != guest["tid"]);
    assert_ne!(named(&timeline, "of no request")["tid"], guest["tid"]);
    // The kernel began 7 s before the request.
    let kernel = bounds(named(&timeline, "kernel"));
    assert!((bounds(guest).0 - kernel.0 - 7e6).abs() < 0.01);
    let arrows = timeline["traceEvents"].as_array().unwrap().iter();
    let arrows: Vec<_> = arrows
        .filter(|e| e["ph"] == "s" || e["ph"] == "f")
        .collect();
    assert_eq!(arrows.len(), 2);
    assert_eq!(arrows[0]["id"], arrows[1]["id"]);
}

#[test]
fn requests_at_once_have_rows_of_their_own() {
    let recorder = Recorder::new();
    let ids: Vec<_> = (0..3)
        .map(|n| recorder.request(&n.to_string()).unwrap())
        .collect();
    recorder.answered(ids[1], 1, 0);
    let timeline = recorder.timeline();
    let rows: std::collections::BTreeSet<u64> = (0..3)
        .map(|n| named(&timeline, &n.to_string())["tid"].as_u64().unwrap())
        .collect();
    assert_eq!(rows.len(), 3);
    let unfinished = |n: &str| named(&timeline, n)["args"]["unfinished"] == true;
    assert_eq!(["0", "1", "2"].map(unfinished), [true, false, true]);
    assert!(named(&timeline, "1")["args"].get("result").is_none());
}

#[test]
fn the_file_is_valid_from_the_start_and_replaced_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trace.json");
    let read = || -> Value { serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap() };
    let recorder = Recorder::to_file(&path).unwrap();
    assert_eq!(read()["traceEvents"], json!([]));
    let stage = recorder.stage("interrupted");
    finish();
    assert_eq!(named(&read(), "interrupted")["args"]["unfinished"], true);
    drop(stage);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    // Once only.
    std::fs::remove_file(&path).unwrap();
    finish();
    assert!(!path.exists());
    Recorder::to_file(&dir.path().join("no/such/place")).unwrap_err();
}

#[test]
fn one_that_takes_no_notes_costs_nothing() {
    let recorder = Recorder::default();
    assert_eq!(recorder.request("x"), None);
    drop(recorder.stage("y"));
    assert_eq!(recorder.timeline()["traceEvents"], json!([]));
}
