//! Programs in the kernel: that it takes them, and what it then does with calls.
//!
//! A filter stays for the life of a process, so each is tried in a process of its own: this
//! test binary again, with the profile in its environment.

#![allow(clippy::disallowed_methods)] // A test may wait for its children.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use gcs::engine::seccomp;
use serde_json::{json, Value};

const PROFILE: &str = "SECCOMP_TEST_PROFILE";
/// Where the child goes to in a file; only the high halves differ.
const OFFSETS: [u64; 2] = [7, 1 << 32 | 7];

/// The child's part, and nothing in the test run itself: calls under the profile, each with the
/// errno it ended with.
#[test]
fn child() {
    let Ok(profile) = std::env::var(PROFILE) else {
        return;
    };
    let profile: Value = serde_json::from_str(&profile).expect("the parent wrote it");
    let program = seccomp::compile(&profile).expect("the profile is good");
    nix::sys::prctl::set_no_new_privs().expect("everybody may");
    program.load().expect("the kernel takes the program");
    let errno = |done: std::io::Result<()>| match done {
        Ok(()) => 0,
        Err(e) => e.raw_os_error().unwrap_or(-1),
    };
    // After the words of the test runner, which end in no newline.
    println!("\nmkdir {}", errno(std::fs::create_dir("/")));
    let mut file = File::open("/dev/zero").expect("every system has it");
    for offset in OFFSETS {
        let went = file.seek(SeekFrom::Start(offset)).map(drop);
        println!("lseek {offset} {}", errno(went));
    }
}

fn under(profile: &Value) -> (Output, Vec<String>) {
    let own = std::env::current_exe().expect("a test runs from a file");
    let output = Command::new(own)
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(PROFILE, profile.to_string())
        .output()
        .expect("the test binary runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let calls = text
        .lines()
        .filter(|line| ["mkdir", "lseek"].iter().any(|name| line.starts_with(name)));
    let calls = calls.map(str::to_owned).collect();
    (output, calls)
}

/// A profile that allows everything except `entry`.
fn all_but(entry: Value) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [entry]})
}

const UNTOUCHED: [&str; 3] = ["mkdir 17", "lseek 7 0", "lseek 4294967303 0"];

#[test]
fn every_action_does_what_it_says() {
    for (action, errno, first) in [
        ("ALLOW", None, "mkdir 17"),
        ("LOG", None, "mkdir 17"),
        ("ERRNO", None, "mkdir 1"),
        ("ERRNO", Some(28), "mkdir 28"),
        ("ERRNO", Some(0), "mkdir 0"),
        // Nobody traces it.
        ("TRACE", None, "mkdir 38"),
    ] {
        let mut entry = json!({"names": ["mkdir", "of_another_kernel"], "action": format!("SCMP_ACT_{action}")});
        if let Some(errno) = errno {
            entry["errnoRet"] = json!(errno);
        }
        let (output, calls) = under(&all_but(entry));
        assert_eq!(calls[0], first, "{action}: {output:?}");
        assert_eq!(calls[1..], UNTOUCHED[1..], "{action}: {output:?}");
        assert!(output.status.success(), "{action}: {output:?}");
    }
    for action in ["KILL_PROCESS", "TRAP"] {
        let entry = json!({"names": ["mkdir"], "action": format!("SCMP_ACT_{action}")});
        let (output, calls) = under(&all_but(entry));
        assert_eq!(
            output.status.signal(),
            Some(libc::SIGSYS),
            "{action}: {output:?}"
        );
        assert!(calls.is_empty(), "{calls:?}");
    }
}

#[test]
fn both_halves_of_an_argument_count() {
    let [small, large] = OFFSETS;
    for (op, value, two, refused) in [
        ("EQ", large, 0, [false, true]),
        ("EQ", small, 0, [true, false]),
        ("NE", large, 0, [true, false]),
        ("LT", large, 0, [true, false]),
        ("LE", small, 0, [true, false]),
        ("GT", small, 0, [false, true]),
        ("GE", large, 0, [false, true]),
        ("MASKED_EQ", 1 << 32, 1_u64 << 32, [false, true]),
        ("MASKED_EQ", 7, 7, [true, true]),
    ] {
        let profile = all_but(json!({"names": ["lseek"], "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 1, "value": value, "valueTwo": two, "op": format!("SCMP_CMP_{op}")}]}));
        let (output, calls) = under(&profile);
        let wanted: Vec<String> = OFFSETS
            .iter()
            .zip(refused)
            .map(|(offset, refused)| format!("lseek {offset} {}", u8::from(refused)))
            .collect();
        assert_eq!(
            calls.get(1..),
            Some(&wanted[..]),
            "{op} {value:x}: {output:?}"
        );
    }
}

#[test]
fn flags_and_long_programs_are_taken() {
    let mut profile = all_but(json!({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}));
    profile["flags"] = json!([
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        "SECCOMP_FILTER_FLAG_TSYNC"
    ]);
    let args: Vec<Value> = (0..6)
        .map(|index| json!({"index": index, "value": 1, "op": "SCMP_CMP_GT"}))
        .collect();
    // Jumps over all of it do not fit into eight bits.
    let entries = (0..100)
        .map(|_| json!({"names": ["mkdirat"], "action": "SCMP_ACT_KILL_PROCESS", "args": args}));
    let syscalls = profile["syscalls"].as_array_mut().expect("made above");
    syscalls.extend(entries);
    let (output, calls) = under(&profile);
    assert_eq!(calls, ["mkdir 1", UNTOUCHED[1], UNTOUCHED[2]], "{output:?}");
}
