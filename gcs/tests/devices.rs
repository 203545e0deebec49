//! Device programs in the kernel: loaded once, attached to a control group, and then obeyed.

#![allow(clippy::disallowed_methods)] // A test may wait for its children.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use gcs::engine::devices::{program, rules, Programs};
use gcs::sys::bpf;
use serde_json::{json, Value};

/// Whether this kernel lets the test load programs; says so when it does not.
fn loads() -> bool {
    match bpf::load_device_program(&program(&[])) {
        Ok(_) => true,
        Err(e) => {
            println!("SKIPPED: device programs cannot be loaded here: {e}");
            false
        }
    }
}

fn code(given: Value) -> Vec<bpf::Insn> {
    program(&rules(given.as_array().expect("a list")).expect("good rules"))
}

#[test]
fn a_program_is_loaded_once_and_few_are_kept() {
    if !loads() {
        return;
    }
    let mut programs = Programs::default();
    let default = code(json!([]));
    let identity = |programs: &mut Programs, code: &[bpf::Insn]| {
        let fd = programs.get(code).expect("it loads").expect("it is short");
        let info = format!("/proc/self/fdinfo/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
        let info = fs::read_to_string(info).expect("an open descriptor");
        let id = info.lines().find_map(|line| line.strip_prefix("prog_id:"));
        id.expect("a program").trim().to_owned()
    };
    let first = identity(&mut programs, &default);
    for major in 1..40 {
        identity(
            &mut programs,
            &code(json!([{"allow": true, "type": "b", "major": major}])),
        );
        // The one in use is not the one that goes.
        assert_eq!(identity(&mut programs, &default), first, "{major}");
        assert!(programs.len() <= 8);
    }
    // The kernel gives up when its time grows faster than the number of rules.
    let many: Vec<Value> = (0..2000)
        .map(|minor| json!({"allow": true, "type": "c", "major": 10, "minor": minor}))
        .collect();
    let long = code(json!(many));
    assert!(programs.get(&long).expect("nothing is loaded").is_none());
    let began = std::time::Instant::now();
    bpf::load_device_program(&long).expect("the kernel takes a long one");
    println!(
        "{} instructions verified in {:?}",
        long.len(),
        began.elapsed()
    );
}

/// A control group that goes with its owner.
struct Group(PathBuf);

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir(&self.0) {
            eprintln!("remove {}: {e}", self.0.display());
        }
    }
}

fn group() -> Option<Group> {
    let mounts = fs::read_to_string("/proc/mounts").expect("procfs");
    let v2 = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (path, kind) = (words.nth(1)?, words.next()?);
        (kind == "cgroup2").then(|| path.to_owned())
    });
    let path = Path::new(&v2?).join(format!("gcs-devices-{}", std::process::id()));
    fs::create_dir(&path).ok()?;
    Some(Group(path))
}

#[test]
fn what_a_group_may_not_open_it_cannot() {
    if !loads() {
        return;
    }
    let Some(group) = group() else {
        println!("SKIPPED: no cgroup v2 hierarchy in which the test may make a group");
        return;
    };
    let mut programs = Programs::default();
    let code = code(
        json!([{"allow": false, "type": "c", "major": 1, "minor": 11, "access": "w"},
        {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]),
    );
    let dir = File::open(&group.0).expect("just made");
    let loaded = programs.get(&code).expect("it loads").expect("it is short");
    if let Err(e) = bpf::attach_device_program(dir.as_fd(), loaded) {
        println!("SKIPPED: this kernel attaches no device programs: {e}");
        return;
    }
    // 1:11 is the kernel's log: to be read, not written. Nodes can be made of anything.
    let script = "echo $$ >\"$1\"/cgroup.procs || exit 9
        t() { if \"$@\" 2>/dev/null; then echo yes; else echo no; fi; }
        d=$(mktemp -d); mknod $d/log c 1 11; mknod $d/other c 10 200; mknod $d/null c 1 3
        t sh -c \": <$d/log\"; t sh -c \": >$d/log\"; t sh -c \": <$d/other\"; t sh -c \": <>$d/null\"
        rm -r $d";
    let output = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(&group.0)
        .output()
        .expect("a shell");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text, "yes\nno\nno\nyes\n", "{output:?}");
}
