//! Core dumps in a real VM (`-core-dump-location`, the annotation `rlimitcore`): they are where
//! they were asked for, and a large one delays nobody but the process that died.

mod common;

use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::json;
use uvm::Uvm;
use uvm_conformance::LIMIT;
use uvm_host::wire::Rpc;

use common::image::Image;
use common::LONG;

const LIMITS: &str = "io.microsoft.lcow.rlimitcore";
const UNLIMITED: u64 = u64::MAX;

/// Prints what tells a core: ELF's magic, then the type, 4 (`ET_CORE`).
fn identify(file: &str) -> String {
    format!("head -c 4 {file} | od -An -tx1; od -An -j 16 -N 2 -tu2 {file}")
}

#[track_caller]
fn is_core(said: &str) {
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(words, ["7f", "45", "4c", "46", "4"]);
}

#[test]
fn cores_are_left_where_they_were_asked_for_and_only_then() {
    // The path is one of the root of the process that dies (core(5)).
    let flag = "-core-dump-location /run/cores/core.%e";
    let Some(vm) = common::guest_with(|profile| profile.service_flags = vec![flag.to_owned()])
    else {
        return;
    };
    let dies = "mkdir -p /run/cores; sh -c 'kill -ABRT $$'; echo $?; ls /run/cores";
    // A process of the VM. Its directory was made at the start.
    let said = vm
        .sh("sh -c 'kill -SEGV $$'; echo $?; ls /run/cores")
        .unwrap();
    assert_eq!(said, "139\ncore.sh");
    is_core(&vm.sh(&identify("/run/cores/core.sh")).unwrap());
    vm.sh("rm /run/cores/*").unwrap();

    // A container that was not asked to leave one does not.
    let out = vm.container(dies).run().unwrap();
    assert_eq!(out.text(), "134\n");
    // One that was does, inside; so do both kinds of containers of a pod by the annotation.
    let with = format!("{dies}; {}", identify("/run/cores/core.sh"));
    let limit = json!([{"type": "RLIMIT_CORE", "soft": UNLIMITED, "hard": UNLIMITED}]);
    let plan = vm.container(&with);
    let standalone = plan.edit(|spec| spec["process"]["rlimits"] = limit);
    let unlimited = format!("{UNLIMITED};{UNLIMITED}");
    let sandbox = vm.sandbox(&with).unwrap().annotate(LIMITS, &unlimited);
    for plan in [standalone, sandbox] {
        let text = plan.run().unwrap().text();
        let rest = text.strip_prefix("134\ncore.sh\n").expect(&text);
        is_core(rest);
    }
    let pause = "trap 'exit 0' TERM; sleep 600 & wait";
    let sandbox = vm.sandbox(pause).unwrap().create().unwrap();
    let paused = sandbox
        .init()
        .without_stdout()
        .without_stderr()
        .start()
        .unwrap();
    let workload = vm
        .workload(sandbox.id(), &with)
        .annotate(LIMITS, &unlimited);
    let text = workload.run().unwrap().text();
    is_core(text.strip_prefix("134\ncore.sh\n").expect(&text));
    // A soft limit cuts it.
    let small = vm.workload(
        sandbox.id(),
        "mkdir -p /run/cores; sh -c 'kill -ABRT $$'; \
        stat -c %s /run/cores/core.sh",
    );
    let text = small.annotate(LIMITS, "8192;8192").run().unwrap().text();
    assert_eq!(text, "8192\n");
    sandbox.kill().unwrap();
    paused.collect(Vec::new(), LIMIT).unwrap();
    sandbox.remove().unwrap();
    // None of them came out into the VM.
    assert_eq!(vm.sh("ls /run/cores").unwrap(), "");
}

/// Round trips of the bridge until `enough`: at least one.
fn round_trips(vm: &Uvm, mut enough: impl FnMut(usize) -> bool) -> Vec<Duration> {
    let mut times = Vec::new();
    loop {
        let begun = Instant::now();
        let pending = vm.send(Rpc::GetProperties, "nobody", json!({"Query": "{}"}));
        let answer = pending.unwrap().raw(LONG).unwrap();
        assert_eq!(answer["Result"], 0xc037_010e_u32.cast_signed());
        times.push(begun.elapsed());
        if enough(times.len()) {
            times.sort_unstable();
            return times;
        }
    }
}

#[test]
fn a_large_core_delays_no_request_and_the_exit_is_told_once_after_it() {
    const MIB: u64 = 200;
    let (Some(image), Some(mut profile)) = (Image::open(), common::profile()) else {
        return;
    };
    profile.memory_mib = 1024;
    profile.service_flags = vec!["-core-dump-location /cores/core".into()];
    let vm = common::boot_profile(profile);
    let quiet = round_trips(&vm, |count| count == 500);

    let container = image.mount(&vm, "large");
    // A process that has filled that much memory and runs until it gets a signal.
    let script = format!(
        "mkdir /cores; mkfifo /pipe; dd if=/dev/zero of=/pipe bs={} count=1 & exec 3</pipe; \
         head -c 1 <&3 >/dev/null; echo full; read go; kill -ABRT $!; wait $!; echo ended $?; exit 5",
        MIB << 20
    );
    let mut spec = image.spec("large", &["sh", "-c", &script]);
    spec["process"]["rlimits"] =
        json!([{"type": "RLIMIT_CORE", "soft": UNLIMITED, "hard": UNLIMITED}]);
    container.create(&spec).unwrap();
    container.start().unwrap();
    let launch = container.init().limit(LONG).open_stdin();
    let mut process = launch.start().unwrap();
    let mut stdout = process.stdio.stdout.take().unwrap();
    let mut full = [0; 5];
    stdout.read_exact(&mut full).unwrap();
    assert_eq!(&full, b"full\n");
    // An exit is reported once the host has read all output.
    let mut stderr = process.stdio.stderr.take().unwrap();
    let said = std::thread::spawn(move || {
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).unwrap();
        stderr.read_to_string(&mut rest).unwrap();
        rest
    });
    let begun = Instant::now();
    std::io::Write::write_all(process.stdio.stdin.as_mut().unwrap(), b"go\n").unwrap();
    let during = round_trips(&vm, |_| process.has_exited());
    let took = begun.elapsed();

    let median = |times: &[Duration]| times[times.len() / 2];
    let (worst, before) = (during[during.len() - 1], median(&quiet));
    println!("a core of {MIB} MiB took {took:?}; the worst round trip meanwhile took {worst:?}");
    // One processor, emulated, has the dump to do as well.
    assert!(median(&during) < 20 * before + Duration::from_millis(20));
    assert!(worst < Duration::from_secs(2) && worst < took);

    // The exit is told after the dump, by the shell that waited and then by the container.
    let said = said.join().unwrap();
    assert!(said.starts_with("ended 134\n"), "{said}");
    assert_eq!(process.wait(LONG).unwrap(), 5);
    vm.wait_notification("large", LONG).unwrap();
    let core = format!("{}/cores/core", uvm::container::root("large"));
    let look = format!("{}; stat -c %s {core}", identify(&core));
    let out = vm.external(&["/bin/sh", "-c", &look]).run().unwrap();
    let (kind, size) = out
        .text()
        .trim_end()
        .rsplit_once('\n')
        .map(|(k, s)| (k.to_owned(), s.to_owned()))
        .unwrap();
    is_core(&kind);
    assert!(size.parse::<u64>().unwrap() > MIB << 20, "{size} bytes");
    container.remove().unwrap();
}
