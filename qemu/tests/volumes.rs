//! Directories and disks of the host in the VM and in containers, and servers that fail.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use qemu::host::HostError;
use qemu::plan9::{Mood, Server, NAME};
use qemu::uvm::Uvm;
use serde_json::json;

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

    // Dead while it is read from: an error for the reader, and the way out is open.
    let dying = server(&vm);
    add(&vm).unwrap();
    let file = format!("{PATH}/{NAME}");
    assert_eq!(vm.external(&["cat", &file]).run().unwrap().code, 0);
    dying.turn(Mood::Gone);
    let read = vm.external(&["cat", &file]).run().unwrap();
    assert_ne!(read.code, 0);
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
fn persistent_memory_that_comes_late_is_found() {
    let Some(mut profile) = common::profile() else {
        return;
    };
    profile.pmem_slots = 1;
    let vm = common::boot_profile(profile);
    let top = tempfile::tempdir().unwrap();
    let layer = top.path().join("layer");
    fs::File::create(&layer).unwrap().set_len(64 << 20).unwrap();
    let mke2fs = qemu::choice::program("mke2fs").unwrap();
    let made = Command::new(mke2fs)
        .args(["-q", "-F", "-t", "ext4"])
        .arg(&layer)
        .status();
    assert!(made.unwrap().success());
    let host = vm.host().clone();
    let adding = std::thread::spawn(move || {
        let settings = json!({"DeviceNumber": 0, "MountPath": "/run/layers/p0"});
        host.modify("VPMemDevice", "Add", settings)
    });
    // The guest is asked for the device before there is one.
    while !vm
        .dump_stacks()
        .unwrap()
        .contains("adding persistent memory device 0")
    {
        assert!(!adding.is_finished(), "it was found before it was there");
    }
    assert_eq!(vm.attach_pmem(&layer).unwrap(), 0);
    adding.join().unwrap().unwrap();
    let mounts = vm.external(&["cat", "/proc/mounts"]).run().unwrap().text();
    assert!(
        mounts.contains("/dev/pmem0 /run/layers/p0 ext4 ro"),
        "{mounts}"
    );
}

/// As a host has the template of its scratch disks made (protocol 11.4), by an image that ships.
#[test]
fn the_command_mkfs_ext4_of_hosts_makes_a_scratch_disk() {
    let Some(profile) = common::shipped_profile() else {
        return;
    };
    let vm = common::boot_profile(profile);
    let top = tempfile::tempdir().unwrap();
    let file = top.path().join("scratch");
    fs::File::create(&file).unwrap().set_len(1 << 30).unwrap();
    let place = vm.attach_disk(&file, "raw", false).unwrap();
    // The only one, so its name is the first.
    let options = "-q -E lazy_itable_init=0,nodiscard -O ^has_journal,sparse_super2,^resize_inode";
    let words = format!("mkfs.ext4 {options} /dev/sda");
    let words: Vec<&str> = words.split(' ').collect();
    let appeared = json!({"MountPath": "", "Lun": place.lun});
    vm.modify("MappedVirtualDisk", "Add", appeared).unwrap();
    let made = vm.external(&words).run().unwrap();
    assert_eq!((made.code, made.error_text().as_str()), (0, ""));
    vm.detach_disk(place).unwrap();
    let e2fsck = qemu::choice::program("e2fsck").unwrap();
    let checked = Command::new(e2fsck).arg("-fn").arg(&file).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
    vm.mount_disk(&file, false, "/run/scratch").unwrap();
    let wrong = vm.external(&["mkfs.ext4", "/dev/none"]).run().unwrap();
    assert_eq!(wrong.code, 1);
    assert!(
        wrong.error_text().contains("/dev/none"),
        "{}",
        wrong.error_text()
    );
}

/// What a host asks for of a blank disk of 512 MiB that is to be xfs.
fn add_xfs(vm: &Uvm, dir: &Path, encrypted: bool) -> Result<(), HostError> {
    let file = dir.join("blank");
    fs::File::create(&file).unwrap().set_len(512 << 20).unwrap();
    let place = vm.attach_disk(&file, "raw", false).unwrap();
    let settings = json!({"MountPath": "/run/xfs", "Lun": place.lun, "Encrypted": encrypted,
        "EnsureFilesystem": true, "Filesystem": "xfs"});
    vm.modify("MappedVirtualDisk", "Add", settings)
}

#[test]
fn without_mkfs_xfs_the_image_that_has_it_is_named() {
    let Some(profile) = common::shipped_profile() else {
        return;
    };
    let vm = common::boot_profile(profile);
    let top = tempfile::tempdir().unwrap();
    let refusal = add_xfs(&vm, top.path(), false).unwrap_err();
    assert!(
        refusal.to_string().contains("image profile \"xfs\""),
        "{refusal}"
    );
}

#[test]
fn the_image_with_mkfs_xfs_formats_disks_also_encrypted_ones() {
    let Some(profile) = common::xfs_profile() else {
        return;
    };
    for encrypted in [false, true] {
        let vm = common::boot_profile(profile.clone());
        let top = tempfile::tempdir().unwrap();
        add_xfs(&vm, top.path(), encrypted).unwrap();
        let remove = json!({"MountPath": "/run/xfs", "Lun": 0});
        vm.modify("MappedVirtualDisk", "Remove", remove).unwrap();
        vm.power_off().unwrap();
        let begin = fs::read(top.path().join("blank")).unwrap();
        assert_eq!(begin.starts_with(b"XFSB"), !encrypted);
    }
}

/// `uvm run` with the files built by make, or nothing and a word.
fn run(options: &[&str], script: &str) -> Option<std::process::Output> {
    let profile = common::shipped_profile()?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_uvm"));
    command.arg("run").arg("--kernel").arg(&profile.kernel);
    command.arg("--initrd").args(profile.initrd());
    command.args(options).args(["--", "sh", "-c", script]);
    command.env("UVM_LAYER_CACHE", common::layer_cache());
    Some(command.output().unwrap())
}

fn has(program: &str) -> bool {
    let there = qemu::choice::program(program).is_some();
    if !there {
        eprintln!("SKIPPED: {program} is not installed");
    }
    there
}

#[test]
fn a_container_works_on_directories_of_the_host() {
    if !has("diod") {
        return;
    }
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
        cat /only";
    let output = run(
        &[
            "-v",
            &volume(&shared, "/shared"),
            "-v",
            &volume(&sealed, "/sealed:ro"),
            "-v",
            &volume(&sealed.join("note"), "/only:ro"),
        ],
        script,
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
}

#[test]
fn a_container_works_on_disk_images() {
    if !has("qemu-img") {
        return;
    }
    let top = tempfile::tempdir().unwrap();
    let raw = top.path().join("disk.img");
    fs::File::create(&raw).unwrap().set_len(16 << 20).unwrap();
    let made = Command::new(qemu::choice::program("mke2fs").unwrap())
        .args(["-q", "-F", "-t", "ext4"])
        .arg(&raw)
        .status();
    assert!(made.unwrap().success());
    let vhdx = top.path().join("disk.vhdx");
    let made = Command::new("qemu-img")
        .args(["convert", "-O", "vhdx"])
        .args([&raw, &vhdx])
        .status();
    assert!(made.unwrap().success());
    for image in [&raw, &vhdx] {
        let at = image.display();
        let written = run(
            &["--disk", &format!("{at}:/data")],
            "echo kept > /data/file",
        );
        let Some(written) = written else {
            return;
        };
        let wrong = String::from_utf8_lossy(&written.stderr);
        assert_eq!(written.status.code(), Some(0), "{wrong}");
        let script = "cat /data/file; if echo x > /data/new; then exit 9; fi";
        let read = run(&["--disk", &format!("{at}:/data:ro")], script).unwrap();
        let wrong = String::from_utf8_lossy(&read.stderr);
        assert_eq!(String::from_utf8_lossy(&read.stdout), "kept\n", "{wrong}");
        assert_eq!(read.status.code(), Some(0), "{wrong}");
    }
}
