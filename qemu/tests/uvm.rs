//! A real guest in a real VM: boot, processes and their streams, the end of the machine.

mod common;

use std::io::{Read, Write};
use std::time::Duration;

use uvm::Uvm;
use uvm_host::{End, HostError};
use uvm_vm::profile::BootForm;

const LONG: Duration = Duration::from_secs(120);

/// Words for `sh -c`.
fn sh(vm: &Uvm, script: &str) -> uvm_host::Launch {
    vm.external(&["/bin/sh", "-c", script])
}

#[test]
fn a_guest_boots_by_both_boot_lines_and_powers_off() {
    for form in [BootForm::Vsockexec, BootForm::Shell] {
        let Some(mut profile) = common::profile() else {
            return;
        };
        profile.form = form;
        let vm = common::boot_profile(profile);
        let timings = vm.timings();
        assert!(
            timings.entropy.is_some(),
            "{form:?}: the guest took no entropy"
        );
        assert!(
            timings.log.is_some(),
            "{form:?}: the guest opened no log channel"
        );
        eprintln!(
            "{form:?}: negotiated {:?} after the start of QEMU",
            timings.negotiated
        );
        let dir = vm.dir().to_owned();
        vm.power_off().unwrap();
        drop(vm);
        assert!(!dir.exists(), "files stay behind");
    }
}

#[test]
fn processes_give_their_output_and_codes() {
    let Some(vm) = common::boot() else { return };
    let out = sh(&vm, "echo out; echo err >&2; exit 7").run().unwrap();
    assert_eq!(
        (out.code, out.text().as_str(), out.error_text().as_str()),
        (7, "out\n", "err\n")
    );
    assert!(out.complete);
    assert_eq!(sh(&vm, "kill -9 $$").run().unwrap().code, 137);
    let out = sh(&vm, "cat; echo end").input("in").run().unwrap();
    assert_eq!((out.code, out.text().as_str()), (0, "inend\n"));
    let out = sh(&vm, "pwd; echo $A")
        .cwd("/tmp")
        .env("A", "b c")
        .run()
        .unwrap();
    assert_eq!(out.text(), "/tmp\nb c\n");
    let refusal = vm.external(&["/no/such/program"]).run().unwrap_err();
    assert_eq!(refusal.refused(), Some(-2147467259), "{refusal}");
    // The next request works.
    assert_eq!(vm.external(&["true"]).run().unwrap().code, 0);
}

#[test]
fn input_ends_while_output_flows() {
    let Some(vm) = common::boot() else { return };
    let mut process = sh(&vm, "cat >/dev/null; echo ended; sleep 1; echo after")
        .open_stdin()
        .start()
        .unwrap();
    process
        .stdio
        .stdin
        .as_ref()
        .unwrap()
        .write_all(b"x")
        .unwrap();
    process.stdio.close_stdin().unwrap();
    let mut text = String::new();
    process
        .stdio
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "ended\nafter\n");
    assert_eq!(process.wait(LONG).unwrap(), 0);
}

#[test]
fn a_process_can_be_signalled_while_it_runs() {
    let Some(vm) = common::boot() else { return };
    let mut process = vm.external(&["sleep", "1000"]).start().unwrap();
    let still = process.wait(Duration::from_millis(200)).unwrap_err();
    assert!(matches!(still, HostError::Timeout { .. }), "{still}");
    process.signal(15).unwrap();
    assert_eq!(process.wait(LONG).unwrap(), 143);
    assert!(!vm.dump_stacks().unwrap().is_empty());
}

#[test]
fn the_death_of_pid_1_is_a_panic_with_its_text() {
    let Some(vm) = common::boot() else { return };
    let call = sh(&vm, "echo c >/proc/sysrq-trigger").run();
    let end = vm.wait_end(LONG).unwrap();
    let End::Panic(text) = &end else {
        panic!("{end}, after {call:?}")
    };
    assert!(text.contains("sysrq triggered crash"), "{text}");
    assert!(call.is_err());
}

#[test]
fn a_killed_qemu_ends_every_wait() {
    let Some(vm) = common::boot() else { return };
    let mut process = vm.external(&["sleep", "1000"]).start().unwrap();
    vm.vm().kill();
    let ended = process.wait(LONG).unwrap_err();
    assert!(
        matches!(
            ended,
            HostError::Ended {
                end: End::Stopped,
                ..
            }
        ),
        "{ended}"
    );
}

#[test]
fn broken_frames_do_not_end_the_guest() {
    let Some(vm) = common::boot() else { return };
    for payload in [&b"{"[..], b"[]", b"", b"\xff"] {
        let mut call = vm.send_frame(0x1010_0201, payload.to_vec()).unwrap();
        let refusal = call.wait(LONG).unwrap_err();
        assert_eq!(
            refusal.refused(),
            Some(-1070137075),
            "{payload:?}: {refusal}"
        );
    }
    let mut call = vm.send_frame(0x1010_0e01, b"{}".to_vec()).unwrap();
    assert_eq!(call.wait(LONG).unwrap_err().refused(), Some(-2147467263));
    assert_eq!(vm.external(&["true"]).run().unwrap().code, 0);
}

#[test]
fn sixty_four_mebibytes_go_in_and_come_out_whole() {
    let Some(vm) = common::boot() else { return };
    let mut state = 1_u32;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(64 << 20)
    .collect();
    let out = vm.external(&["cat"]).input(bytes.clone()).run().unwrap();
    assert_eq!(
        (out.code, out.complete, out.stdout.len()),
        (0, true, bytes.len())
    );
    assert!(out.stdout == bytes, "the bytes differ");
}

#[test]
fn disks_are_mounted_used_and_unplugged() {
    if uvm_vm::choice::program("mkfs.ext4").is_none() {
        eprintln!("SKIPPED: mkfs.ext4 is not there");
        return;
    }
    let Some(vm) = common::boot() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("disk"));
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("hello"), "from a disk\n").unwrap();
    std::fs::File::create(&image)
        .unwrap()
        .set_len(16 << 20)
        .unwrap();
    let made = std::process::Command::new("mkfs.ext4")
        .args(["-q", "-F", "-d"])
        .args([&tree, &image])
        .status()
        .unwrap();
    assert!(made.success());
    // The second round finds the place free again.
    for _ in 0..2 {
        let disk = vm.mount_disk(&image, true, "/run/mounts/scsi/m0").unwrap();
        assert_eq!((disk.controller, disk.lun), (0, 0));
        let out = vm
            .external(&["cat", "/run/mounts/scsi/m0/hello"])
            .run()
            .unwrap();
        assert_eq!(out.text(), "from a disk\n");
        let busy = vm.mount_disk(&image, true, "/run/mounts/scsi/m1").unwrap();
        assert_eq!(busy.lun, 1);
        vm.unmount_disk(&busy).unwrap();
        vm.unmount_disk(&disk).unwrap();
    }
    let missing = vm
        .plug_disk(&dir.path().join("none"), "raw", true)
        .unwrap_err()
        .to_string();
    assert!(missing.contains("No such file"), "{missing}");
}

/// `VmRSS` of PID 1 in KiB, and the counts of the state dump that must not grow.
fn footprint(vm: &Uvm) -> (u64, Vec<String>) {
    let status = vm
        .external(&["cat", "/proc/1/status"])
        .run()
        .unwrap()
        .text();
    let rss = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let rss = rss.trim().trim_end_matches(" kB").parse().unwrap();
    let dump = vm.dump_stacks().unwrap();
    let counts = dump.lines().skip_while(|line| !line.starts_with("counts"));
    let counts = counts
        .take_while(|line| !line.starts_with("last log"))
        .map(str::to_owned);
    (rss, counts.collect())
}

#[test]
fn many_processes_leave_no_descriptor_no_zombie_and_no_memory_behind() {
    let Some(vm) = common::boot() else { return };
    let run = |count: usize| {
        for _ in 0..count {
            assert_eq!(vm.external(&["true"]).run().unwrap().code, 0);
        }
    };
    // Fills what is bounded: the log's ring, the allocator's free lists, also those of a dump.
    run(200);
    footprint(&vm);
    let (rss, counts) = footprint(&vm);
    run(400);
    let (rss_after, counts_after) = footprint(&vm);
    assert_eq!(counts_after, counts);
    assert!(rss_after <= rss + 64, "{rss} KiB, then {rss_after} KiB");
    let zombies = "cat /proc/[0-9]*/status 2>/dev/null | grep -c '^State:.Z'";
    let zombies = vm.external(&["/bin/sh", "-c", zombies]).run().unwrap();
    assert_eq!(zombies.text(), "0\n");
}
