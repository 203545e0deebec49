//! Directories of the host in the VM and in containers, and servers that fail.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use sha2::{Digest, Sha256};
use uvm::attachment::Attachment;
use uvm::plan9::{Mood, Server, NAME};
use uvm::Uvm;
use uvm_host::HostError;

use common::LONG;

const PATH: &str = "/run/share";
const PORT: u32 = 564;
/// The guest gives a silent server 20 s; under emulation, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn add(vm: &Uvm) -> Result<(), HostError> {
    vm.modify(
        "MappedDirectory",
        "Add",
        json!({"MountPath": PATH, "Port": PORT}),
    )
}

fn remove(vm: &Uvm) -> Result<(), HostError> {
    vm.modify("MappedDirectory", "Remove", json!({"MountPath": PATH}))
}

/// The server of the next connection.
fn server(vm: &Uvm) -> Server {
    let server = Server::default();
    let taker = server.clone();
    vm.on_dial(PORT, move |stream| taker.serve(stream)).unwrap();
    server
}

fn is_mounted(vm: &Uvm) -> bool {
    let mounts = vm.external(&["cat", "/proc/mounts"]).run().unwrap().text();
    mounts.contains(&format!(" {PATH} "))
}

#[test]
fn a_server_that_is_silent_or_dies_costs_its_request_and_nothing_else() {
    let Some(vm) = common::boot() else {
        return;
    };
    // Silent from the start: the Add fails, nothing stays, and meanwhile the VM goes on.
    server(&vm).turn(Mood::Silent);
    let began = Instant::now();
    let host = vm.host().clone();
    let adding = std::thread::spawn(move || {
        host.modify(
            "MappedDirectory",
            "Add",
            json!({"MountPath": PATH, "Port": PORT}),
        )
    });
    assert_eq!(vm.external(&["true"]).run().unwrap().code, 0);
    let refusal = adding.join().unwrap().unwrap_err();
    assert!(refusal.refused().is_some(), "{refusal}");
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    let left = vm.external(&["ls", "-d", PATH]).run().unwrap();
    assert_ne!(left.code, 0, "the directory stayed");

    // Dead while much is read from it: an error for each reader, and the way out is open.
    let dying = Server::of_zeros(1 << 40);
    let taker = dying.clone();
    vm.on_dial(PORT, move |stream| taker.serve(stream)).unwrap();
    add(&vm).unwrap();
    let file = format!("{PATH}/{NAME}");
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let reader = vm.external(&["dd", &format!("if={file}"), "of=/dev/null", "bs=64k"]);
            reader.without_stdout().start().unwrap()
        })
        .collect();
    let deadline = Instant::now() + PATIENCE;
    while dying.seen().reads < 100 {
        assert!(Instant::now() < deadline, "nobody reads");
        std::thread::yield_now();
    }
    dying.turn(Mood::Gone);
    for reader in readers {
        let out = reader.collect(Vec::new(), PATIENCE).unwrap();
        assert_ne!(out.code, 0, "{}", out.error_text());
    }
    assert!(is_mounted(&vm));
    remove(&vm).unwrap();
    assert!(!is_mounted(&vm));

    // Silent later: the unmount waits for it, and not for ever.
    let tired = server(&vm);
    add(&vm).unwrap();
    tired.turn(Mood::Silent);
    let began = Instant::now();
    remove(&vm).unwrap();
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert!(!is_mounted(&vm));

    // All is as at the start.
    server(&vm);
    add(&vm).unwrap();
    assert_eq!(vm.external(&["cat", &file]).run().unwrap().code, 0);
    remove(&vm).unwrap();
    let dump = vm.dump_stacks().unwrap();
    assert!(dump.contains("mapped directories 0"), "{dump}");
    vm.power_off().unwrap();
}

#[test]
fn a_container_works_on_directories_of_the_host() {
    let top = tempfile::tempdir().unwrap();
    let (shared, sealed) = (top.path().join("shared"), top.path().join("sealed"));
    for directory in [&shared, &sealed] {
        fs::create_dir(directory).unwrap();
    }
    let content: Vec<u8> = (0..8_u32 << 20).map(|at| (at ^ at >> 11) as u8).collect();
    fs::write(shared.join("big"), &content).unwrap();
    fs::write(sealed.join("note"), "sealed").unwrap();
    let volume = |path: &Path, rest: &str| format!("{}:{rest}", path.display());
    let script = "set -e
        cd /shared
        cp big copy; cmp big copy; sha256sum big | cut -c1-64
        mkdir many; for n in $(seq 500); do echo $n > many/$n; done; ls many | wc -l
        mv many/1 many/one; ln -s many/one link; cat link; chmod 600 link; rm many/2
        cat /sealed/note; if echo x > /sealed/note; then exit 9; fi
        cat /only
        # The directory of somebody is renamed, and a link that leads out takes its place.
        mkdir -p /shared/d/victim; cd /shared/d/victim; mv /shared/d /shared/x
        ln -s OUTSIDE /shared/d; echo owned > owned; if cat secret 2> /dev/null; then exit 8; fi";
    let outside = top.path().join("outside");
    fs::create_dir_all(outside.join("victim")).unwrap();
    fs::write(outside.join("victim/secret"), "secret").unwrap();
    let script = script.replace("OUTSIDE", outside.to_str().unwrap());
    let output = common::run(
        &[
            "-v",
            &volume(&shared, "/shared"),
            "-v",
            &volume(&sealed, "/sealed:ro"),
            "-v",
            &volume(&sealed.join("note"), "/only:ro"),
        ],
        &script,
    );
    let Some(output) = output else {
        return;
    };
    let (said, wrong) = (output.stdout, String::from_utf8_lossy(&output.stderr));
    let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&content));
    assert_eq!(
        String::from_utf8_lossy(&said),
        format!("{digest}\n500\n1\nsealedsealed"),
        "{wrong}"
    );
    assert_eq!(output.status.code(), Some(0), "{wrong}");
    // What was done there is here.
    assert!(fs::read(shared.join("copy")).unwrap() == content);
    assert_eq!(fs::read(shared.join("many/one")).unwrap(), b"1\n");
    assert_eq!(
        fs::read_link(shared.join("link")).unwrap(),
        Path::new("many/one")
    );
    assert_eq!(fs::read_dir(shared.join("many")).unwrap().count(), 499);
    assert_eq!(fs::read(sealed.join("note")).unwrap(), b"sealed");
    assert_eq!(fs::read(shared.join("x/victim/owned")).unwrap(), b"owned\n");
    assert_eq!(fs::read_dir(outside.join("victim")).unwrap().count(), 1);
}

/// A directory of this machine in a VM with a shell; nothing and a word when something is missing.
fn shared() -> Option<(Uvm, tempfile::TempDir, Attachment)> {
    let vm = common::boot()?;
    let top = tempfile::tempdir().unwrap();
    let share = Attachment::share(&vm, top.path(), PATH, false).unwrap();
    Some((vm, top, share))
}

/// Runs a script in the shared directory; what it says.
fn sh(vm: &Uvm, script: &str) -> String {
    let launch = vm.external(&["/bin/sh", "-ec", script]);
    let out = launch.cwd(PATH).limit(4 * LONG).run().unwrap();
    assert_eq!(out.code, 0, "{script}: {}", out.error_text());
    out.text()
}

/// A size that a variable of this name sets; the full ones are 1024 MiB and 10,000 files, which
/// take minutes where all is emulated.
fn size(variable: &str, usual: u64, full: u64) -> u64 {
    let wanted = std::env::var(variable);
    let size = wanted.map_or(usual, |text| {
        text.parse().expect("the variable is a number")
    });
    if size < full {
        eprintln!("REDUCED: {size} instead of {full}; {variable}={full} has it all");
    }
    size
}

fn digest(path: &Path) -> String {
    let mut file = fs::File::open(path).unwrap();
    let (mut hash, mut block) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut block).unwrap() {
            0 => return hex::encode(hash.finalize()),
            got => hash.update(&block[..got]),
        }
    }
}

#[test]
fn a_large_file_is_copied_to_and_fro() {
    let Some((vm, top, mut share)) = shared() else {
        return;
    };
    let mib = size("UVM_SHARE_MIB", 64, 1024);
    let (big, back) = (top.path().join("big"), top.path().join("back"));
    let mut file = fs::File::create(&big).unwrap();
    let mut block: Vec<u8> = (0..1_u32 << 20).map(|at| (at ^ at >> 11) as u8).collect();
    for number in 0..mib {
        // No two pages are the same.
        for (page, bytes) in block.chunks_mut(4096).enumerate() {
            bytes[..8].copy_from_slice(&(number << 8 | page as u64).to_le_bytes());
        }
        file.write_all(&block).unwrap();
    }
    drop(file);
    let began = Instant::now();
    sh(&vm, "cp big back");
    println!(
        "{} MiB/s",
        2 * mib * 1000 / began.elapsed().as_millis() as u64
    );
    assert_eq!(digest(&back), digest(&big));
    // What the guest reads is what is there.
    let sum = sh(&vm, "head -c 16777216 big | sha256sum | cut -c1-64");
    let mut begin = vec![0; 16 << 20];
    fs::File::open(&big)
        .unwrap()
        .read_exact(&mut begin)
        .unwrap();
    assert_eq!(sum.trim(), hex::encode(Sha256::digest(&begin)));
    share.remove(&vm).unwrap();
}

#[test]
fn many_small_files_come_and_go() {
    let Some((vm, top, mut share)) = shared() else {
        return;
    };
    let files = size("UVM_SHARE_FILES", 500, 10_000);
    sh(
        &vm,
        &format!(
            "mkdir many; n=0; while [ $n -lt {files} ]; do echo $n > many/$n; n=$((n+1)); done"
        ),
    );
    let many = top.path().join("many");
    let names = || -> BTreeSet<String> {
        let entries = fs::read_dir(&many).unwrap();
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let names = entries.map(name);
        names.map(|name| name.into_string().unwrap()).collect()
    };
    let wanted: BTreeSet<String> = (0..files).map(|number| number.to_string()).collect();
    assert!(names() == wanted, "the files are not those that were made");
    for name in &wanted {
        assert_eq!(
            fs::read_to_string(many.join(name)).unwrap(),
            format!("{name}\n")
        );
    }
    // Listed and read by the guest, each once.
    let seen = sh(
        &vm,
        "ls many | sort | uniq | wc -l; cd many; find . -type f | xargs cat | sort | uniq | wc -l",
    );
    assert_eq!(seen, format!("{files}\n{files}\n"));
    sh(&vm, "rm -r many/[1-9]*");
    assert_eq!(names(), BTreeSet::from(["0".to_owned()]));
    share.remove(&vm).unwrap();
}

#[test]
fn modes_links_and_names_are_those_of_the_host() {
    let Some((vm, top, mut share)) = shared() else {
        return;
    };
    let at = |name: &str| top.path().join(name);
    let mode = |name: &str| fs::metadata(at(name)).unwrap().permissions().mode() & 0o7777;
    sh(
        &vm,
        "umask 0; echo 1 > file; chmod 4751 file; mkdir -m 1770 dir; echo 2 > dir/two
         ln -s ../nowhere dangling; ln -s dir/two two; ln file hard; echo 3 >> file
         mkfifo pipe; echo x > 'a name: with, all'",
    );
    assert_eq!((mode("file"), mode("dir")), (0o4751, 0o1770));
    assert_eq!(
        fs::read_link(at("dangling")).unwrap(),
        Path::new("../nowhere")
    );
    assert_eq!(fs::read_to_string(at("two")).unwrap(), "2\n");
    assert_eq!(fs::metadata(at("hard")).unwrap().nlink(), 2);
    assert_eq!(fs::read_to_string(at("hard")).unwrap(), "1\n3\n");
    assert!(at("a name: with, all").exists());
    // A file over another one, a directory with all that is in it, one that is in use.
    let said = sh(
        &vm,
        "echo old > target; mv file target; cat target; mv dir moved; cat moved/two
         exec 3< target; mv target elsewhere; cat <&3; test ! -e file -a ! -e target
         readlink dangling; stat -c '%a %h' elsewhere; rm pipe dangling
         if mkdir moved 2> /dev/null; then exit 9; fi; if rmdir moved 2> /dev/null; then exit 8; fi
         truncate -s 1 elsewhere; cat elsewhere",
    );
    assert_eq!(said, "1\n3\n2\n1\n3\n../nowhere\n4751 2\n1");
    assert!(!at("pipe").exists() && at("dangling").symlink_metadata().is_err());
    // What the host changes is seen at once.
    fs::rename(at("moved"), at("again")).unwrap();
    fs::write(at("again/two"), "longer than before").unwrap();
    fs::set_permissions(at("again/two"), fs::Permissions::from_mode(0o600)).unwrap();
    let seen = sh(
        &vm,
        "test ! -e moved; cat again/two; stat -c ' %a' again/two",
    );
    assert_eq!(seen, "longer than before 600\n");
    share.remove(&vm).unwrap();
}

#[test]
fn the_kernel_line_makes_messages_larger() {
    let Some(mut profile) = common::profile() else {
        return;
    };
    profile.kernel_options.push("gcs.9p_msize=1048576".into());
    let vm = common::boot_profile(profile);
    let length = 16 << 20;
    let large = Server::of_zeros(length);
    let taker = large.clone();
    vm.on_dial(PORT, move |stream| taker.serve(stream)).unwrap();
    add(&vm).unwrap();
    let file = format!("{PATH}/{NAME}");
    let sum = vm.external(&["sha256sum", &file]).run().unwrap().text();
    let zeros = hex::encode(Sha256::digest(vec![0; length as usize]));
    assert_eq!(sum.split(' ').next(), Some(zeros.as_str()));
    assert_eq!(large.seen().message_size, 1 << 20);
    remove(&vm).unwrap();
}
