//! The `uvm` command from outside: what it says, its exit codes, and what it leaves behind.

mod common;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

const LONG: Duration = Duration::from_secs(60);

fn uvm(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_uvm"));
    command
        .current_dir(dir)
        .env("TMPDIR", dir)
        .env_remove("UVM_KERNEL")
        .env_remove("UVM_INITRD")
        .stdin(Stdio::null());
    command
}

fn output(command: &mut Command) -> (Output, String) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

#[test]
fn what_is_missing_is_one_clear_sentence_and_125() {
    let dir = tempfile::tempdir().unwrap();
    let (out, said) = output(uvm(dir.path()).arg("boot"));
    assert_eq!(out.status.code(), Some(125));
    assert!(
        said.contains("there is no kernel at out/vmlinux: run `make`"),
        "{said}"
    );
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let args = [
        "boot", "--kernel", "file", "--initrd", "nowhere", "--vsock", "none",
    ];
    let (out, said) = output(uvm(dir.path()).args(args));
    assert_eq!(out.status.code(), Some(125));
    assert!(said.contains("the initrd nowhere cannot be read"), "{said}");
    let args = [
        "boot", "--kernel", "file", "--initrd", "file", "--vsock", "none",
    ];
    let (out, said) = output(uvm(dir.path()).args(args).env("PATH", "/nowhere"));
    assert_eq!(out.status.code(), Some(125));
    assert!(
        said.contains("qemu-system-x86_64 is not installed"),
        "{said}"
    );
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["file"]);
}

#[test]
fn the_doctor_says_what_is_missing_and_fails() {
    let dir = tempfile::tempdir().unwrap();
    let (out, _) = output(uvm(dir.path()).arg("doctor").env("PATH", "/nowhere"));
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(1), "{text}");
    for part in [
        "MISSING  qemu",
        "MISSING  kernel",
        "MISSING  initrd",
        "chosen   vsock",
        "absent   busybox",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn a_wrong_command_line_is_2() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(output(uvm(dir.path()).arg("exec")).0.status.code(), Some(2));
    assert_eq!(
        output(uvm(dir.path()).args(["boot", "--memory", "1"]))
            .0
            .status
            .code(),
        Some(2)
    );
}

/// A tool that waits for a guest which never dials, and its QEMU.
fn stuck(dir: &Path, kernel: &Path) -> (Child, i32) {
    let initrd = dir.join("initrd");
    std::fs::write(&initrd, "").unwrap();
    #[expect(clippy::zombie_processes)] // The caller waits for it; a failed assertion ends all.
    let tool = uvm(dir)
        .args([
            "boot",
            "--vsock",
            "none",
            "--append",
            "rootwait root=/dev/nothing",
            "--kernel",
        ])
        .args([kernel, Path::new("--initrd"), &initrd])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + LONG;
    loop {
        for task in std::fs::read_dir(format!("/proc/{}/task", tool.id()))
            .unwrap()
            .flatten()
        {
            let children =
                std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace() {
                let line =
                    std::fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
                // After its exec.
                if line.contains("-nodefaults") {
                    return (tool, child.parse().unwrap());
                }
            }
        }
        assert!(Instant::now() < deadline, "no QEMU comes up");
        std::thread::yield_now();
    }
}

fn gone(pid: i32) {
    let deadline = Instant::now() + LONG;
    loop {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        // A zombie waits only for the process that has adopted it.
        if status.is_empty() || status.contains("State:\tZ") {
            return;
        }
        assert!(Instant::now() < deadline, "QEMU lives on: {status}");
        std::thread::yield_now();
    }
}

#[test]
fn no_signal_leaves_a_qemu_or_a_file_behind() {
    let Some(kernel) = common::kernel() else {
        return;
    };
    for (signal, code) in [
        (Signal::SIGTERM, 143),
        (Signal::SIGINT, 130),
        (Signal::SIGHUP, 129),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (mut tool, qemu) = stuck(dir.path(), &kernel);
        kill(Pid::from_raw(tool.id().cast_signed()), signal).unwrap();
        assert_eq!(tool.wait().unwrap().code(), Some(code), "{signal}");
        gone(qemu);
        let left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, ["initrd"], "after {signal}");
    }
}

#[test]
fn a_killed_tool_takes_qemu_along_and_the_next_one_cleans_up() {
    let Some(kernel) = common::kernel() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (mut tool, qemu) = stuck(dir.path(), &kernel);
    tool.kill().unwrap();
    tool.wait().unwrap();
    gone(qemu);
    let args = [
        "boot", "--vsock", "none", "--kernel", "nowhere", "--initrd", "initrd",
    ];
    assert_eq!(
        output(uvm(dir.path()).args(args)).0.status.code(),
        Some(125)
    );
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["initrd"]);
}

#[test]
fn a_killed_qemu_is_told() {
    let Some(kernel) = common::kernel() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (tool, qemu) = stuck(dir.path(), &kernel);
    kill(Pid::from_raw(qemu), Signal::SIGKILL).unwrap();
    assert_eq!(tool.wait_with_output().unwrap().status.code(), Some(125));
    gone(qemu);
}

#[test]
fn a_guest_panic_at_boot_is_told_with_its_text() {
    let Some(kernel) = common::kernel() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("initrd"), "").unwrap();
    let mut command = uvm(dir.path());
    command
        .args(["boot", "--vsock", "none", "--initrd", "initrd", "--kernel"])
        .arg(kernel);
    let (out, said) = output(&mut command);
    assert_eq!(out.status.code(), Some(125));
    assert!(
        said.contains("the guest panicked:") && said.contains("Unable to mount root fs"),
        "{said}"
    );
}

#[test]
fn a_list_that_nobody_reads_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["conformance", "--list"][..], &["ps"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = uvm(dir.path());
        command
            .args(args)
            .env_remove("XDG_RUNTIME_DIR")
            .stdout(writer);
        let (out, said) = output(&mut command);
        assert_eq!(
            (out.status.code(), said.as_str()),
            (Some(0), ""),
            "{args:?}"
        );
    }
}

#[test]
fn without_a_running_vm_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    for (args, says) in [
        (&["stop"][..], "no VM is running"),
        (&["detach", "/x"], "no VM is running"),
        (&["stats", "--vm", "one"], "there is no VM one"),
        (&["exec", "--vm", "one", "--", "true"], "there is no VM one"),
        (&["shell"], "not a terminal"),
        (&["run", "-t"], "not a terminal"),
    ] {
        let mut command = uvm(dir.path());
        command.args(args).env_remove("XDG_RUNTIME_DIR");
        let (out, said) = output(&mut command);
        assert_eq!(out.status.code(), Some(125), "{args:?}");
        assert!(said.contains(says), "{args:?}: {said}");
    }
    let (out, said) = output(uvm(dir.path()).args(["boot", "--name", "a/b"]));
    assert_eq!(out.status.code(), Some(2));
    assert!(said.contains("no name for a VM"), "{said}");
}
