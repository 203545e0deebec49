//! A running VM reached by other processes: what is attached comes and goes without a trace,
//! processes have their streams, terminal and exit code, and the end is in good order.

#[path = "../common/mod.rs"]
mod common;
mod harness;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use nix::pty::openpty;
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use qemu::control::Server;
use rustix::termios::{tcgetattr, tcsetwinsize, Winsize};
use serde_json::{json, Value};
use uvm::Uvm;

use common::has;
use harness::{inventory, servers, sh, Files, Inventory, Run};

#[test]
fn what_is_attached_comes_and_goes_without_a_trace() {
    let Some(mut profile) = common::profile() else {
        return;
    };
    if !has("qemu-img") || !has("mke2fs") {
        return;
    }
    profile.pmem_slots = 1;
    let files = Files::new();
    let vm = Arc::new(common::boot_profile(profile));
    let host = vm.host().clone();
    let (sockets, name) = (files.sockets(), "one".parse().unwrap());
    let on_stop = move |_| host.shutdown_uvm();
    let server = Server::start(&sockets, name, "test", Arc::clone(&vm), vec![], on_stop).unwrap();

    files.disk("raw.img");
    for (format, file) in [
        ("vpc", "disk.vhd"),
        ("vhdx", "disk.vhdx"),
        ("qcow2", "disk.qcow2"),
    ] {
        files.convert("raw.img", format, file);
    }
    let shared = files.path("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("name"), "raw.img").unwrap();
    files.disk("pmem.img");
    fs::write(files.path("junk.img"), vec![1; 4 << 20]).unwrap();
    fs::write(files.path("junk.vhdx"), "junk").unwrap();
    let before = inventory(&vm);
    each_kind_is_used_and_gone(&files, &vm, &before, &shared);
    what_was_written_is_there(&files, &vm, &shared);
    persistent_memory_stays_plugged(&files);
    a_disk_in_use_stays(&files, &vm);
    what_fails_leaves_nothing(&files, &vm, &before, &shared);
    processes_run_and_the_vm_tells_of_itself(&files, &vm);
    a_killed_owner_leaves_no_vm(&files, &vm);
    drop(server);
    files.bad(&["ps", "--vm", "one"], "there is no VM one");
    assert_eq!(files.good(&["ps"]).lines().count(), 1);
}

/// Each kind, used and gone.
fn each_kind_is_used_and_gone(files: &Files, vm: &Uvm, before: &Inventory, shared: &Path) {
    for (kind, source, writable) in [
        ("disk", "raw.img:/run/x", true),
        ("disk", "raw.img:/run/x:ro", false),
        ("disk", "disk.vhd:/run/x", true),
        ("disk", "disk.vhdx:/run/x", true),
        ("disk", "disk.qcow2:/run/x", true),
        ("share", "shared:/run/x", true),
        ("share", "shared:/run/x:ro", false),
        ("pmem", "pmem.img:/run/x", false),
    ] {
        files.good(&["attach", kind, source]);
        let name = sh(vm, "cat /run/x/name");
        let expected = if kind == "pmem" {
            "pmem.img"
        } else {
            "raw.img"
        };
        assert_eq!(name, expected, "{source}");
        let wrote = vm.external(&["sh", "-c", "echo kept > /run/x/new"]).run();
        assert_eq!(wrote.unwrap().code == 0, writable, "{source}");
        assert_eq!(servers(shared), usize::from(kind == "share"));
        let listed = files.good(&["ps", "--vm", "one"]);
        assert!(listed.contains("/run/x"), "{listed}");
        files.bad(&["attach", "share", "shared:/run/x"], "/run/x is taken");
        files.good(&["detach", "/run/x"]);
        assert_eq!(&inventory(vm), before, "{source}");
        files.bad(&["detach", "/run/x"], "nothing is attached at /run/x");
        assert_eq!(servers(shared), 0);
    }
}

/// What was written is there.
fn what_was_written_is_there(files: &Files, vm: &Uvm, shared: &Path) {
    assert_eq!(fs::read(shared.join("new")).unwrap(), b"kept\n");
    for source in ["raw.img", "disk.vhd", "disk.vhdx", "disk.qcow2"] {
        files.good(&["attach", "disk", &format!("{source}:/run/x:ro")]);
        assert_eq!(sh(vm, "cat /run/x/new"), "kept\n", "{source}");
        files.good(&["detach", "/run/x"]);
    }
}

/// Persistent memory stays plugged in, so it can come again.
fn persistent_memory_stays_plugged(files: &Files) {
    files.good(&["attach", "pmem", "pmem.img:/run/x"]);
    files.bad(
        &["attach", "pmem", "raw.img:/run/y"],
        "QEMU cannot unplug it",
    );
    files.good(&["detach", "/run/x"]);
}

/// A disk in use stays, and goes when it is free.
fn a_disk_in_use_stays(files: &Files, vm: &Uvm) {
    files.good(&["attach", "disk", "raw.img:/run/x"]);
    let mut busy = vm.external(&["sh", "-c", "cd /run/x && exec sleep 1000"]);
    busy = busy.without_stdout().without_stderr();
    let mut busy = busy.start().unwrap();
    let entered = format!(
        "until [ /run/x = $(readlink /proc/{}/cwd) ]; do :; done",
        busy.pid
    );
    sh(vm, &entered);
    files.bad(&["detach", "/run/x"], "unmounting /run/x");
    assert_eq!(sh(vm, "cat /run/x/name"), "raw.img");
    files.bad(&["attach", "disk", "raw.img:/run/y"], "would write to it");
    busy.signal(libc::SIGKILL).unwrap();
    busy.wait(common::LONG).unwrap();
    files.good(&["detach", "/run/x"]);
}

/// What fails leaves nothing.
fn what_fails_leaves_nothing(files: &Files, vm: &Uvm, before: &Inventory, shared: &Path) {
    for (args, says) in [
        (["disk", "none.img:/run/x"], "No such file"),
        (["disk", "shared:/run/x"], "not a file"),
        (["disk", "junk.img:/run/x"], "no file system"),
        (["disk", "junk.vhdx:/run/x"], "QEMU refused"),
        (["disk", "raw.img:/run/../x"], "no path"),
        (["share", "raw.img:/run/x"], "not a directory"),
        (["pmem", "junk.img:/run/x"], "no file system"),
        (["disk", "raw.img:/proc/x"], "/proc/x"),
        (["share", "shared:/proc/x"], "/proc/x"),
    ] {
        files.bad(&["attach", args[0], args[1]], says);
        assert_eq!(&inventory(vm), before, "{args:?}");
        assert_eq!(servers(shared), 0, "{args:?}");
    }
    let unknown = ["attach", "disk", "raw.img:/run/x", "--vm", "two"];
    files.bad(&unknown, "there is no VM two (running: one)");
    let inside = ["attach", "disk", "raw.img:/run/x", "--container"];
    files.bad(&inside, "it has no container");
}

/// Processes of the VM, and what it says of itself.
fn processes_run_and_the_vm_tells_of_itself(files: &Files, vm: &Uvm) {
    let ran = files.uvm(&[
        "exec",
        "--vm",
        "one",
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 7",
    ]);
    let seen = (ran.status.code(), ran.stdout, ran.stderr);
    assert_eq!(seen, (Some(7), b"out\n".to_vec(), b"err\n".to_vec()));
    let missing = files.uvm(&["exec", "--vm", "one", "--", "/no/such"]);
    assert_eq!(missing.status.code(), Some(127));
    let mut left = files.command(&["exec", "--vm", "one", "--", "sleep", "4711"]);
    let mut left = left.spawn().unwrap();
    sh(vm, "until pidof sleep; do :; done");
    left.kill().unwrap();
    left.wait().unwrap();
    sh(vm, "while pidof sleep; do :; done");
    assert!(files.good(&["stacks"]).contains("pending requests"));
    let logs = files.good(&["logs"]);
    assert!(logs.lines().next().unwrap().contains("boot line"), "{logs}");
    let listed: Value = serde_json::from_str(&files.good(&["ps", "--json"])).unwrap();
    assert_eq!(listed[0]["name"], "one");
    assert_eq!(listed[0]["attachments"], json!([]));
}

/// A killed owner's socket is no VM.
fn a_killed_owner_leaves_no_vm(files: &Files, vm: &Uvm) {
    let stale = files.path("lcow-uvm/stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let mut follower = files.command(&["logs", "-f", "--vm", "one"]);
    let mut follower = Run(follower.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(follower.0.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    files.good(&["stop", "--vm", "one"]);
    assert!(!stale.exists());
    assert!(vm.ended().is_some());
    let last = lines.map(|line| line.unwrap()).last().unwrap();
    assert!(last.contains("the machine ends"), "{last}");
    assert_eq!(follower.code(), 0);
}

#[test]
fn a_running_container_is_worked_in_and_stopped() {
    let (Some(kernel), Some(initrd)) = (common::kernel(), common::initrd()) else {
        return;
    };
    if !has("mke2fs") || !has("busybox") {
        return;
    }
    let files = Files::new();
    files.disk("raw.img");
    let mut run = files.command(&["run", "--name", "web", "--attach-dir", "/mnt", "--"]);
    run.args([
        "sh",
        "-c",
        "trap 'exit 9' TERM; echo up; while :; do sleep 0.1; done",
    ]);
    run.env("UVM_KERNEL", kernel).env("UVM_INITRD", initrd);
    let mut run = Run(run.stdout(Stdio::piped()).spawn().unwrap());
    let mut up = [0; 3];
    run.0.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    assert_eq!(&up, b"up\n");
    // Its socket appears right after the start of its process.
    while !files.good(&["ps"]).contains("web") {}

    // Streams and exit code, of more than any buffer holds.
    let input: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
    let mut exec = files.command(&["exec", "--vm", "web", "--container", "-e", "A=b", "--"]);
    exec.args(["sh", "-c", "cat; echo $A >&2; exit 3"]);
    exec.stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut exec = exec.spawn().unwrap();
    let mut stdin = exec.stdin.take().unwrap();
    let fed = input.clone();
    let feeding = std::thread::spawn(move || stdin.write_all(&fed).unwrap());
    let output = exec.wait_with_output().unwrap();
    feeding.join().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stdout == input, "{} bytes came", output.stdout.len());
    assert_eq!(output.stderr, b"b\n");

    // A disk in the running container, at a path of its own.
    files.good(&["attach", "disk", "raw.img:/mnt/data", "--container"]);
    let inside = |script: &str| files.good(&["exec", "--container", "--", "sh", "-c", script]);
    assert_eq!(
        inside("cat /mnt/data/name; echo x > /mnt/data/new"),
        "raw.img"
    );
    let elsewhere = ["attach", "disk", "raw.img:/data", "--container"];
    files.bad(&elsewhere, "right below /mnt only");
    files.good(&["detach", "/mnt/data", "--container"]);
    assert_eq!(inside("ls /mnt"), "");

    let stats: Value = serde_json::from_str(&files.good(&["stats", "--json"])).unwrap();
    let (_, stats) = stats.as_object().unwrap().iter().next().unwrap();
    assert!(
        stats["memory"]["usage"]["usage"].as_u64().unwrap() > 0,
        "{stats}"
    );
    on_a_terminal(&files);

    files.good(&["stop"]);
    assert_eq!(run.code(), 9);
    assert!(!files.path("lcow-uvm").exists());
}

/// A shell on a terminal: its size, also when it changes, and its settings afterwards.
fn on_a_terminal(files: &Files) {
    let pty = openpty(None, None).unwrap();
    let size = |rows: u16, columns: u16| {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&pty.master, size).unwrap();
    };
    size(31, 101);
    let settings = || format!("{:?}", tcgetattr(&pty.slave).unwrap());
    let before = settings();
    let start = |args: &[&str]| {
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        let mut command = files.command(args);
        Run(command
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap())
    };
    let mut master = File::from(pty.master.try_clone().unwrap());
    let mut said = String::new();
    // Everything up to this text. The shell asks its questions on the terminal only.
    let mut until = |words: &str| {
        let mut buffer = [0; 1024];
        while !said.contains(words) {
            let got = master.read(&mut buffer).unwrap();
            said.push_str(&String::from_utf8_lossy(&buffer[..got]));
        }
        said.clear();
    };
    let mut input = File::from(pty.master.try_clone().unwrap());
    let mut shell = start(&["shell", "--container"]);
    until("# ");
    assert_ne!(settings(), before, "the terminal is not raw");
    // The text is put together there, so that their echo is not taken for them.
    input.write_all(b"echo is $(stty size)\n").unwrap();
    until("is 31 101");
    size(41, 111);
    kill(Pid::from_raw(shell.0.id().cast_signed()), Signal::SIGWINCH).unwrap();
    let wait = b"until [ \"$(stty size)\" = '41 111' ]; do :; done; echo o''k\n";
    input.write_all(wait).unwrap();
    until("ok");
    input.write_all(b"exit 5\n").unwrap();
    assert_eq!(shell.code(), 5);
    assert_eq!(settings(), before);

    let script = "echo wait''ing; exec sleep 1000";
    let mut exec = start(&["exec", "--container", "-t", "--", "sh", "-c", script]);
    until("waiting");
    assert_ne!(settings(), before, "the terminal is not raw");
    kill(Pid::from_raw(exec.0.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(exec.code(), 143);
    assert_eq!(settings(), before);
}
