//! `uvm run` with a real guest: the container's streams and exit code are the tool's own, images
//! arrive as they were packed, and nothing is left over.

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use sha2::{Digest, Sha256};

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

/// A layer: path, mode, owner, contents; a path that ends in `/` is a directory, and contents
/// that begin with `->` are a symlink.
fn layer(entries: &[(&str, u32, u64, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, mode, owner, data) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(*mode);
        header.set_uid(*owner);
        header.set_gid(*owner);
        header.set_size(0);
        if let Some(target) = data.strip_prefix(b"->") {
            header.set_entry_type(tar::EntryType::Symlink);
            let target = std::str::from_utf8(target).unwrap();
            tar.append_link(&mut header, path, target).unwrap();
        } else if path.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, path, &b""[..]).unwrap();
        } else {
            header.set_size(data.len() as u64);
            tar.append_data(&mut header, path, *data).unwrap();
        }
    }
    tar.into_inner().unwrap()
}

fn docker_save(layers: &[Vec<u8>], config: serde_json::Value) -> Vec<u8> {
    let digest = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
    let diff_ids: Vec<_> = layers
        .iter()
        .map(|l| format!("sha256:{}", digest(l)))
        .collect();
    let config = json!({"os": "linux", "architecture": "amd64", "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    .to_string()
    .into_bytes();
    let names: Vec<_> = layers
        .iter()
        .map(|l| format!("blobs/sha256/{}", digest(l)))
        .collect();
    let config_name = format!("blobs/sha256/{}", digest(&config));
    let manifest = json!([{"Config": config_name, "RepoTags": ["t:1"], "Layers": names}]);
    let manifest = manifest.to_string();
    let mut files: Vec<(&str, u32, u64, &[u8])> = Vec::new();
    for (name, bytes) in names.iter().zip(layers) {
        files.push((name, 0o644, 0, bytes));
    }
    files.push((&config_name, 0o644, 0, &config));
    files.push(("manifest.json", 0o644, 0, manifest.as_bytes()));
    layer(&files)
}

#[test]
fn layers_lie_on_each_other_as_they_were_packed() {
    let Ok(busybox) = std::fs::read("/usr/bin/busybox").or_else(|_| std::fs::read("/bin/busybox"))
    else {
        return eprintln!("SKIPPED: busybox is not installed (Debian: busybox-static)");
    };
    let bottom = layer(&[
        ("bin/", 0o755, 0, b""),
        ("bin/busybox", 0o755, 0, &busybox),
        ("bin/sh", 0o777, 0, b"->busybox"),
        ("etc/passwd", 0o644, 0, b"app:x:1234:1234::/:/bin/sh\n"),
        ("etc/group", 0o644, 0, b"app:x:1234:\n"),
        ("d/hidden", 0o644, 0, b"x"),
        ("d/kept", 0o644, 0, b"kept"),
        ("opaque/below", 0o644, 0, b"x"),
        ("both", 0o644, 0, b"old"),
    ]);
    let middle = layer(&[("d/.wh.hidden", 0o644, 0, b""), ("both", 0o644, 0, b"new")]);
    let top = layer(&[
        ("opaque/", 0o750, 1234, b""),
        ("opaque/.wh..wh..opq", 0o644, 0, b""),
        ("opaque/above", 0o4755, 1234, b"y"),
    ]);
    let config = json!({"Entrypoint": ["/bin/sh", "-c"], "Cmd": ["exit 3"], "Env": ["A=1"],
        "WorkingDir": "/opaque", "User": "app"});
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image.tar");
    std::fs::write(&image, docker_save(&[bottom, middle, top], config)).unwrap();
    let image = image.to_str().unwrap();

    let script = "b=/bin/busybox; $b ls /d /opaque; $b cat /both; echo; $b stat -c '%a %u' above; \
        pwd; echo $A; $b id -u; echo mine > new && $b cat new; $b rm above; $b ls";
    let Some(done) = run(&["--image", image, "--", script], b"") else {
        return;
    };
    let expected = "/d:\nkept\n\n/opaque:\nabove\nnew\n4755 1234\n/opaque\n1\n1234\nmine\nnew\n";
    said(&done, 0, expected);
    // Writes went to a scratch disk that is gone.
    let script = "/bin/busybox ls /opaque; exit 4";
    said(
        &run(&["--image", image, "--", script], b"").unwrap(),
        4,
        "above\n",
    );
    said(&run(&["--image", image], b"").unwrap(), 3, "");
}

/// A file with the capability to change owners, as a tar entry with its PAX header.
fn capable(tar: &mut tar::Builder<Vec<u8>>, path: &str, data: &[u8]) {
    // Version 2 and "effective"; CAP_CHOWN is bit 0.
    let capability = b"\x01\0\0\x02\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let records = [("SCHILY.xattr.security.capability", &capability[..])];
    tar.append_pax_extensions(records).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o755);
    header.set_size(data.len() as u64);
    tar.append_data(&mut header, path, data).unwrap();
}

#[test]
fn a_layer_is_made_with_sight_of_those_below() {
    let Ok(busybox) = std::fs::read("/usr/bin/busybox").or_else(|_| std::fs::read("/bin/busybox"))
    else {
        return eprintln!("SKIPPED: busybox is not installed (Debian: busybox-static)");
    };
    let mut bottom = tar::Builder::new(layer(&[
        ("bin/", 0o755, 0, b""),
        ("bin/busybox", 0o755, 0, &busybox),
        ("tmp/", 0o1777, 0, b""),
        ("data/", 0o700, 1000, b""),
        ("data/a", 0o600, 1000, b"a"),
        ("usr/lib/", 0o755, 0, b""),
        ("usr/lib/old.so", 0o644, 0, b"old"),
        ("lib", 0o777, 0, b"->usr/lib"),
        ("gone/deep/x", 0o644, 0, b""),
    ]));
    // The builder began an archive of its own: what `layer` made is in front, less its end.
    let end = bottom.get_ref().len() - 1024;
    bottom.get_mut().truncate(end);
    capable(&mut bottom, "bin/busybox-own", &busybox);
    let mut top = tar::Builder::new(layer(&[
        ("tmp/x", 0o644, 0, b""),
        ("data/b", 0o644, 0, b"b"),
        ("lib/new.so", 0o644, 0, b"new"),
        (".wh.gone", 0o644, 0, b""),
        ("gone/deep/.wh.x", 0o644, 0, b""),
        ("n/Icon\r", 0o644, 0, b""),
        ("n/a\nb", 0o644, 0, b""),
    ]));
    let end = top.get_ref().len() - 1024;
    top.get_mut().truncate(end);
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Link);
    link.set_size(0);
    top.append_link(&mut link, "hard", "data/a").unwrap();

    let layers = [bottom.into_inner().unwrap(), top.into_inner().unwrap()];
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image.tar");
    std::fs::write(&image, docker_save(&layers, json!({}))).unwrap();
    let image = image.to_str().unwrap();
    let script = "b=/bin/busybox; $b stat -c '%a %u:%g %n' /tmp /data; $b cat /hard /data/b /lib/old.so \
        /usr/lib/new.so; echo; $b readlink /lib; $b stat -c %h /hard; cd /n; for f in *; do $b printf %s \"$f\" | \
        $b od -An -tx1; done; $b test -e /gone || echo gone";
    let Some(done) = run(
        &["--image", image, "--", "/bin/busybox", "sh", "-c", script],
        b"",
    ) else {
        return;
    };
    let expected = "1777 0:0 /tmp\n700 1000:1000 /data\naboldnew\nusr/lib\n2\n 49 63 6f 6e 0d\n \
        61 0a 62\ngone\n";
    said(&done, 0, expected);
    // A capability of a file is one for whoever runs it.
    let script = "b=/bin/busybox; $b touch /tmp/f; $b chown 0 /tmp/f 2>/dev/null || echo not yet; \
        /bin/busybox-own chown 0 /tmp/f && $b stat -c %u /tmp/f";
    let words = [
        "--image",
        image,
        "-u",
        "1000:1000",
        "--",
        "/bin/busybox",
        "sh",
        "-c",
        script,
    ];
    said(&run(&words, b"").unwrap(), 0, "not yet\n0\n");
}

/// Debian as debootstrap makes it, kept between runs; `None` and a loud word when it cannot be had.
fn debian() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian-bookworm");
    if root.exists() {
        return Some(root);
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: debootstrap wants root");
        return None;
    }
    let making = root.with_extension("making");
    drop(std::fs::remove_dir_all(&making));
    let done = Command::new("debootstrap")
        .args(["--variant=minbase", "bookworm"])
        .arg(&making)
        .stdin(Stdio::null())
        .output();
    match done {
        Ok(done) if done.status.success() => {
            std::fs::rename(&making, &root).unwrap();
            Some(root)
        }
        Ok(done) => {
            let words = String::from_utf8_lossy(&done.stdout);
            let last = words.lines().last().unwrap_or_default();
            eprintln!("SKIPPED: debootstrap failed ({}): {last}", done.status);
            None
        }
        Err(e) => {
            eprintln!("SKIPPED: debootstrap (Debian: debootstrap): {e}");
            None
        }
    }
}

#[test]
fn a_real_debian_runs_real_programs() {
    if common::kernel().is_none() || common::initrd().is_none() {
        return;
    }
    let Some(root) = debian() else {
        return;
    };
    let script = "apt --version | cut -d' ' -f1; perl -e 'print 6*7, qq(\\n)'; \
        stat -c '%a %U %G' /usr/bin/passwd /var/mail; echo x > /usr/x && dpkg -L dash | grep -c bin";
    let root = root.to_str().unwrap();
    let done = run(&["--image", root, "--", "sh", "-c", script], b"").unwrap();
    said(&done, 0, "apt\n42\n4755 root root\n2775 root mail\n4\n");
}
