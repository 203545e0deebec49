//! What a VM costs and leaves, of which the checklist knows nothing: files of this machine, memory
//! and descriptors of the service, calls that wait when QEMU is gone.

mod common;

use std::time::Duration;

use uvm::Uvm;
use uvm_host::{End, HostError};

const LONG: Duration = Duration::from_secs(120);

#[test]
fn a_vm_that_powers_off_leaves_no_file() {
    let Some(vm) = common::boot() else { return };
    let timings = vm.timings();
    assert!(timings.entropy.is_some(), "the guest took no entropy");
    assert!(timings.log.is_some(), "the guest opened no log channel");
    assert!(timings.negotiated > Some(timings.bridge));
    let dir = vm.dir().to_owned();
    vm.power_off().unwrap();
    drop(vm);
    assert!(!dir.exists(), "files stay in {}", dir.display());
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
