//! The disk for Hyper-V machines of generation 2, booted by UEFI firmware: `make disk`.

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use image::{efi, uki};
use uvm::Uvm;
use uvm_vm::profile::{ColdDisk, Profile, Root};

use common::image::Image;
use common::LONG;

const FIRMWARE: &str = "/usr/share/ovmf/OVMF.fd";

/// A VM that has only the disk and firmware. It gets a copy that can be written, as on Hyper-V:
/// firmware of 2025 finds no program on a disk that is read-only.
fn profile(disk: &Path, top: &Path) -> Option<Profile> {
    if !Path::new(FIRMWARE).exists() {
        eprintln!("SKIPPED: {FIRMWARE} is not there (Debian: ovmf), so nothing boots by UEFI");
        return None;
    }
    let copy = top.join("uvm-gen2.vhdx");
    std::fs::copy(disk, &copy).unwrap();
    let mut profile = Profile::new("/nowhere", None);
    // Firmware, program and what it unpacks are in memory at once.
    profile.memory_mib = 512;
    profile.root = Some(Root::Uefi {
        firmware: FIRMWARE.into(),
        disk: ColdDisk {
            read_only: false,
            ..ColdDisk::boot(copy)
        },
    });
    Some(profile)
}

#[test]
fn the_disk_boots_by_uefi_serves_its_host_and_gives_a_shell_on_com1() {
    let Some(disk) = common::built("UVM_GEN2_DISK", "uvm-gen2.vhdx") else {
        return;
    };
    let top = tempfile::tempdir().unwrap();
    let (Some(profile), Some(image)) = (profile(&disk, top.path()), Image::open()) else {
        return;
    };
    let vm: Uvm = common::boot_profile(profile);
    let out = image.run(&vm, "c", &["/bin/sh", "-c", "cat; uname -r; exit 3"], |l| {
        l.input("through\n")
    });
    assert_eq!(out.code, 3, "{}", out.error_text());
    assert!(out.text().starts_with("through\n6."), "{}", out.text());

    // Firmware has set the machine up, not QEMU.
    let efi = vm.external(&["/bin/sh", "-c", "ls /sys/firmware/efi && cat /proc/cmdline"]);
    let efi = efi.run().unwrap();
    assert_eq!(
        efi.code,
        0,
        "the kernel knows of no UEFI: {}",
        efi.error_text()
    );
    let line = "console=ttyS0,115200 panic=60 brd.rd_nr=0 pmtmr=0 -- -e 1 sh -c";
    assert!(efi.text().contains(line), "{}", efi.text());

    let deadline = Instant::now() + LONG;
    while !vm.vm().console().tail(200).contains("/ # ") {
        assert!(
            Instant::now() < deadline,
            "no shell on COM1: {}",
            vm.vm().console().tail(40)
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    vm.power_off().unwrap();
}

/// What is on the disk is what was built, and nothing of the machine that built it.
#[test]
fn the_disk_holds_the_kernel_and_initrd_of_this_build() {
    let Some(disk) = common::built("UVM_GEN2_DISK", "uvm-gen2.vhdx") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    let convert = ["convert", "-f", "vhdx", "-O", "raw"];
    let done = std::process::Command::new("qemu-img")
        .args(convert)
        .args([&disk, &raw])
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    let program = efi::read(&std::fs::read(&raw).unwrap(), efi::BOOT_PROGRAM).unwrap();
    let sections = uki::sections(&program).unwrap();
    let section = |name: &str| {
        sections
            .iter()
            .find(|(at, _)| at == name)
            .map(|(_, bytes)| *bytes)
            .unwrap()
    };
    let kernel = common::built("UVM_BZIMAGE", "bzImage").unwrap();
    assert!(
        section(".linux") == std::fs::read(kernel).unwrap(),
        "another kernel"
    );
    let initrd = common::built("UVM_BRINGUP_INITRD", "initrd-bringup.img").unwrap();
    assert!(
        section(".initrd") == std::fs::read(initrd).unwrap(),
        "another initrd"
    );
}
