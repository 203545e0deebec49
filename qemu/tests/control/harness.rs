//! `uvm` with files of its own, and what a VM has of this machine.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use qemu::control::Directory;
use serde_json::{json, Value};
use uvm::Uvm;

use crate::common;

/// What QEMU has of devices and nodes, and what the guest has of disks and mounts.
pub type Inventory = (Vec<Value>, String);

/// A directory for control sockets and files, and `uvm` as its user has it.
pub struct Files(tempfile::TempDir);

impl Files {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn sockets(&self) -> Directory {
        Directory::at(self.path("lcow-uvm"))
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_uvm"));
        command
            .args(args)
            .current_dir(self.0.path())
            .env("XDG_RUNTIME_DIR", self.0.path())
            .env("UVM_LAYER_CACHE", common::layer_cache())
            .stdin(Stdio::null());
        command
    }

    pub fn uvm(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs it to success and gives its output.
    #[track_caller]
    pub fn good(&self, args: &[&str]) -> String {
        let output = self.uvm(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs it to the tool's failure and a text that contains this.
    #[track_caller]
    pub fn bad(&self, args: &[&str], says: &str) {
        let output = self.uvm(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{args:?}: {said}");
        assert!(said.contains(says), "{args:?}: {said}");
    }

    /// An ext4 file system with one file.
    pub fn disk(&self, name: &str) {
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

    pub fn convert(&self, from: &str, format: &str, to: &str) {
        let made = Command::new("qemu-img")
            .args(["convert", "-O", format])
            .args([self.path(from), self.path(to)])
            .status();
        assert!(made.unwrap().success());
    }
}

#[track_caller]
pub fn sh(vm: &Uvm, script: &str) -> String {
    let output = vm.external(&["sh", "-c", script]).run().unwrap();
    assert_eq!(output.code, 0, "{script}: {}", output.error_text());
    output.text()
}

/// What QEMU and the guest have of disks, devices and mounts.
pub fn inventory(vm: &Uvm) -> Inventory {
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

/// How often this process, which serves directories, has this one open.
pub fn servers(path: &Path) -> usize {
    let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let open = open.filter_map(|fd| fs::read_link(fd.path()).ok());
    open.filter(|open| open == path).count()
}

/// A child that must not outlive a test that fails.
pub struct Run(pub Child);

impl Drop for Run {
    fn drop(&mut self) {
        // It has ended already if all went well.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Run {
    #[track_caller]
    pub fn code(&mut self) -> i32 {
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
