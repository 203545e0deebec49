//! Signals to the tool reach what it runs, and its disks keep what was written.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use serde_json::json;

use super::common;
use super::images::{docker_save, layer};

/// `uvm` at work, after its program has said that it is ready.
struct Running(Child, BufReader<ChildStdout>);

impl Running {
    fn start(args: &[&str]) -> Option<Self> {
        let (kernel, initrd) = (common::kernel()?, common::initrd()?);
        let mut child = Command::new(env!("CARGO_BIN_EXE_uvm"))
            .args(args)
            .env("UVM_KERNEL", kernel)
            .env("UVM_INITRD", initrd)
            .env(
                "UVM_LAYER_CACHE",
                Path::new(env!("CARGO_TARGET_TMPDIR")).join("layers"),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Some(Self(child, output))
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
    }

    /// Its exit code, and what it says from here on.
    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.1.read_to_string(&mut said).unwrap();
        (self.0.wait().unwrap().code(), said)
    }
}

fn disk(file: &Path) {
    File::create(file).unwrap().set_len(16 << 20).unwrap();
    let made = Command::new(uvm_vm::choice::program("mke2fs").unwrap())
        .args(["-q", "-F", "-t", "ext4", "-b", "4096"])
        .arg(file)
        .status();
    assert!(made.unwrap().success());
}

/// The content of a file on a disk.
fn on_disk(disk: &Path, file: &str) -> String {
    let shown = Command::new(uvm_vm::choice::program("debugfs").unwrap())
        .args(["-R", &format!("cat {file}")])
        .arg(disk)
        .output();
    String::from_utf8(shown.unwrap().stdout).unwrap()
}

/// Says at its end which signal it has got, on the disk too.
const HANDLER: &str =
    "for s in TERM INT HUP QUIT; do trap \"echo $s; echo $s > /d/got; exit 4\" $s; \
    done; echo early > /d/early; echo ready; while :; do sleep 0.1; done";

#[test]
fn a_signal_is_the_programs_and_its_disk_is_written_out() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("d.img");
    let volume = format!("{}:/d", file.display());
    for (signal, name) in [
        (Signal::SIGTERM, "TERM\n"),
        (Signal::SIGINT, "INT\n"),
        (Signal::SIGHUP, "HUP\n"),
    ] {
        disk(&file);
        let args = ["run", "--disk", &volume, "--", "sh", "-c", HANDLER];
        let Some(running) = Running::start(&args) else {
            return;
        };
        running.signal(signal);
        assert_eq!(running.end(), (Some(4), name.to_owned()));
        assert_eq!(on_disk(&file, "got"), name);
    }
}

#[test]
fn the_second_signal_ends_the_tool_and_its_disk_is_written_out() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("d.img");
    disk(&file);
    let volume = format!("{}:/d", file.display());
    // It hears the first one and goes on.
    let script =
        "trap 'echo heard' TERM; echo early > /d/early; echo ready; while :; do sleep 0.1; done";
    let args = ["run", "--disk", &volume, "--", "sh", "-c", script];
    let Some(mut running) = Running::start(&args) else {
        return;
    };
    running.signal(Signal::SIGTERM);
    let mut line = String::new();
    running.1.read_line(&mut line).unwrap();
    assert_eq!(line, "heard\n");
    running.signal(Signal::SIGINT);
    assert_eq!(running.end(), (Some(130), String::new()));
    assert_eq!(on_disk(&file, "early"), "early\n");
}

#[test]
fn an_image_names_the_signal_that_stops_its_program() {
    let Some(busybox) = super::images::busybox() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("d.img");
    disk(&file);
    let volume = format!("{}:/d", file.display());
    let image = dir.path().join("image.tar");
    let bottom = layer(&[
        ("bin/busybox", 0o755, 0, &busybox),
        ("bin/sh", 0o755, 0, &busybox),
        ("bin/sleep", 0o755, 0, &busybox),
    ]);
    let config = json!({"Cmd": ["/bin/sh", "-c", HANDLER], "StopSignal": "SIGQUIT"});
    std::fs::write(&image, docker_save(&[bottom], config)).unwrap();
    let image = image.to_str().unwrap();
    for (signal, name) in [(Signal::SIGTERM, "QUIT\n"), (Signal::SIGINT, "INT\n")] {
        let args = ["run", "--image", image, "--disk", &volume];
        let Some(running) = Running::start(&args) else {
            return;
        };
        running.signal(signal);
        assert_eq!(running.end(), (Some(4), name.to_owned()));
    }
}

#[test]
fn a_signal_reaches_a_process_of_the_vm() {
    let script = "trap 'echo heard; exit 4' TERM; echo ready; while :; do sleep 0.1; done";
    let Some(running) = Running::start(&["exec", "--", "sh", "-c", script]) else {
        return;
    };
    running.signal(Signal::SIGTERM);
    assert_eq!(running.end(), (Some(4), "heard\n".into()));
}
