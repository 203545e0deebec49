//! Attaches that fail, are killed, wait for each other or meet something in use, on a real
//! kernel: whatever happens, nothing half-made is left, and the way on is open. The checklist asks
//! for answers; here the guest's own state and its children are looked at, and killed.

#[path = "../common/mod.rs"]
mod common;
mod refused;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use refused::{AT, DISK};
use serde_json::{json, Value};
use uvm::plan9::{Mood, Server};
use uvm::{BootOptions, Uvm};
use uvm_host::wire::Rpc;
use uvm_host::{Host, Pending, UVM_ID};

use common::image::Image;
use common::LONG;

const NOT_FOUND: i32 = 0xC037_010E_u32.cast_signed();

/// Everything that an attach can leave: mounts, directories, mapped devices, records.
fn state(vm: &Uvm) -> String {
    let script = "cat /proc/mounts; find /run -xdev ! -path '*/gcs.log' | sort; \
                  ls /dev/mapper; ls -d /sys/block/dm-*; true";
    let seen = vm.external(&["/bin/sh", "-c", script]).run().unwrap();
    let dump = vm.dump_stacks().unwrap();
    let records = |title: &str| {
        let lines = dump.lines().skip_while(|line| !line.starts_with(title));
        let inside = lines.take_while(|line| line.starts_with([' ', 'm']));
        inside.collect::<Vec<_>>().join("\n")
    };
    format!("{}{}", seen.text(), records("mounts ("))
}

fn is_doing(vm: &Uvm, what: &str) -> bool {
    let dump = vm.dump_stacks().unwrap();
    let from = dump.find("\ntasks (").unwrap();
    let tasks = dump[from..].lines().skip(2);
    let mut tasks = tasks.take_while(|line| line.starts_with(' '));
    tasks.any(|line| line.contains(what))
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !is() {
        assert!(Instant::now() < deadline, "{what}");
    }
}

fn send(host: &Host, resource: &str, settings: Value) -> Pending {
    let body = json!({"Request": {
        "ResourceType": resource, "RequestType": "Add", "Settings": settings}});
    host.send(Rpc::ModifySettings, UVM_ID, body).unwrap()
}

fn file_of(path: &Path, length: u64) {
    fs::File::create(path).unwrap().set_len(length).unwrap();
}

fn ext4(path: &Path, length: u64) {
    file_of(path, length);
    let mke2fs = uvm_vm::choice::program("mke2fs").unwrap();
    let made = Command::new(mke2fs)
        .args(["-q", "-F", "-t", "ext4", "-b", "4096"])
        .arg(path)
        .status();
    assert!(made.unwrap().success());
}

/// Each attach, stopped by the kernel at another of its steps.
#[test]
fn an_attach_that_is_refused_leaves_nothing() {
    let Some(mut profile) = common::profile() else {
        return;
    };
    let top = tempfile::tempdir().unwrap();
    let pmem = top.path().join("pmem");
    ext4(&pmem, 16 << 20);
    profile.pmem = vec![pmem];
    let vm = common::boot_profile(profile);
    let plug = |name: &str, length: u64, begin: &[u8], at: u64| {
        let path = top.path().join(name);
        file_of(&path, length);
        let file = fs::File::options().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, begin, at).unwrap();
        vm.plug_disk(&path, "raw", false).unwrap().lun
    };
    let blank = plug("blank", 16 << 20, &[], 0);
    let tiny = plug("tiny", 64 << 10, &[], 0);
    // Only the magic number of an ext4 file system.
    let broken = plug("broken", 16 << 20, &[0x53, 0xef], 1024 + 56);
    // A file in the way, and an overlay, on which another one cannot write.
    let script = "echo > /run/file; mkdir /run/l1 /run/l2";
    let made = vm.external(&["/bin/sh", "-c", script]).run().unwrap();
    assert_eq!(made.code, 0);
    let layers = ["/run/l1", "/run/l2"].map(str::to_owned);
    vm.combine_layers("base", "/run/base", &layers, Some("/run/scratch"))
        .unwrap();
    let server = Server::default();
    server.turn(Mood::Gone);
    vm.on_dial(564, move |stream| server.serve(stream)).unwrap();
    let before = state(&vm);
    let mut table = refused::disks(blank, tiny, broken);
    table.extend(refused::pmem());
    table.extend(refused::layers());
    table.extend(refused::shares());
    for (resource, settings, word) in table {
        let doing = format!("{resource} {settings}");
        let refusal = vm.modify(resource, "Add", settings).unwrap_err();
        let text = refusal.to_string();
        assert!(text.contains(word), "{doing}: {text}");
        assert!(!text.contains("not undone"), "{doing}: {text}");
        assert_eq!(state(&vm), before, "{doing}: {text}");
    }
    // What was refused because of something else works when that is right.
    let right = json!({"MountPath": AT, "Lun": blank, "EnsureFilesystem": true,
        "Filesystem": "ext4"});
    vm.modify(DISK, "Add", right.clone()).unwrap();
    for _ in 0..2 {
        vm.modify(DISK, "Remove", right.clone()).unwrap();
        vm.remove_layers("/run/base").unwrap();
    }
    vm.power_off().unwrap();
}

/// The task is at work on a disk that is slow, with two mapped devices and a directory made.
#[test]
fn an_attach_that_is_killed_is_undone_by_another_task() {
    let Some(vm) = common::boot() else {
        return;
    };
    let top = tempfile::tempdir().unwrap();
    let file = top.path().join("slow");
    file_of(&file, 64 << 20);
    {
        let mut qmp = vm.vm().qmp();
        qmp.command(
            "object-add",
            json!({"qom-type": "throttle-group", "id": "slow", "limits": {"iops-total": 4}}),
        )
        .unwrap();
        let file = json!({"driver": "raw", "file": {"driver": "file", "filename": file}});
        qmp.command(
            "blockdev-add",
            json!({"driver": "throttle", "node-name": "slow-disk", "throttle-group": "slow",
                "file": file}),
        )
        .unwrap();
        qmp.command(
            "device_add",
            json!({"driver": "scsi-hd", "id": "slow-disk", "drive": "slow-disk",
                "bus": "scsi0.0", "channel": 0, "scsi-id": 0, "lun": 40}),
        )
        .unwrap();
    }
    let before = state(&vm);
    let settings = json!({"MountPath": "/run/x/y", "Lun": 40, "Encrypted": true,
        "EnsureFilesystem": true, "Filesystem": "ext4"});
    let mut adding = send(vm.host(), "MappedVirtualDisk", settings);
    let doing = "adding the disk at controller 0 LUN 40";
    let there = |path: &str| vm.external(&["test", "-e", path]).run().unwrap().code == 0;
    until("the directory is made", || there("/run/x/y"));
    assert!(there("/sys/block/dm-1"), "two mapped devices");
    assert!(!adding.is_ready());
    let dump = vm.dump_stacks().unwrap();
    let task = dump
        .lines()
        .find(|line| line.contains(doing) && line.contains("pid "));
    let pid = task.unwrap().split_whitespace().nth(1).unwrap();
    let killed = vm.external(&["kill", "-9", pid]).run().unwrap();
    assert_eq!(killed.code, 0, "{}", killed.error_text());
    let refusal = adding.wait(LONG).unwrap_err();
    assert!(refusal.to_string().contains("signal 9"), "{refusal}");
    until("all of it is undone", || !is_doing(&vm, "undoing"));
    assert_eq!(state(&vm), before);
    // The path is free for a disk that is not slow.
    let file = top.path().join("good");
    ext4(&file, 16 << 20);
    let disk = vm.mount_disk(&file, false, "/run/x/y").unwrap();
    vm.unmount_disk(&disk).unwrap();
}

#[test]
fn a_disk_that_never_comes_delays_no_other() {
    let Some(vm) = common::boot() else {
        return;
    };
    let top = tempfile::tempdir().unwrap();
    let file = top.path().join("disk");
    ext4(&file, 16 << 20);
    let places: Vec<_> = (0..8)
        .map(|_| vm.plug_disk(&file, "raw", true).unwrap())
        .collect();
    let add = |lun: u8| {
        let path = format!("/run/mounts/scsi/m{lun}");
        let settings = json!({"MountPath": path, "Lun": lun, "ReadOnly": true});
        send(vm.host(), "MappedVirtualDisk", settings)
    };
    let mut missing = add(60);
    let others: Vec<Pending> = places.iter().map(|place| add(place.lun)).collect();
    for mut other in others {
        other.wait(LONG).unwrap();
    }
    assert!(!missing.is_ready(), "the others waited for it");
    let refusal = missing.wait(LONG).unwrap_err().to_string();
    assert!(
        refusal.contains("LUN 60") && refusal.contains("attached to the VM?"),
        "{refusal}"
    );
}

#[test]
fn a_deletion_that_meets_a_mount_in_use_works_when_asked_again() {
    let (Some(image), Some(vm)) = (Image::open(), common::boot()) else {
        return;
    };
    let container = image.create(&vm, "busy", &["sh", "-c", "echo kept > /file"]);
    assert_eq!(container.init().run().unwrap().code, 0);
    let root = uvm::container::root("busy");
    let mut user = vm
        .external(&["/bin/sh", "-c", "cat; exit 3"])
        .cwd(&root)
        .open_stdin()
        .start()
        .unwrap();
    let refusal = vm.delete("busy").unwrap_err();
    assert!(refusal.to_string().contains("busy"), "{refusal}");
    // Nothing below the mount is gone, and it is the same container still.
    let kept = vm
        .external(&["cat", &format!("{root}/file")])
        .run()
        .unwrap();
    assert_eq!(kept.text(), "kept\n");
    vm.properties("busy", &[]).unwrap();
    user.stdio.close_stdin().unwrap();
    assert_eq!(user.wait(LONG).unwrap(), 3);
    vm.delete("busy").unwrap();
    assert_eq!(vm.delete("busy").unwrap_err().refused(), Some(NOT_FOUND));
    // Its overlay went without a Remove of its own: the path is free, and Remove is a success.
    vm.remove_layers(&root).unwrap();
    let dump = vm.dump_stacks().unwrap();
    assert!(!dump.contains("combined layers"), "{dump}");
    let left = vm.external(&["ls", "/run/gcs/c"]).run().unwrap();
    assert_eq!(left.text(), "");
}

/// A disk of its own on the PCI bus stands for an accelerator.
fn plug_function(vm: &Uvm, file: &Path) {
    let mut qmp = vm.vm().qmp();
    let node = json!({"driver": "raw", "node-name": "function",
        "file": {"driver": "file", "filename": file}});
    qmp.command("blockdev-add", node).unwrap();
    let device = json!({"driver": "virtio-blk-pci", "drive": "function", "bus": "place"});
    qmp.command("device_add", device).unwrap();
}

#[test]
fn a_pci_function_is_waited_for_and_its_nodes_are_in_the_container() {
    let Some(lab) = common::lab() else {
        return;
    };
    let slot = ["-device", "pcie-root-port,id=place,chassis=9"];
    let slot = slot.map(str::to_owned);
    let guest = lab.boot(|boot| boot.profile.qemu_arguments.extend(slot));
    let guest = guest.unwrap();
    let vm: &Uvm = &guest;
    let bus = guest.sh("cat /sys/bus/pci/devices/*/secondary_bus_number");
    let bus: u8 = bus.unwrap().trim().parse().unwrap();
    // Domain 0; the bus below the slot.
    let guid = format!("12345678-0000-{bus:04x}-8a51-55a1b2c3d4e5");
    let mut waiting = send(vm.host(), "VPCIDevice", json!({"VMBusGUID": guid}));
    until("it is waited for", || {
        // Among the devices that are waited for, not the tasks.
        vm.dump_stacks()
            .unwrap()
            .contains("waiting for the PCI device")
    });
    assert!(!waiting.is_ready());
    let top = tempfile::tempdir().unwrap();
    let file = top.path().join("function");
    file_of(&file, 1 << 20);
    let text = b"read from the device";
    let open = fs::File::options().write(true).open(&file).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&open, text, 0).unwrap();
    plug_function(vm, &file);
    waiting.wait(LONG).unwrap();
    // Of one that is there already.
    vm.modify("VPCIDevice", "Add", json!({"VMBusGUID": guid}))
        .unwrap();

    // In a workload that it was handed to, and in no other.
    let sandbox = guest.sandbox("sleep 600").unwrap().create().unwrap();
    let quiet = sandbox.init().without_stdout().without_stderr();
    let mut pause = quiet.start().unwrap();
    let read = format!("ls /dev/vd*; dd if=/dev/vda bs={} count=1", text.len());
    let with = guest.workload(sandbox.id(), &read).edit(|spec| {
        spec["windows"] = json!({"devices": [{"id": guid, "idType": "vpci-instance-id"}]});
    });
    let out = with.run().unwrap();
    let expected = format!("/dev/vda\n{}", String::from_utf8_lossy(text));
    assert_eq!(out.text(), expected, "{}", out.error_text());
    let make = "mknod /n b $(tr : ' ' < /sys/block/vda/dev) && cat /n > /dev/null";
    let without = guest.workload(sandbox.id(), make).run().unwrap();
    assert_ne!(without.code, 0);
    assert!(
        without.error_text().contains("not permitted"),
        "{}",
        without.error_text()
    );
    sandbox.kill().unwrap();
    pause.wait(LONG).unwrap();
    sandbox.remove().unwrap();

    let refusal = vm.modify("VPCIDevice", "Add", json!({"VMBusGUID": ""}));
    let refusal = refusal.unwrap_err().to_string();
    assert!(refusal.contains("GUID"), "{refusal}");
    let removal = vm.modify("VPCIDevice", "Remove", json!({"VMBusGUID": guid}));
    assert!(removal.is_err());
}

/// Disks of a container of the retired protocol are in the same table as all others.
#[test]
fn the_retired_protocol_uses_a_path_once() {
    let Some(mut profile) = common::profile() else {
        return;
    };
    profile.service_flags.push("-v4=false".into());
    // Its session begins with the first Create.
    let options = BootOptions {
        negotiate: false,
        ..BootOptions::default()
    };
    let vm = Uvm::boot_with(profile, options).unwrap();
    let top = tempfile::tempdir().unwrap();
    let file = top.path().join("disk");
    ext4(&file, 16 << 20);
    let lun = || vm.plug_disk(&file, "raw", true).unwrap().lun;
    let (layer, first, second) = (lun(), lun(), lun());
    let disk = |lun: u8, path: &str| json!({"ContainerPath": path, "Lun": lun, "CreateInUtilityVM": true, "ReadOnly": true});
    vm.register("v1");
    let create = |disks: &[Value]| {
        let document = json!({"Layers": [{"Path": layer.to_string()}],
            "MappedVirtualDisks": disks});
        let body = json!({"ContainerConfig": document.to_string(),
            "SupportedVersions": {"MinimumProtocolVersion": 3, "MaximumProtocolVersion": 3}});
        vm.send(Rpc::Create, "v1", body).unwrap().wait(LONG)
    };
    let modify = |request: &str, disk: &Value| {
        let body = json!({"Request": {"ResourceType": "MappedVirtualDisk",
            "RequestType": request, "Settings": disk}});
        let mut pending = vm.send(Rpc::ModifySettings, "v1", body).unwrap();
        pending.wait(LONG).map(drop)
    };
    let mounted = || {
        let script = "grep -c ' /run/m ' /proc/mounts; ls /run/m/ /run/gcs/c";
        let seen = vm.external(&["/bin/sh", "-c", script]).run().unwrap();
        seen.text().lines().next().unwrap().to_owned()
    };
    let refusal = create(&[disk(first, "/run/m"), disk(second, "/run//m/")]).unwrap_err();
    assert!(refusal.to_string().contains("another request"), "{refusal}");
    // One that fails at a later disk, with the first one mounted.
    let refusal = create(&[disk(first, "/run/m"), disk(60, "/run/n")]).unwrap_err();
    assert!(refusal.to_string().contains("LUN 60"), "{refusal}");
    create(&[disk(first, "/run/m")]).unwrap();
    assert_eq!(mounted(), "1");
    let refusal = modify("Add", &disk(second, "/run/./m")).unwrap_err();
    assert!(refusal.to_string().contains("already has"), "{refusal}");
    assert_eq!(mounted(), "1");
    modify("Remove", &disk(first, "/run/m")).unwrap();
    assert_eq!(mounted(), "0");
    modify("Add", &disk(second, "/run/m")).unwrap();
    assert_eq!(mounted(), "1");
}
