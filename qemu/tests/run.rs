//! `uvm run` as a person calls it: what fails before any VM is started.

use std::process::{Command, Output};

fn uvm(args: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_uvm"))
        .args(args)
        .env("UVM_LAYER_CACHE", dir.path())
        .env("UVM_KERNEL", "/nowhere/vmlinux")
        .env("UVM_INITRD", "/nowhere/initrd")
        .output()
        .unwrap()
}

/// One sentence on stderr that holds all `parts`, nothing on stdout, this exit code.
fn refuses(args: &[&str], code: i32, parts: &[&str]) {
    let done = uvm(args);
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(code), "{said}");
    assert_eq!(done.stdout, b"");
    for part in parts {
        assert!(said.contains(part), "{said:?} lacks {part:?}");
    }
}

#[test]
fn what_is_wrong_is_said_before_a_vm_starts() {
    let one = |args: &[&str], parts: &[&str]| refuses(args, 125, parts);
    one(
        &["run", "--image", "/nowhere/image"],
        &["uvm: image /nowhere/image", "no such file"],
    );
    one(
        &["run", "--image", "/dev/null"],
        &["/dev/null", "neither a directory nor a file"],
    );
    one(
        &["run", "--image", "/proc/version"],
        &["/proc/version", "archive"],
    );
    one(
        &["run", "--command", "echo 'open"],
        &["--command", "quotation"],
    );
    one(
        &[
            "run",
            "--vsock",
            "none",
            "--image",
            env!("CARGO_MANIFEST_DIR"),
        ],
        &["/nowhere/vmlinux", "cannot be read"],
    );
    one(
        &["run", "--dist", "/nowhere", "--root", "verity"],
        &["/nowhere/rootfs.verity.json", "make dist"],
    );
    one(&["boot", "--root", "pmem"], &["shipping set", "make dist"]);
    refuses(&["run", "--env", "X"], 2, &["NAME=VALUE"]);
    refuses(
        &["run", "--command", "a", "--", "b"],
        2,
        &["cannot be used with"],
    );
}
