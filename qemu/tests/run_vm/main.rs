//! `uvm run` with a real guest: the container's streams and exit code are the tool's own, images
//! (`images.rs`) arrive as they were packed, signals (`signals.rs`) are passed on, and nothing is left
//! over.

#[path = "../common/mod.rs"]
mod common;
mod images;
mod signals;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A run of `uvm run ARGS` with a directory of its own for temporary files.
fn run(args: &[&str], input: &[u8]) -> Option<Output> {
    let (kernel, initrd) = (common::kernel()?, common::initrd()?);
    let temp = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_uvm"))
        .arg("run")
        .args(args)
        .env("UVM_KERNEL", kernel)
        .env("UVM_INITRD", initrd)
        .env(
            "UVM_LAYER_CACHE",
            Path::new(env!("CARGO_TARGET_TMPDIR")).join("layers"),
        )
        .env("TMPDIR", temp.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || {
        // A program that does not read its input breaks the pipe.
        drop(stdin.write_all(&input));
    });
    let output = child.wait_with_output().unwrap();
    feeding.join().unwrap();
    let left: Vec<PathBuf> = std::fs::read_dir(temp.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(left, Vec::<PathBuf>::new(), "files left behind");
    assert_eq!(
        with_path(temp.path()),
        Vec::<String>::new(),
        "processes left behind"
    );
    Some(output)
}

/// Processes and mounts of this machine that name a path.
fn with_path(path: &Path) -> Vec<String> {
    let path = path.to_str().unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        if words.contains(path) {
            found.push(words);
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    found.extend(
        mounts
            .lines()
            .filter(|line| line.contains(path))
            .map(str::to_owned),
    );
    found
}

#[track_caller]
fn said(output: &Output, code: i32, stdout: &str) {
    let err = String::from_utf8_lossy(&output.stderr);
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        (output.status.code(), &*out),
        (Some(code), stdout),
        "stderr: {err}"
    );
}

#[test]
fn streams_and_exit_code_are_the_containers() {
    let input: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 253) as u8).collect();
    let command = r#"sh -c "cat; echo to stderr >&2; exit 7""#;
    let Some(done) = run(&["--command", command], &input) else {
        return;
    };
    assert_eq!(done.status.code(), Some(7));
    assert_eq!(String::from_utf8_lossy(&done.stderr), "to stderr\n");
    assert_eq!(done.stdout.len(), input.len());
    assert!(done.stdout == input, "the bytes differ");
}

#[test]
fn a_container_whose_output_nobody_reads_ends() {
    let (Some(kernel), Some(initrd)) = (common::kernel(), common::initrd()) else {
        return;
    };
    let mut child = Command::new(env!("CARGO_BIN_EXE_uvm"))
        .args(["run", "--", "yes"])
        .env("UVM_KERNEL", kernel)
        .env("UVM_INITRD", initrd)
        .env(
            "UVM_LAYER_CACHE",
            Path::new(env!("CARGO_TARGET_TMPDIR")).join("layers"),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut first = [0; 2];
    std::io::Read::read_exact(&mut child.stdout.take().unwrap(), &mut first).unwrap();
    assert_eq!(&first, b"y\n");
    // Killed, not waited for: hangs here otherwise.
    assert_eq!(child.wait().unwrap().code(), Some(137));
}

#[test]
fn the_default_shows_the_machine() {
    let Some(done) = run(&[], b"") else {
        return;
    };
    let out = String::from_utf8(done.stdout).unwrap();
    assert_eq!(done.status.code(), Some(0), "{out}");
    for part in ["Linux 6.", "Mem:", "/ (overlay)", "/proc (proc)", "1 root"] {
        assert!(out.contains(part), "{out:?} lacks {part:?}");
    }
}

#[test]
fn options_reach_the_container() {
    let script = "id -u; id -g; pwd; echo $A; hostname; sleep 9 & kill -9 $!; wait $!";
    let options = [
        "-u",
        "user",
        "-w",
        "/tmp",
        "-e",
        "A=b c",
        "--hostname",
        "box",
    ];
    let args = [&options[..], &["--", "sh", "-c", script]].concat();
    if let Some(done) = run(&args, b"") {
        said(&done, 137, "1000\n1000\n/tmp\nb c\nbox\n");
    }
}

#[test]
fn users_without_privileges_may_open_low_ports_and_ping() {
    // The server goes into the background once it has its port.
    let script = "cd /proc/sys/net/ipv4; cat ip_unprivileged_port_start ping_group_range; \
        httpd -p 80 -h / && echo bound";
    // The container has a network of its own in either case; only the first one leads anywhere.
    for options in [&["--net"][..], &[]] {
        let args = [options, &["-u", "user", "--", "sh", "-c", script]].concat();
        if let Some(done) = run(&args, b"") {
            said(&done, 0, "0\n0\t2147483647\nbound\n");
        }
    }
}

#[test]
fn volumes_below_each_other_are_seen_in_any_order() {
    // Root's, so a 9P server that looks as another user cannot get to what is below it.
    let private = tempfile::tempdir().unwrap();
    let mode = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(private.path(), mode).unwrap();
    for name in ["outer", "inner, too"] {
        let directory = private.path().join(name);
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("name"), name).unwrap();
    }
    let outer = format!("{}/outer:/p", private.path().display());
    let inner = format!("{}/inner, too:/p/child", private.path().display());
    let script = "cat /p/name /p/child/name; echo new > /p/child/new";
    for volumes in [[&outer, &inner], [&inner, &outer]] {
        let args = ["-v", volumes[0], "-v", volumes[1], "--", "sh", "-c", script];
        if let Some(done) = run(&args, b"") {
            said(&done, 0, "outerinner, too");
            let new = std::fs::read(private.path().join("inner, too/new"));
            assert_eq!(new.unwrap(), b"new\n");
        }
    }
}

#[test]
fn a_command_that_cannot_be_run_is_named() {
    // The last one is there. What is missing is its user.
    let cases = [
        ("root", "/bin/nothing-of-this-name", 127),
        ("root", "/etc/passwd", 126),
        ("nobody-of-this-name", "/bin/true", 126),
    ];
    for (user, program, code) in cases {
        let Some(done) = run(&["-u", user, "--", program], b"") else {
            return;
        };
        said(&done, code, "");
        let err = String::from_utf8_lossy(&done.stderr);
        assert!(
            err.starts_with(&format!("uvm: {program} cannot be run: ")),
            "{err}"
        );
    }
}

#[test]
fn a_container_reaches_this_machine_and_is_reached_by_a_forwarded_port() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        stream.write_all(b"from outside\n").unwrap();
    });
    // Free now, and most likely still in a moment.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let forward = free.local_addr().unwrap().port();
    drop(free);
    let asking = std::thread::spawn(move || ask(forward));
    let script = format!("nc 10.0.2.2 {port} </dev/null; echo from inside | nc -l -p 80; exit 5");
    let publish = format!("{forward}:80");
    if let Some(done) = run(&["-p", &publish, "--", "sh", "-c", &script], b"") {
        said(&done, 5, "from outside\n");
        assert_eq!(asking.join().unwrap(), "from inside\n");
    }
}

/// What is said at the port once somebody says something there.
fn ask(port: u16) -> String {
    let deadline = Instant::now() + Duration::from_secs(180);
    while Instant::now() < deadline {
        let mut said = String::new();
        // Before the VM is up nobody listens; before the container does, it is a reset.
        if let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            stream.read_to_string(&mut said).ok();
        }
        if !said.is_empty() {
            return said;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    "nothing".into()
}
