//! A running VM reached by other processes: what is attached comes and goes without a trace,
//! processes have their streams, terminal and exit code, and the end is in good order.

mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::pty::openpty;
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use qemu::control::{Directory, Server};
use rustix::termios::{tcgetattr, tcsetwinsize, Winsize};
use serde_json::{json, Value};
use uvm::Uvm;

/// A directory for control sockets and files, and `uvm` as its user has it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn sockets(&self) -> Directory {
        Directory::at(self.path("lcow-uvm"))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_uvm"));
        command
            .args(args)
            .current_dir(self.0.path())
            .env("XDG_RUNTIME_DIR", self.0.path())
            .env("UVM_LAYER_CACHE", common::layer_cache())
            .stdin(Stdio::null());
        command
    }

    fn uvm(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs it to success and gives its output.
    #[track_caller]
    fn good(&self, args: &[&str]) -> String {
        let output = self.uvm(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs it to the tool's failure and a text that contains this.
    #[track_caller]
    fn bad(&self, args: &[&str], says: &str) {
        let output = self.uvm(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{args:?}: {said}");
        assert!(said.contains(says), "{args:?}: {said}");
    }

    /// An ext4 file system with one file.
    fn disk(&self, name: &str) {
        let file = self.path(name);
        File::create(&file).unwrap().set_len(16 << 20).unwrap();
        let content = self.path("content");
        fs::create_dir_all(&content).unwrap();
        fs::write(content.join("name"), name).unwrap();
        let mke2fs = uvm_vm::choice::program("mke2fs").unwrap();
        let made = Command::new(mke2fs)
            .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-d"])
            .args([&content, &file])
            .status();
        assert!(made.unwrap().success());
    }

    fn convert(&self, from: &str, format: &str, to: &str) {
        let made = Command::new("qemu-img")
            .args(["convert", "-O", format])
            .args([self.path(from), self.path(to)])
            .status();
        assert!(made.unwrap().success());
    }
}

fn has(program: &str) -> bool {
    let there = uvm_vm::choice::program(program).is_some();
    if !there {
        eprintln!("SKIPPED: {program} is not installed");
    }
    there
}

#[track_caller]
fn sh(vm: &Uvm, script: &str) -> String {
    let output = vm.external(&["sh", "-c", script]).run().unwrap();
    assert_eq!(output.code, 0, "{script}: {}", output.error_text());
    output.text()
}

/// What QEMU and the guest have of disks, devices and mounts.
fn inventory(vm: &Uvm) -> (Vec<Value>, String) {
    let names = |list: Value, key: &str| {
        let list = list.as_array().cloned().unwrap_or_default();
        list.iter().map(|entry| entry[key].clone()).collect()
    };
    let mut qmp = vm.vm().qmp();
    let mut have: Vec<Value> = Vec::new();
    for (command, key) in [
        ("query-block", "qdev"),
        ("query-named-block-nodes", "node-name"),
    ] {
        have.push(names(qmp.command(command, json!({})).unwrap(), key));
    }
    drop(qmp);
    let seen = sh(
        vm,
        "ls /sys/class/block | grep -v pmem; ls /run; cut -d' ' -f2 /proc/mounts",
    );
    (have, seen)
}

/// Children of this process that serve a directory.
fn servers(path: &Path) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let of_ours = |entry: &fs::DirEntry| {
        let args = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let args = String::from_utf8_lossy(&args).into_owned();
        args.contains("diod") && args.contains(path.to_str().unwrap())
    };
    processes.filter(of_ours).count()
}

#[test]
fn what_is_attached_comes_and_goes_without_a_trace() {
    let Some(mut profile) = common::profile() else {
        return;
    };
    if !has("diod") || !has("qemu-img") || !has("mke2fs") {
        return;
    }
    profile.pmem_slots = 1;
    let place = Place::new();
    let vm = Arc::new(common::boot_profile(profile));
    let host = vm.host().clone();
    let (sockets, name) = (place.sockets(), "one".parse().unwrap());
    let on_stop = move |_| host.shutdown_uvm();
    let server = Server::start(&sockets, name, "test", Arc::clone(&vm), vec![], on_stop).unwrap();

    place.disk("raw.img");
    for (format, file) in [
        ("vpc", "disk.vhd"),
        ("vhdx", "disk.vhdx"),
        ("qcow2", "disk.qcow2"),
    ] {
        place.convert("raw.img", format, file);
    }
    let shared = place.path("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("name"), "raw.img").unwrap();
    place.disk("pmem.img");
    fs::write(place.path("junk.img"), vec![1; 4 << 20]).unwrap();
    fs::write(place.path("junk.vhdx"), "junk").unwrap();
    let before = inventory(&vm);

    // Each kind, used and gone.
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
        place.good(&["attach", kind, source]);
        let name = sh(&vm, "cat /run/x/name");
        let expected = if kind == "pmem" {
            "pmem.img"
        } else {
            "raw.img"
        };
        assert_eq!(name, expected, "{source}");
        let wrote = vm.external(&["sh", "-c", "echo kept > /run/x/new"]).run();
        assert_eq!(wrote.unwrap().code == 0, writable, "{source}");
        let listed = place.good(&["ps", "--vm", "one"]);
        assert!(listed.contains("/run/x"), "{listed}");
        place.bad(&["attach", "share", "shared:/run/x"], "/run/x is taken");
        place.good(&["detach", "/run/x"]);
        assert_eq!(inventory(&vm), before, "{source}");
        place.bad(&["detach", "/run/x"], "nothing is attached at /run/x");
        assert_eq!(servers(&shared), 0);
    }
    // What was written is there.
    assert_eq!(fs::read(shared.join("new")).unwrap(), b"kept\n");
    for source in ["raw.img", "disk.vhd", "disk.vhdx", "disk.qcow2"] {
        place.good(&["attach", "disk", &format!("{source}:/run/x:ro")]);
        assert_eq!(sh(&vm, "cat /run/x/new"), "kept\n", "{source}");
        place.good(&["detach", "/run/x"]);
    }
    // Persistent memory stays plugged in, so it can come again.
    place.good(&["attach", "pmem", "pmem.img:/run/x"]);
    place.bad(
        &["attach", "pmem", "raw.img:/run/y"],
        "QEMU cannot unplug it",
    );
    place.good(&["detach", "/run/x"]);

    // A disk in use stays, and goes when it is free.
    place.good(&["attach", "disk", "raw.img:/run/x"]);
    let mut busy = vm.external(&["sh", "-c", "cd /run/x && exec sleep 1000"]);
    busy = busy.without_stdout().without_stderr();
    let mut busy = busy.start().unwrap();
    let entered = format!(
        "until [ /run/x = $(readlink /proc/{}/cwd) ]; do :; done",
        busy.pid
    );
    sh(&vm, &entered);
    place.bad(&["detach", "/run/x"], "unmounting /run/x");
    assert_eq!(sh(&vm, "cat /run/x/name"), "raw.img");
    place.bad(&["attach", "disk", "raw.img:/run/y"], "would write to it");
    busy.signal(libc::SIGKILL).unwrap();
    busy.wait(common::LONG).unwrap();
    place.good(&["detach", "/run/x"]);

    // What fails leaves nothing.
    for (args, says) in [
        (["disk", "none.img:/run/x"], "No such file"),
        (["disk", "shared:/run/x"], "not a file"),
        (["disk", "junk.img:/run/x"], "no file system"),
        (["disk", "junk.vhdx:/run/x"], "QEMU refused"),
        (["disk", "raw.img:/run/../x"], "no place"),
        (["share", "raw.img:/run/x"], "not a directory"),
        (["pmem", "junk.img:/run/x"], "no file system"),
        (["disk", "raw.img:/proc/x"], "/proc/x"),
        (["share", "shared:/proc/x"], "/proc/x"),
    ] {
        place.bad(&["attach", args[0], args[1]], says);
        assert_eq!(inventory(&vm), before, "{args:?}");
        assert_eq!(servers(&shared), 0, "{args:?}");
    }
    let unknown = ["attach", "disk", "raw.img:/run/x", "--vm", "two"];
    place.bad(&unknown, "there is no VM two (running: one)");
    let inside = ["attach", "disk", "raw.img:/run/x", "--container"];
    place.bad(&inside, "it has no container");

    // Processes of the VM, and what it says of itself.
    let ran = place.uvm(&[
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
    let missing = place.uvm(&["exec", "--vm", "one", "--", "/no/such"]);
    assert_eq!(missing.status.code(), Some(127));
    let mut left = place.command(&["exec", "--vm", "one", "--", "sleep", "4711"]);
    let mut left = left.spawn().unwrap();
    sh(&vm, "until pidof sleep; do :; done");
    left.kill().unwrap();
    left.wait().unwrap();
    sh(&vm, "while pidof sleep; do :; done");
    assert!(place.good(&["stacks"]).contains("pending requests"));
    let logs = place.good(&["logs"]);
    assert!(logs.lines().next().unwrap().contains("boot line"), "{logs}");
    let listed: Value = serde_json::from_str(&place.good(&["ps", "--json"])).unwrap();
    assert_eq!(listed[0]["name"], "one");
    assert_eq!(listed[0]["attachments"], json!([]));

    // A killed owner's socket is no VM.
    let stale = place.path("lcow-uvm/stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let mut follower = place.command(&["logs", "-f", "--vm", "one"]);
    let mut follower = Run(follower.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(follower.0.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    place.good(&["stop", "--vm", "one"]);
    assert!(!stale.exists());
    assert!(vm.ended().is_some());
    let last = lines.map(|line| line.unwrap()).last().unwrap();
    assert!(last.contains("the machine ends"), "{last}");
    assert_eq!(follower.code(), 0);
    drop(server);
    place.bad(&["ps", "--vm", "one"], "there is no VM one");
    assert_eq!(place.good(&["ps"]).lines().count(), 1);
}

/// A child that must not outlive a test that fails.
struct Run(Child);

impl Drop for Run {
    fn drop(&mut self) {
        // It has ended already if all went well.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Run {
    #[track_caller]
    fn code(&mut self) -> i32 {
        let deadline = Instant::now() + common::LONG;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code().unwrap();
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_running_container_is_worked_in_and_stopped() {
    let (Some(kernel), Some(initrd)) = (common::kernel(), common::initrd()) else {
        return;
    };
    if !has("mke2fs") || !has("busybox") {
        return;
    }
    let place = Place::new();
    place.disk("raw.img");
    let mut run = place.command(&["run", "--name", "web", "--attach-dir", "/mnt", "--"]);
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
    while !place.good(&["ps"]).contains("web") {}

    // Streams and exit code, of more than any buffer holds.
    let input: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
    let mut exec = place.command(&["exec", "--vm", "web", "--container", "-e", "A=b", "--"]);
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
    place.good(&["attach", "disk", "raw.img:/mnt/data", "--container"]);
    let inside = |script: &str| place.good(&["exec", "--container", "--", "sh", "-c", script]);
    assert_eq!(
        inside("cat /mnt/data/name; echo x > /mnt/data/new"),
        "raw.img"
    );
    let elsewhere = ["attach", "disk", "raw.img:/data", "--container"];
    place.bad(&elsewhere, "right below /mnt only");
    place.good(&["detach", "/mnt/data", "--container"]);
    assert_eq!(inside("ls /mnt"), "");

    let stats: Value = serde_json::from_str(&place.good(&["stats", "--json"])).unwrap();
    let (_, stats) = stats.as_object().unwrap().iter().next().unwrap();
    assert!(
        stats["memory"]["usage"]["usage"].as_u64().unwrap() > 0,
        "{stats}"
    );
    on_a_terminal(&place);

    place.good(&["stop"]);
    assert_eq!(run.code(), 9);
    assert!(!place.path("lcow-uvm").exists());
}

/// A shell on a terminal: its size, also when it changes, and its settings afterwards.
fn on_a_terminal(place: &Place) {
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
        let mut command = place.command(args);
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
