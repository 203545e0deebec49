//! The disk that UEFI boots: what the firmware will find on it, the same bytes for the same parts, and
//! a VHDX that another program reads.

use std::fs;
use std::path::Path;
use std::process::Command;

use image::{efi, uki, vhdx};
use tempfile::TempDir;

const MIB: usize = 1 << 20;

/// A PE program for UEFI with one section, as small as they come.
fn program(code: &[u8], machine: u16) -> Vec<u8> {
    let mut file = vec![0; 1024];
    file[..2].copy_from_slice(b"MZ");
    file[0x3c] = 0x80;
    file[0x80..0x84].copy_from_slice(b"PE\0\0");
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x84, &machine.to_le_bytes());
    put(0x86, &1_u16.to_le_bytes());
    // A time, which must go.
    put(0x88, &0x1234_5678_u32.to_le_bytes());
    put(0x94, &240_u16.to_le_bytes());
    let optional = 0x98;
    put(optional, &0x20b_u16.to_le_bytes());
    for (at, value) in [(32, 512_u32), (36, 512), (56, 0x3000), (60, 1024), (64, 77)] {
        put(optional + at, &value.to_le_bytes());
    }
    put(optional + 68, &10_u16.to_le_bytes());
    let row = optional + 240;
    put(row, b".text");
    let stored = code.len().next_multiple_of(512) as u32;
    for (at, value) in [
        (8, code.len() as u32),
        (12, 0x1000),
        (16, stored),
        (20, 1024),
    ] {
        put(row + at, &value.to_le_bytes());
    }
    file.extend_from_slice(code);
    file.resize(1024 + stored as usize, 0);
    // Symbols, which nobody loads.
    file.extend_from_slice(b"symbols");
    file
}

fn unify(stub: &[u8], kernel: &[u8]) -> Result<Vec<u8>, image::Error> {
    uki::unify(&uki::Parts {
        stub,
        kernel,
        initrd: b"the initrd",
        command_line: "console=ttyS0 -- -e 1",
    })
}

#[test]
fn the_parts_are_sections_of_the_program_and_nothing_else_changed() {
    let stub = program(b"the stub", 0x8664);
    let kernel = program(&[7; 9000], 0x8664);
    let image = unify(&stub, &kernel).unwrap();
    let expected: [(&str, &[u8]); 4] = [
        (".text", b"the stub"),
        (".cmdline", b"console=ttyS0 -- -e 1"),
        (".linux", &kernel),
        (".initrd", b"the initrd"),
    ];
    let found = uki::sections(&image).unwrap();
    let found: Vec<(&str, &[u8])> = found
        .iter()
        .map(|(name, bytes)| (name.as_str(), *bytes))
        .collect();
    assert_eq!(found, expected);

    let word = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap());
    assert_eq!(
        word(0x88),
        0,
        "the time of the stub's build is in the image"
    );
    assert_eq!(
        word(0x98 + 64),
        0,
        "the stub's checksum is that of another file"
    );
    // In memory: on pages, in order, none inside another, and all of it announced.
    let rows: Vec<(u32, u32)> = (0..4)
        .map(|n| 0x98 + 240 + n * 40)
        .map(|row| (word(row + 12), word(row + 8)))
        .collect();
    for pair in rows.windows(2) {
        assert!(
            pair[0].0 + pair[0].1 <= pair[1].0 && pair[1].0 % 4096 == 0,
            "{rows:x?}"
        );
    }
    assert!(rows[3].0 + rows[3].1 <= word(0x98 + 56), "{rows:x?}");
}

#[test]
fn what_uefi_cannot_start_is_refused() {
    let good = program(b"x", 0x8664);
    let said = |stub: &[u8], kernel: &[u8]| unify(stub, kernel).unwrap_err().to_string();
    assert!(said(&good, b"\x7fELF vmlinux").contains("the kernel cannot be started by UEFI"));
    assert!(said(b"", &good).contains("the stub: it is no PE program"));
    assert!(said(&program(b"x", 0x14c), &good).contains("no UEFI application for x86-64"));
    assert!(said(&good[..0x90], &good).contains("cut short"));
    // Sections' headers up to the first section: there is no room for three more.
    let mut full = good.clone();
    full[0x86] = 17;
    assert!(
        said(&full, &good).contains("no room"),
        "{}",
        said(&full, &good)
    );
}

#[test]
fn firmware_finds_the_files_and_the_same_files_give_the_same_disk() {
    let long = vec![5; 3 * MIB + 1];
    let files: [(&str, &[u8]); 2] = [
        (efi::BOOT_PROGRAM, b"a program"),
        ("deep/er/file.bin", &long),
    ];
    let disk = efi::disk(&files).unwrap();
    assert_eq!(disk.len(), 66 * MIB);
    for (path, bytes) in files {
        assert_eq!(efi::read(&disk, path).unwrap(), bytes, "{path}");
    }
    assert!(efi::read(&disk, "EFI/BOOT/OTHER.EFI").is_err());
    assert_eq!(&disk[510..512], &[0x55, 0xaa], "there is no protective MBR");
    // FAT32 by its number of clusters, which is how everybody tells.
    let boot = &disk[MIB..MIB + 512];
    assert_eq!((&boot[82..90], boot[13]), (&b"FAT32   "[..], 1));

    assert!(
        efi::disk(&files).unwrap() == disk,
        "two disks of the same files differ"
    );
    let other = efi::disk(&[(efi::BOOT_PROGRAM, b"another"), files[1]]).unwrap();
    assert_ne!(
        other[MIB + 67..MIB + 71],
        disk[MIB + 67..MIB + 71],
        "the serial number"
    );
    assert_ne!(
        other[512 + 56..512 + 72],
        disk[512 + 56..512 + 72],
        "the disk's GUID"
    );
}

fn qemu_img(arguments: &[&str], file: &Path) -> Option<std::process::Output> {
    let output = Command::new("qemu-img")
        .args(arguments)
        .arg(file)
        .output()
        .ok();
    if output.is_none() {
        println!("SKIPPED: qemu-img is not there, so no other program read the VHDX");
    }
    output
}

#[test]
fn another_program_reads_the_same_disk_from_the_vhdx() {
    let mut disk = vec![0; 7 * MIB];
    disk[MIB + 3] = 1;
    disk[5 * MIB..6 * MIB].fill(9);
    disk[7 * MIB - 1] = 2;
    let file = vhdx::wrap(&disk);
    assert_eq!(file.len(), (4 + 3) * MIB, "empty blocks take room");
    assert!(vhdx::wrap(&disk) == file);
    assert!(vhdx::wrap(&disk[..7 * MIB - 1]) != file);

    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.vhdx");
    fs::write(&path, &file).unwrap();
    let Some(check) = qemu_img(&["check", "-f", "vhdx"], &path) else {
        return;
    };
    let said = String::from_utf8_lossy(&check.stdout);
    assert!(
        check.status.success() && said.contains("No errors were found"),
        "{check:?}"
    );
    let raw = dir.path().join("raw");
    let converted = Command::new("qemu-img")
        .args(["convert", "-f", "vhdx", "-O", "raw"])
        .args([&path, &raw])
        .status()
        .unwrap();
    assert!(converted.success());
    assert!(
        fs::read(&raw).unwrap() == disk,
        "the disk reads back differently"
    );
}
