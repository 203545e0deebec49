//! `--trace` with a real guest: the file is whole however the run ends, and its spans are where
//! they belong.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use serde_json::Value;

/// A command of the tool with a timeline, or none when nothing is built.
fn uvm(args: &[&str], file: &Path) -> Option<Command> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_uvm"));
    command
        .arg(args[0])
        .arg("--trace")
        .arg(file)
        .args(&args[1..])
        .env("UVM_KERNEL", common::kernel()?)
        .env("UVM_INITRD", common::initrd()?)
        .env("UVM_LAYER_CACHE", common::layer_cache())
        .stdin(Stdio::null());
    Some(command)
}

#[derive(Debug)]
struct Span {
    name: String,
    parent: Option<String>,
    /// Process and track.
    row: (u64, u64),
    start: f64,
    end: f64,
    args: Value,
}

/// Times are written in fractions of a microsecond.
const SLACK: f64 = 0.01;

impl Span {
    fn contains(&self, other: &Self) -> bool {
        self.start <= other.start + SLACK && other.end <= self.end + SLACK
    }
}

/// All spans by their ids; what a viewer relies on is checked.
fn spans(file: &Path) -> (BTreeMap<String, Span>, Value) {
    let document: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let mut spans = BTreeMap::new();
    let mut named = BTreeSet::new();
    for event in document["traceEvents"].as_array().unwrap() {
        let row = (
            event["pid"].as_u64().unwrap(),
            event["tid"].as_u64().unwrap_or(0),
        );
        match event["ph"].as_str().unwrap() {
            "X" => {
                let (start, took) = (
                    event["ts"].as_f64().unwrap(),
                    event["dur"].as_f64().unwrap(),
                );
                assert!(took >= 0.0, "{event}");
                let text = |value: &Value| value.as_str().map(str::to_owned);
                let span = Span {
                    name: text(&event["name"]).unwrap(),
                    parent: text(&event["args"]["parent"]),
                    row,
                    start,
                    end: start + took,
                    args: event["args"].clone(),
                };
                let twice = spans.insert(text(&event["args"]["id"]).unwrap(), span);
                assert!(twice.is_none(), "{event}");
            }
            "M" if event["name"] == "thread_name" => {
                named.insert(row);
            }
            "M" | "s" | "f" => {}
            other => panic!("{other}: {event}"),
        }
    }
    for span in spans.values() {
        assert!(
            named.contains(&span.row),
            "{span:?} is on a row without a name"
        );
        if let Some(parent) = &span.parent {
            let parent = &spans[parent];
            assert!(parent.contains(span), "{span:?} is not within {parent:?}");
        }
    }
    // What is on one row is drawn as nested, so it has to be.
    let mut rows: BTreeMap<(u64, u64), Vec<(&String, &Span)>> = BTreeMap::new();
    for (id, span) in &spans {
        rows.entry(span.row).or_default().push((id, span));
    }
    for row in rows.values_mut() {
        row.sort_by(|(_, a), (_, b)| a.start.total_cmp(&b.start).then(b.end.total_cmp(&a.end)));
        let mut open: Vec<(&String, &Span)> = Vec::new();
        for (id, span) in row {
            open.retain(|(_, outer)| outer.end > span.start + SLACK);
            let around = open.last().map(|(id, _)| *id);
            assert_eq!(
                around,
                span.parent.as_ref().filter(|_| around.is_some()),
                "{span:?}"
            );
            open.push((id, span));
        }
    }
    (spans, document["otherData"].clone())
}

fn of<'s>(spans: &'s BTreeMap<String, Span>, name: &str) -> &'s Span {
    let found = spans.values().find(|span| span.name.starts_with(name));
    found.unwrap_or_else(|| panic!("no span {name:?} in {spans:#?}"))
}

const HOST: u64 = 1;
const GUEST: u64 = 2;

#[test]
fn a_run_is_told_from_the_start_of_qemu_to_the_end_on_one_clock() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("trace.json");
    let Some(mut command) = uvm(&["run", "--", "sh", "-c", "exit 7"], &file) else {
        return;
    };
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(output.stderr, b"", "{output:?}");
    let (spans, about) = spans(&file);

    let stages = [
        "image to disks",
        "booting the VM",
        "attaching disks and shares",
        "running the container",
        "stopping",
    ];
    for pair in stages.windows(2) {
        let (first, second) = (of(&spans, pair[0]), of(&spans, pair[1]));
        assert!(first.end <= second.start, "{first:?} {second:?}");
    }
    for inner in ["starting QEMU", "guest boots", "negotiating"] {
        assert!(
            of(&spans, "booting the VM").contains(of(&spans, inner)),
            "{inner}"
        );
    }
    // The guest's boot is where the host saw it.
    let boot = of(&spans, "booting the VM");
    for stage in ["kernel", "PID 1: mounts", "PID 1: bridge"] {
        let stage = of(&spans, stage);
        assert_eq!(stage.row.0, GUEST);
        assert!(boot.contains(stage), "{stage:?} {boot:?}");
    }
    // Each answered request of the host has one of the guest within it, and tasks beneath.
    let requests = spans
        .iter()
        .filter(|(_, span)| span.row.0 == HOST && span.args.get("message-id").is_some());
    let mut count = 0;
    for (id, request) in requests {
        let inner = |span: &&Span| span.row.0 == GUEST && span.parent.as_ref() == Some(id);
        let guest: Vec<&Span> = spans.values().filter(inner).collect();
        let [guest] = guest[..] else {
            panic!("{request:?} has {guest:#?}");
        };
        assert_eq!(guest.args["message-id"], request.args["message-id"]);
        assert_eq!(guest.args["spanID"].as_str(), Some(id.as_str()));
        assert_eq!(guest.args["traceID"], about["trace"]);
        count += 1;
    }
    assert!(count >= 10, "{count} requests");
    for task in [
        "adding the disk",
        "creating container",
        "starting container",
    ] {
        let task = of(&spans, task);
        let request = &spans[task.parent.as_ref().expect(&task.name)];
        assert_eq!((task.row.0, request.row.0), (GUEST, GUEST));
        assert_eq!(task.args["message-id"], request.args["message-id"]);
    }
    let periods = about["clock"]["periods"].as_array().unwrap();
    assert_eq!(periods.len(), 1, "{about}");
    let uncertainty = periods[0]["uncertainty_us"].as_f64().unwrap();
    assert!((0.0..20_000.0).contains(&uncertainty), "{about}");
}

#[test]
fn a_run_that_fails_or_is_interrupted_leaves_a_whole_file_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("trace.json");
    let Some(mut refused) = uvm(&["exec", "--", "/no/such/program"], &file) else {
        return;
    };
    assert_eq!(refused.output().unwrap().status.code(), Some(127));
    let (told, _) = spans(&file);
    assert_eq!(of(&told, "ExecuteProcess").args["result"], "0x80004005");

    let mut dies = uvm(
        &["exec", "--gcs-flags", "-loglevel=nonsense", "--", "true"],
        &file,
    )
    .unwrap();
    assert_eq!(dies.output().unwrap().status.code(), Some(125));
    let (told, _) = spans(&file);
    of(&told, "guest boots");

    let mut boot = uvm(&["boot"], &file).unwrap();
    let mut child = boot
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let up = lines
        .map(Result::unwrap)
        .find(|line| line.contains("Ctrl-C"));
    assert!(up.is_some(), "it does not come up");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    assert!(child.wait().unwrap().success());
    let (told, _) = spans(&file);
    of(&told, "powering off");
    assert_eq!(of(&told, "PID 1: mounts").row.0, GUEST);

    let script = "trap '' HUP; echo up; exec sleep 1000";
    let args = ["exec", "--", "sh", "-c", script];
    let mut child = uvm(&args, &file)
        .unwrap()
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    // The first signal is the program's, which ignores it.
    for signal in [Signal::SIGHUP, Signal::SIGTERM] {
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
    }
    assert_eq!(child.wait().unwrap().code(), Some(143));
    let (told, _) = spans(&file);
    assert_eq!(of(&told, "waiting for process").args["unfinished"], true);
    assert_eq!(of(&told, "running the process").args["unfinished"], true);
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}
