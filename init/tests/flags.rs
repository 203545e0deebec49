//! The service's flags (protocol 10.4) from outside: what each does to what a host sees. Those
//! that need a machine of their own are in the tests of VMs: `kmsgLogLevel`, `core-dump-location`,
//! the memory limits, `disable-time-sync`.

#![allow(clippy::disallowed_methods)] // The test is the host; it may wait for its child.

mod guest;

use std::collections::BTreeSet;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use gcs::prot::MessageId;
use serde_json::{json, Value};

use guest::Guest;

/// All that a service with these flags writes to stderr while it has a request, a failing one and
/// one with secrets, and loses its bridge.
fn said(flags: &[&str]) -> String {
    let mut guest = Guest::start_with(flags);
    let answer = guest.ask(
        MessageId::WAIT_FOR_PROCESS,
        json!({"ProcessId": 1, "TimeoutInMs": 0}),
    );
    assert_ne!(answer["Result"], 0);
    let parameters = json!({"CommandArgs": ["true"], "Environment": {"TOKEN": "hunter2"}});
    let settings = json!({"ProcessParameters": parameters.to_string()});
    let body = json!({"Settings": settings, "Annotations": {"key": "hunter2"}});
    guest.ask(MessageId::EXECUTE_PROCESS, body);
    guest.disconnect();
    let mut text = String::new();
    guest.log.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

fn levels(text: &str) -> BTreeSet<String> {
    text.lines()
        .map(|line| {
            let record: Value =
                serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            record["level"].as_str().unwrap().to_owned()
        })
        .collect()
}

#[test]
fn loglevel_lets_through_what_is_as_urgent() {
    let all = ["trace", "debug", "info", "warning", "fatal"];
    for (level, first) in [
        ("trace", 0),
        ("debug", 1),
        ("info", 2),
        ("warning", 3),
        ("WaRn", 3),
        ("ERROR", 4),
        ("fatal", 4),
        ("panic", 5),
    ] {
        let text = said(&["-log-format", "json", "-loglevel", level]);
        let wanted: BTreeSet<String> = all[first..].iter().map(|l| (*l).to_owned()).collect();
        assert_eq!(levels(&text), wanted, "{level}: {text}");
    }
}

#[test]
fn log_format_is_text_unless_json_is_asked_for() {
    for flags in [&[][..], &["-log-format", "text"], &["--log-format=text"]] {
        let text = said(flags);
        for line in text.lines() {
            assert!(line.starts_with("time=\"20"), "{line}");
            assert!(
                line.contains(" level=") && line.contains(" msg=\""),
                "{line}"
            );
        }
        assert!(
            text.contains("message-type=\"ComputeSystemExecuteProcessV1\""),
            "{text}"
        );
    }
    assert!(levels(&said(&["--log-format=json"])).contains("info"));
}

#[test]
fn logfile_is_made_anew_for_the_owner_alone_and_stderr_stays_empty() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("made/for/it.log");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    for before in [None, Some("what was there before".repeat(10_000))] {
        match &before {
            Some(text) => std::fs::write(&file, text).unwrap(),
            None => std::fs::remove_dir_all(dir.path().join("made")).unwrap(),
        }
        let path = file.to_str().unwrap();
        assert_eq!(said(&["-log-format", "json", "-logfile", path]), "");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(levels(&text).contains("fatal"), "{text}");
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        if before.is_none() {
            assert_eq!(mode & 0o777, 0o600);
        }
    }
}

#[test]
fn scrub_logs_hides_values_and_nothing_else_unless_it_is_off() {
    let trace = ["-log-format", "json", "-loglevel", "trace"];
    for (flags, shown) in [
        (&["-scrub-logs=false"][..], true),
        (&[], false),
        (&["-scrub-logs"], false),
        (&["--scrub-logs=1"], false),
    ] {
        let text = said(&[&trace[..], flags].concat());
        assert_eq!(text.contains("hunter2"), shown, "{flags:?}");
        assert_eq!(text.contains("<scrubbed>"), !shown, "{flags:?}");
        assert!(text.contains("TOKEN"), "{flags:?}");
    }
}

#[test]
fn flags_of_newer_hosts_are_named_in_a_warning_each() {
    let text = said(&[
        "-log-format",
        "json",
        "-x",
        "-x=1",
        "-y",
        "1",
        "--\u{7}z",
        "-loglevel",
        "warning",
    ]);
    let warnings: Vec<String> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|record| record["level"] == "warning")
        .map(|record| record["msg"].as_str().unwrap().to_owned())
        .filter(|text| text.contains("passed over"))
        .collect();
    assert_eq!(warnings.len(), 4, "{text}");
    for (warning, flag) in warnings.iter().zip(["\"-x\"", "-x=1", "-y 1", "z\""]) {
        assert!(warning.contains(flag), "{warning}");
    }
}

#[test]
fn v4_and_the_stance_decide_over_requests() {
    for (flags, wanted) in [
        (&["-v4"][..], 0x8000_4001_u32),
        // A document of the retired protocol is looked for then.
        (&["-v4=false"], 0xc037_010d),
        (&["-v4=false", "-v4"], 0x8000_4001),
    ] {
        let mut guest = Guest::silent(flags);
        let answer = guest.ask(MessageId::CREATE, json!({}));
        assert_eq!(
            answer["Result"],
            wanted.cast_signed(),
            "{flags:?}: {answer}"
        );
    }
    for (stance, wanted) in [("allow", 0), ("deny", 0x8000_4005_u32.cast_signed())] {
        let mut guest = Guest::start_with(&["-initial-policy-stance", stance]);
        assert_eq!(guest.execute(&["true"], None)["Result"], wanted, "{stance}");
    }
}

/// Starts the service with arguments that are not flags; gives its status and what it wrote.
fn refused(args: &[&str], stderr: impl Into<Stdio>) -> (Option<i32>, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_init"))
        .arg("gcs")
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .unwrap();
    let mut text = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut text).unwrap();
    }
    let status = child.wait().unwrap().code();
    let mut stdout = String::new();
    child.stdout.unwrap().read_to_string(&mut stdout).unwrap();
    assert_eq!(stdout, "");
    (status, text)
}

const BAD: &[(&[&str], &str)] = &[
    (&["-loglevel"], "-loglevel needs a value"),
    (&["-loglevel", "loud"], "-loglevel cannot be \"loud\""),
    (&["-log-format=xml"], "-log-format cannot be \"xml\""),
    (&["-kmsgLogLevel", "-1"], "-kmsgLogLevel cannot be \"-1\""),
    (
        &["-gcs-mem-limit-bytes", "much"],
        "-gcs-mem-limit-bytes cannot be",
    ),
    (
        &["-root-mem-reserve-bytes", "1k"],
        "-root-mem-reserve-bytes cannot be",
    ),
    (&["-v4=maybe"], "-v4 cannot be \"maybe\""),
    (
        &["-initial-policy-stance", "perhaps"],
        "cannot be \"perhaps\"",
    ),
];

#[test]
fn bad_flags_end_the_service_with_the_usage_for_a_person_and_a_record_for_a_host() {
    for (args, wanted) in BAD {
        let (status, text) = refused(args, Stdio::piped());
        assert_eq!(status, Some(2), "{args:?}");
        assert!(
            text.contains(wanted) && text.contains("usage: gcs"),
            "{text}"
        );

        // As after `vsockexec -e 109`, every byte belongs to a record.
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let (status, _) = refused(args, OwnedFd::from(theirs));
        assert_eq!(status, Some(2), "{args:?}");
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        assert_eq!(levels(&text), BTreeSet::from(["fatal".to_owned()]));
        let quoted = serde_json::to_string(wanted).unwrap();
        assert!(text.contains(quoted.trim_matches('"')), "{text}");
    }
}
