//! The backend seen from outside: what a reader of the connection gets. Each test has its own
//! thread and so its own log state.

use std::io::Read;
use std::os::unix::net::UnixStream;

use serde_json::Value;

use super::*;

fn connection() -> (OwnedFd, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    theirs.set_nonblocking(true).expect("a flag");
    (ours.into(), theirs)
}

fn say(level: Level, message: &str) {
    emit(Record::new(level, message.into()));
}

fn lines(theirs: &mut UnixStream) -> Vec<Value> {
    let mut bytes = Vec::new();
    theirs.read_to_end(&mut bytes).err();
    let text = String::from_utf8(bytes).expect("UTF-8");
    assert!(text.is_empty() || text.ends_with('\n'), "cut: {text:?}");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("only JSON"))
        .collect()
}

fn messages(theirs: &mut UnixStream) -> Vec<String> {
    lines(theirs)
        .iter()
        .map(|line| line["msg"].as_str().expect("a message").to_owned())
        .collect()
}

#[test]
fn records_made_before_the_connection_come_first() {
    say(Level::Info, "early");
    say(Level::Trace, "too fine");
    configure(Level::Debug, Format::Json);
    let (ours, mut theirs) = connection();
    attach(ours).expect("a socket");
    say(Level::Debug, "late");
    assert_eq!(messages(&mut theirs), ["early", "late"]);
}

#[test]
fn every_line_is_json_with_the_three_members() {
    configure(Level::Trace, Format::Json);
    let (ours, mut theirs) = connection();
    attach(ours).expect("a socket");
    for level in [
        "panic", "fatal", "error", "warning", "info", "debug", "trace",
    ] {
        say(
            level.parse().expect(level),
            "text with \"quotes\"\nand \u{1} bytes",
        );
        let got = lines(&mut theirs);
        assert_eq!(got[0]["level"], level);
        assert!(got[0]["time"].as_str().expect("a time").ends_with('Z'));
        assert_eq!(got[0]["msg"], "text with \"quotes\"\nand \u{1} bytes");
    }
}

#[test]
fn the_level_holds_for_the_connection_and_the_ring_keeps_more() {
    configure(Level::Error, Format::Json);
    let (ours, mut theirs) = connection();
    attach(ours).expect("a socket");
    say(Level::Info, "quiet");
    say(Level::Error, "loud");
    fatal(format_args!("end"));
    assert_eq!(messages(&mut theirs), ["loud", "end"]);
    assert!(recent(1 << 16).contains("msg=\"quiet\""));
}

#[test]
fn a_lost_connection_is_made_good_by_the_next() {
    configure(Level::Info, Format::Json);
    let (ours, theirs) = connection();
    attach(ours).expect("a socket");
    drop(theirs);
    say(Level::Info, "into the void");
    assert!(pollable().is_none());
    say(Level::Info, "kept");
    let (ours, mut theirs) = connection();
    attach(ours).expect("a socket");
    assert_eq!(
        messages(&mut theirs),
        ["into the void", "the log connection is lost", "kept"]
    );
    assert!(pollable().is_some());
}

#[test]
fn records_that_fell_out_of_the_ring_are_counted() {
    configure(Level::Info, Format::Json);
    for n in 0..RING_RECORDS + 10 {
        say(Level::Info, &n.to_string());
    }
    let (ours, mut theirs) = connection();
    attach(ours).expect("a socket");
    let mut got = lines(&mut theirs);
    while wants_write() {
        flush();
        got.extend(lines(&mut theirs));
    }
    assert_eq!(got[0]["dropped"], 10);
    assert_eq!(got[1]["msg"], "10");
    assert_eq!(got.len(), RING_RECORDS + 1);
}

#[test]
fn recent_is_bounded_and_keeps_the_newest() {
    for n in 0..100 {
        say(Level::Info, &format!("record {n}"));
    }
    let text = recent(1000);
    assert!(text.len() <= 1000);
    assert!(text.ends_with("msg=\"record 99\"\n"));
    assert_eq!(recent(5), "");
}

#[test]
fn a_process_that_is_not_the_owner_leaves_the_connection_alone() {
    configure(Level::Info, Format::Json);
    let (ours, mut theirs) = connection();
    attach(ours).expect("a socket");
    // What a forked child sees: the same state under another process id.
    with_state(|state| state.owner ^= 1);
    say(Level::Error, "from a child");
    with_state(|state| state.owner ^= 1);
    say(Level::Error, "from the owner");
    assert_eq!(messages(&mut theirs), ["from the owner"]);
}

#[test]
fn while_muted_nothing_goes_out_nor_later() {
    configure(Level::Debug, Format::Json);
    let (ours, mut theirs) = connection();
    attach(ours).expect("a socket");
    mute(true);
    say(Level::Info, "kept inside");
    mute(false);
    let (again, mut next) = connection();
    attach(again).expect("a socket");
    say(Level::Info, "open again");
    assert!(messages(&mut theirs).is_empty());
    assert_eq!(messages(&mut next), ["open again"]);
    assert!(recent(1 << 16).contains("kept inside"));
}
