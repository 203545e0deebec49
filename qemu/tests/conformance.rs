//! The checklist of the protocol against our own guest: the shipped initrd, which has no shell.

mod common;

use uvm_conformance::{run, Order, Selection};
use uvm_vm::choice::AccelWish;

#[test]
fn our_guest_fails_no_line_of_the_checklist() {
    for tool in ["mkfs.ext4", "busybox", uvm_vm::QEMU] {
        if uvm_vm::choice::program(tool).is_none() {
            eprintln!("SKIPPED: {tool} is not there");
            return;
        }
    }
    let Some(profile) = common::shipped_profile() else {
        return;
    };
    let order = Order {
        profile,
        accel: AccelWish::default(),
        selection: Selection::default(),
        jobs: std::thread::available_parallelism().map_or(1, usize::from),
        fail_fast: false,
        cache: Some(common::layer_cache()),
        log: None,
    };
    let report = run(order, |outcome| println!("{outcome}")).unwrap();
    println!("{}", report.table());
    let fails: Vec<String> = report
        .fails()
        .map(|fail| format!("{fail}\n    {}", fail.log.join("\n    ")))
        .collect();
    assert!(fails.is_empty(), "{}", fails.join("\n"));
}
