use std::fs;
use std::process::Command;

use super::super::testing::in_mount_namespace;
use super::*;

const STAMP: Stamp = Stamp {
    uuid: *b"0123456789abcdef",
    hash_seed: *b"fedcba9876543210",
    time: 1_700_000_000,
};
const MIB: u64 = 1 << 20;

fn tool(program: &str) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

#[test]
fn the_checker_of_e2fsprogs_finds_nothing_at_any_size() {
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("disk");
    let sizes = [
        MIB,
        MIB + 12_345,
        8 * MIB - 1,
        8 * MIB,
        16 * MIB,
        100 * MIB,
        128 * MIB,
        // A last group that is too small, just so, and one of its own.
        129 * MIB,
        137 * MIB,
        160 * MIB,
        256 * MIB,
        512 * MIB,
        1024 * MIB,
        20 * 1024 * MIB,
        // Several blocks of descriptors.
        40 * 1024 * MIB + 77 * MIB,
    ];
    for size in sizes {
        for journal in [true, false] {
            // What was there before must not matter.
            let file = File::create(&path).unwrap();
            file.write_all_at(&[0xa5; 65_536], 0).unwrap();
            file.set_len(size).unwrap();
            format(&file, size, &STAMP, journal).unwrap();
            let checked = match tool("e2fsck").arg("-fn").arg(&path).output() {
                Ok(checked) => checked,
                Err(error) => {
                    println!("SKIPPED: the_checker_of_e2fsprogs: no e2fsck: {error}");
                    return;
                }
            };
            let said = String::from_utf8_lossy(&checked.stdout);
            assert!(checked.status.success(), "{size} {journal}: {said}");
            assert!(!said.contains("Fix?"), "{size} {journal}: {said}");
            assert!(said.contains("11/"), "{size} {journal}: {said}");
        }
    }
}

#[test]
fn what_cannot_hold_one_is_refused() {
    for size in [0, 4096, 200 * 1024] {
        let refused = pieces(size, &STAMP, true).unwrap_err();
        assert_eq!(refused, SizeError::TooSmall(size));
    }
    let size = 17 << 40;
    assert_eq!(
        pieces(size, &STAMP, true).unwrap_err(),
        SizeError::TooLarge(size)
    );
    assert!(pieces((16 << 40) - 4096, &STAMP, true).is_ok());
}

#[test]
fn little_is_written() {
    let bytes = |size| {
        let pieces = pieces(size, &STAMP, true).unwrap();
        pieces.iter().map(|(_, bytes)| bytes.len()).sum::<usize>()
    };
    assert!(bytes(20 * 1024 * MIB) < 65_536);
    // In whole blocks, so that nothing has to be read first.
    let pieces = pieces(20 * 1024 * MIB, &STAMP, true).unwrap();
    let whole = |(at, bytes): &Piece| {
        at.is_multiple_of(BLOCK) && (bytes.len() as u64).is_multiple_of(BLOCK)
    };
    assert!(pieces.iter().all(whole));
}

/// The kernel mounts it, fills groups that it has to set up first, and leaves it clean.
#[test]
fn the_kernel_uses_it() {
    in_mount_namespace("the_kernel_uses_it", || {
        let top = tempfile::tempdir().unwrap();
        let (path, point) = (top.path().join("disk"), top.path().join("mnt"));
        let size = 400 * MIB;
        let file = File::create(&path).unwrap();
        file.set_len(size).unwrap();
        format(&file, size, &STAMP, true).unwrap();
        drop(file);
        fs::create_dir(&point).unwrap();
        let mounted = tool("mount").arg("-oloop").args([&path, &point]).output();
        match mounted {
            Ok(output) if output.status.success() => {}
            other => {
                println!("SKIPPED: the_kernel_uses_it: no loop mount: {other:?}");
                return;
            }
        }
        let content: Vec<u8> = (0..MIB).map(|at| (at % 251) as u8).collect();
        for number in 0..300 {
            let directory = point.join(format!("d{}", number % 40));
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join(format!("f{number}")), &content).unwrap();
        }
        nix::mount::umount(&point).unwrap();
        let checked = tool("e2fsck").arg("-fn").arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.success(), "{said}");
        let mounted = tool("mount").arg("-oloop").args([&path, &point]).status();
        assert!(mounted.unwrap().success());
        for number in [0, 150, 299] {
            let file = point.join(format!("d{}/f{number}", number % 40));
            assert!(fs::read(file).unwrap() == content);
        }
        nix::mount::umount(&point).unwrap();
    });
}
