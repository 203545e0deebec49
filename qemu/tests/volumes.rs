//! Disks of the host in the VM and in containers. Directories: `shares.rs`.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use uvm::Uvm;
use uvm_host::HostError;

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
    let mke2fs = uvm_vm::choice::program("mke2fs").unwrap();
    let made = Command::new(mke2fs)
        .args(["-q", "-F", "-t", "ext4", "-b", "4096"])
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
    assert_eq!(vm.plug_pmem(&layer).unwrap(), 0);
    adding.join().unwrap().unwrap();
    let mounts = vm.external(&["cat", "/proc/mounts"]).run().unwrap().text();
    assert!(
        mounts.contains("/dev/pmem0 /run/layers/p0 ext4 ro"),
        "{mounts}"
    );
    // Without a copy in memory; a part of it as well.
    assert!(mounts.contains("dax=always"), "{mounts}");
    let whole = json!({"DeviceNumber": 0, "MountPath": "/run/layers/p0"});
    vm.modify("VPMemDevice", "Remove", whole).unwrap();
    let part = json!({"DeviceNumber": 0, "MountPath": "/run/layers/part",
        "MappingInfo": {"DeviceOffsetInBytes": 0, "DeviceSizeInBytes": 64 << 20}});
    vm.modify("VPMemDevice", "Add", part).unwrap();
    let mounts = vm.external(&["cat", "/proc/mounts"]).run().unwrap().text();
    let line = mounts
        .lines()
        .find(|line| line.contains("/run/layers/part"));
    assert!(line.unwrap().contains("dax=always"), "{mounts}");
}

/// As a host has the template of its scratch disks made (protocol 11.4), by an image that ships: every
/// program that it runs for that, word for word.
#[test]
fn a_host_finds_its_first_scratch_disk_and_formats_it() {
    let Some(profile) = common::shipped_profile() else {
        return;
    };
    let vm = common::boot_profile(profile);
    let run = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        vm.external(&words).run().unwrap()
    };
    let top = tempfile::tempdir().unwrap();
    let file = top.path().join("scratch");
    fs::File::create(&file).unwrap().set_len(1 << 30).unwrap();
    // Before there is a disk the answer is no, and not an error.
    let early = run("test -d /sys/bus/scsi/devices/0:0:9:0/block");
    assert_eq!((early.code, early.error_text().as_str()), (1, ""));
    let place = vm.plug_disk(&file, "raw", false).unwrap();
    let appeared = json!({"MountPath": "", "Lun": place.lun});
    vm.modify("MappedVirtualDisk", "Add", appeared).unwrap();
    // QEMU's disks differ in their target where Hyper-V's differ in their LUN.
    let listed = run("ls /sys/bus/scsi/devices");
    let names = listed.text();
    let name = names.lines().find(|name| name.contains(":0:"));
    let block = format!("/sys/bus/scsi/devices/{}/block", name.unwrap());
    assert_eq!(run(&format!("test -d {block}")).code, 0);
    let found = run(&format!("ls {block}"));
    assert_eq!((found.code, found.text().as_str()), (0, "sda\n"));
    let missing = run("ls /sys/bus/scsi/devices/none/block");
    assert_eq!((missing.code, missing.text().as_str()), (2, ""));
    let options = "-q -E lazy_itable_init=0,nodiscard -O ^has_journal,sparse_super2,^resize_inode";
    let words = format!("mkfs.ext4 {options} /dev/{}", found.text().trim());
    let words: Vec<&str> = words.split(' ').collect();
    let made = vm.external(&words).run().unwrap();
    assert_eq!((made.code, made.error_text().as_str()), (0, ""));
    vm.eject_disk(place).unwrap();
    let e2fsck = uvm_vm::choice::program("e2fsck").unwrap();
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
    let place = vm.plug_disk(&file, "raw", false).unwrap();
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

#[test]
fn a_container_works_on_disk_images() {
    if !common::has("qemu-img") {
        return;
    }
    let top = tempfile::tempdir().unwrap();
    let raw = top.path().join("disk.img");
    fs::File::create(&raw).unwrap().set_len(16 << 20).unwrap();
    let made = Command::new(uvm_vm::choice::program("mke2fs").unwrap())
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
        let written = common::run(
            &["--disk", &format!("{at}:/data")],
            "echo kept > /data/file",
        );
        let Some(written) = written else {
            return;
        };
        let wrong = String::from_utf8_lossy(&written.stderr);
        assert_eq!(written.status.code(), Some(0), "{wrong}");
        let script = "cat /data/file; if echo x > /data/new; then exit 9; fi";
        let read = common::run(&["--disk", &format!("{at}:/data:ro")], script).unwrap();
        let wrong = String::from_utf8_lossy(&read.stderr);
        assert_eq!(String::from_utf8_lossy(&read.stdout), "kept\n", "{wrong}");
        assert_eq!(read.status.code(), Some(0), "{wrong}");
    }
}
