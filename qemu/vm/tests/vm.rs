//! QEMU as a child: its ends are told apart, and it never outlives us.

#[path = "../../tests/common/built.rs"]
mod built;

use std::sync::mpsc;
use std::time::Duration;

use uvm_vm::profile::{Accel, Profile};
use uvm_vm::{Vm, VmEnd, VmError, VsockWire};

const LONG: Duration = Duration::from_secs(120);

fn start(
    profile: &Profile,
) -> (
    Result<Vm, VmError>,
    mpsc::Receiver<VmEnd>,
    tempfile::TempDir,
) {
    let dir = tempfile::tempdir().unwrap();
    let (tell, told) = mpsc::channel();
    let log = dir.path().join("console.log");
    let vm = Vm::start(profile, Accel::Tcg, VsockWire::None, &log, move |end| {
        drop(tell.send(end));
    });
    (vm, told, dir)
}

#[test]
fn a_kernel_panic_is_told_with_its_text() {
    let Some(kernel) = built::kernel() else {
        return;
    };
    let (vm, told, dir) = start(&Profile::new(kernel, None));
    let vm = vm.unwrap();
    let end = told.recv_timeout(LONG).unwrap();
    let VmEnd::Panic(text) = &end else {
        panic!("{end}")
    };
    assert!(text.contains("Kernel panic - not syncing: VFS"), "{text}");
    assert_eq!(vm.wait(LONG).unwrap(), end);
    let kept = std::fs::read_to_string(dir.path().join("console.log")).unwrap();
    assert!(kept.contains("Kernel panic"), "{kept}");
}

#[test]
fn a_killed_vm_is_gone() {
    let Some(kernel) = built::kernel() else {
        return;
    };
    let mut profile = Profile::new(kernel, None);
    profile.kernel_options = vec!["rootwait root=/dev/nothing".into()];
    let (vm, told, _dir) = start(&profile);
    let vm = vm.unwrap();
    let pid = vm.pid().unwrap();
    assert_eq!(
        vm.qmp()
            .command("query-status", serde_json::json!({}))
            .unwrap()["running"],
        true
    );
    drop(vm);
    assert_eq!(told.recv_timeout(LONG).unwrap(), VmEnd::Stopped);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn disks_come_and_go() {
    let Some(kernel) = built::kernel() else {
        return;
    };
    let mut profile = Profile::new(kernel, None);
    profile.kernel_options = vec!["rootwait root=/dev/nothing".into()];
    let (vm, _told, dir) = start(&profile);
    let vm = vm.unwrap();
    let disk = dir.path().join("a,b.img");
    std::fs::write(&disk, vec![0; 1 << 20]).unwrap();
    let place = uvm_vm::qmp::ScsiAddress {
        controller: 0,
        lun: 3,
    };
    let mut qmp = vm.qmp();
    qmp.plug(&place, &disk, "raw", true).unwrap();
    let said = qmp
        .plug(&place, &disk, "raw", true)
        .unwrap_err()
        .to_string();
    assert!(said.contains("blockdev-add"), "{said}");
    let none = uvm_vm::qmp::ScsiAddress {
        controller: 3,
        lun: 0,
    };
    assert!(qmp
        .plug(&none, &disk, "raw", true)
        .unwrap_err()
        .to_string()
        .contains("device_add"));
    // The failed attempt left its file free: the same name can be used again.
    assert!(qmp
        .plug(&none, &disk, "raw", true)
        .unwrap_err()
        .to_string()
        .contains("device_add"));
}

#[test]
fn what_is_missing_is_named() {
    let (vm, _, _) = start(&Profile::new("/nowhere/vmlinux", None));
    let said = vm.err().unwrap().to_string();
    assert!(
        said.starts_with("the kernel /nowhere/vmlinux cannot be read: No such file"),
        "{said}"
    );
    let Some(kernel) = built::kernel() else {
        return;
    };
    let (vm, _, _) = start(&Profile::new(&kernel, Some("/nowhere/initrd".into())));
    let said = vm.err().unwrap().to_string();
    assert!(
        said.starts_with("the initrd /nowhere/initrd cannot be read"),
        "{said}"
    );
    let mut profile = Profile::new(&kernel, None);
    profile.qemu_arguments = vec!["-device".into(), "no-such-device".into()];
    let (vm, _, _) = start(&profile);
    let said = vm.err().unwrap().to_string();
    assert!(
        said.contains("no-such-device") && said.contains("exit status: 1"),
        "{said}"
    );
}
