//! Containers on disks of their own, where the checklist's are on a tmpfs: twenty one after another, a
//! start and an engine that fail, an exit that a deletion overtakes.

mod common;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use uvm::Uvm;
use uvm_host::HostError;

use common::image::Image;
use common::LONG;

fn notification_type(vm: &Uvm, id: &str) -> String {
    let notification = vm.wait_notification(id, LONG).unwrap();
    notification.members["Type"].as_str().unwrap().to_owned()
}

/// A number of the state dump.
fn counted(dump: &str, what: &str) -> usize {
    let number = |line: &str| line.trim().strip_prefix(what)?.trim().parse().ok();
    let found = dump.lines().find_map(number);
    found.unwrap_or_else(|| panic!("no number of {what:?} in {dump}"))
}

#[test]
fn containers_give_their_streams_and_codes_one_after_another_and_leave_nothing() {
    let (Some(image), Some(vm)) = (Image::open(), common::boot()) else {
        return;
    };
    let run = |n: usize| {
        let (id, code) = (format!("c{n}"), [0, 1, 42, 255][n % 4]);
        let script = format!("cat; echo err{n} >&2; exit {code}");
        let out = image.run(&vm, &id, &["/bin/sh", "-c", &script], |l| {
            l.input(format!("in{n}"))
        });
        assert_eq!(out.code, code, "container {n}: {}", out.error_text());
        assert_eq!(
            (out.text(), out.error_text()),
            (format!("in{n}"), format!("err{n}\n"))
        );
        assert!(out.complete);
        assert_eq!(notification_type(&vm, &id), "UnexpectedExit");
    };
    run(0);
    let before = vm.dump_stacks().unwrap();
    (1..=20).for_each(run);
    let after = vm.dump_stacks().unwrap();
    for what in [
        "open descriptors",
        "watched descriptors",
        "children",
        "deadlines",
    ] {
        assert!(
            counted(&after, what) <= counted(&before, what),
            "{what}: {before}\n{after}"
        );
    }
    let left = "ls /run/gcs/c /run/gcs/runtime /sys/fs/cgroup/containers | grep -c ^c[0-9]; \
                grep -c /run/gcs /proc/mounts; ls /dev/sd* 2>/dev/null; \
                grep -l '^State:.Z' /proc/[0-9]*/status";
    let left = vm.external(&["/bin/sh", "-c", left]).run().unwrap();
    assert_eq!(
        left.text(),
        "0\n0\n",
        "directories, mounts, disks or zombies are left"
    );
}

#[test]
fn a_start_that_fails_ends_its_container() {
    let (Some(image), Some(vm)) = (Image::open(), common::boot()) else {
        return;
    };
    let container = image.mount(&vm, "c");
    let bad = format!("{}/bad", uvm::container::root("c"));
    let script = format!("echo nonsense > {bad}; chmod 755 {bad}");
    let made = vm.external(&["sh", "-c", &script]).run().unwrap();
    assert_eq!(made.code, 0, "{}", made.error_text());
    container.create(&image.spec("c", &["/bad"])).unwrap();
    container.start().unwrap();
    let refusal = container.init().start().map(drop).unwrap_err();
    assert!(refusal.to_string().contains("/bad"), "{refusal}");
    // Nobody waits for it, so its notification is not kept back for anybody.
    let begun = Instant::now();
    assert_eq!(notification_type(&vm, "c"), "UnexpectedExit");
    assert!(begun.elapsed() < Duration::from_secs(4));
    let again = container.init().start().map(drop).unwrap_err();
    assert_eq!(
        again.refused(),
        Some(0x8037_0105_u32.cast_signed()),
        "{again}"
    );
    container.remove().unwrap();
}

#[test]
fn a_deletion_gives_up_streams_but_not_the_exit_code() {
    let (Some(image), Some(vm)) = (Image::open(), common::boot()) else {
        return;
    };
    let container = image.create(&vm, "kept", &["sh", "-c", "echo unread; exit 3"]);
    let mut process = container.init().start().unwrap();
    // The host closes nothing, so the exit is not told yet.
    let held = std::mem::take(&mut process.stdio);
    let waiting = std::thread::spawn(move || process.wait(LONG));
    let begun = Instant::now();
    loop {
        let dump = vm.dump_stacks().unwrap();
        if dump.contains("kept Exited") && dump.contains("waiters=1") {
            break;
        }
        assert!(begun.elapsed() < LONG, "{dump}");
    }
    vm.remove_layers(&uvm::container::root("kept")).unwrap();
    vm.delete("kept").unwrap();
    assert_eq!(waiting.join().unwrap().unwrap(), 3);
    drop(held);
}

#[test]
fn a_process_whose_engine_is_killed_does_not_live_on() {
    let (Some(image), Some(vm)) = (Image::open(), common::boot()) else {
        return;
    };
    let container = image.create(&vm, "c", &["sleep", "1000"]);
    let mut init = container.init().start().unwrap();
    // Each of PID 1's own children, which are tasks and what they make until it executes, somewhat
    // later than the one before, whatever it is doing by then.
    let script = "seen=0; after=0; while :; do for p in /proc/[0-9]*; do \
                  read -r pid name state parent rest < $p/stat; case \"$name $parent\" in '(init) 1') \
                  seen=$((seen + 1)); if [ $seen -ge $after ]; then kill -9 ${p#/proc/}; \
                  seen=0; after=$(((after + 1) % 12)); fi;; esac; done; done 2>/dev/null";
    let mut killer = vm.external(&["sh", "-c", script]).start().unwrap();
    let sleep = serde_json::json!({"args": ["sleep", "1000"], "cwd": "/", "env": ["PATH=/bin"]});
    let mut pids = BTreeSet::from([u64::from(init.pid)]);
    let mut refused = 0;
    for _ in 0..40 {
        match vm.exec("c", &sleep).start() {
            Ok(process) => drop(pids.insert(process.pid.into())),
            Err(refusal) => {
                assert!(refusal.refused().is_some(), "{refusal}");
                refused += 1;
            }
        }
    }
    killer.signal(9).unwrap();
    assert_eq!(killer.wait(LONG).unwrap(), 137);
    if refused == 0 {
        println!("SKIPPED: the killer hit no engine, so nothing is shown of one that is killed");
    }
    eprintln!("{refused} of 40 engines were killed");
    // What was named is dead when its request is answered; what was not may still be on its way
    // to find the engine gone.
    let begun = Instant::now();
    loop {
        let list = vm.properties("c", &["ProcessList"]).unwrap();
        let list = list["ProcessList"].as_array().unwrap().iter();
        let running: BTreeSet<u64> = list.map(|p| p["ProcessId"].as_u64().unwrap()).collect();
        // A reported one may have been hit before it was the program.
        if running.is_subset(&pids) {
            break;
        }
        assert!(begun.elapsed() < LONG, "{running:?} of {pids:?}");
    }
    vm.shutdown("c", true).unwrap();
    drop(std::mem::take(&mut init.stdio));
    assert_eq!(init.wait(LONG).unwrap(), 137);
    container.remove().unwrap();
}

#[test]
fn a_shutdown_ends_a_container_that_was_never_started() {
    let Some(vm) = common::guest() else { return };
    let vm = &*vm;
    for (forced, wanted) in [(false, "GracefulExit"), (true, "ForcedExit")] {
        let container = vm.container("sleep 1000").create().unwrap();
        let id = container.id().to_owned();
        vm.shutdown(&id, forced).unwrap();
        assert_eq!(notification_type(vm, &id), wanted);
        // It cannot be started any more, and it goes away like any other.
        let refused = container.init().start().map(drop);
        assert!(
            matches!(refused, Err(HostError::Refused { .. })),
            "{refused:?}"
        );
        container.remove().unwrap();
    }
    common::leaves_nothing(vm);
}

/// The process that an exec leaves behind has its output open, and lives on.
#[test]
fn an_exec_ends_although_what_it_left_behind_has_its_output() {
    let (Some(image), Some(vm)) = (Image::open(), common::boot()) else {
        return;
    };
    let container = image.create(&vm, "c", &["sleep", "1000"]);
    let mut init = container.init().start().unwrap();
    let exec = |script: &str| {
        let args = ["sh", "-c", script];
        let process = serde_json::json!({"args": args, "cwd": "/", "env": ["PATH=/bin:/usr/bin"]});
        vm.exec("c", &process).run().unwrap()
    };
    let out = exec("(sleep 4; echo late; echo alive >/alive) & echo started; exit 4");
    assert_eq!((out.code, out.text()), (4, "started\n".to_owned()));
    assert!(out.complete);
    // What is left behind writes to nobody, which does not end it.
    let seen = exec("until grep alive /alive 2>/dev/null; do sleep 0.1; done");
    assert_eq!(seen.text(), "alive\n");
    init.signal(9).unwrap();
    drop(std::mem::take(&mut init.stdio));
    assert_eq!(init.wait(LONG).unwrap(), 137);
    container.remove().unwrap();
}
