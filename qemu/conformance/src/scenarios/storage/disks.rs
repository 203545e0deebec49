//! MappedVirtualDisk and SCSIDevice.

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use serde_json::json;

use super::plugged::{gone, mount_line, tool, PluggedDisk, MIB};
use crate::{codes, contains, fail, refused, same, that, AnswerIs, Checked, Guest, Lab, LIMIT};
use uvm_host::wire::Rpc;
use uvm_host::UVM_ID;
use uvm_vm::qmp::ScsiAddress;

/// ModifySettings with exactly this `Request`.
fn ask(vm: &Guest, id: &str, request: serde_json::Value) -> Checked<uvm_host::Answer> {
    vm.ask_json(
        Rpc::ModifySettings,
        &json!({"ContainerId": id, "Request": request}),
    )
}

pub fn request_types(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let disk = PluggedDisk::blank(&vm)?;
    let request = |kind: Option<&str>| {
        let mut request = json!({"ResourceType": "MappedVirtualDisk", "Settings": {
            "MountPath": disk.path, "Lun": disk.lun(),
            "EnsureFilesystem": true, "Filesystem": "ext4"}});
        if let Some(kind) = kind {
            request["RequestType"] = kind.into();
        }
        request
    };
    for unknown in ["Frobnicate", "add"] {
        ask(&vm, UVM_ID, request(Some(unknown)))?.is(codes::FAIL)?;
        gone(&vm, &disk.path)?;
    }
    ask(&vm, UVM_ID, request(None))?.is(0)?;
    mount_line(&vm, &disk.path)?;
    disk.remove()?;
    ask(&vm, UVM_ID, request(Some("")))?.is(0)?;
    mount_line(&vm, &disk.path).map(drop)
}

pub fn resource_types(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let unknown = json!({"ResourceType": "NoSuchThing", "RequestType": "Add", "Settings": {}});
    ask(&vm, UVM_ID, unknown)?.is(codes::FAIL)?;
    for kind in [
        "MappedVirtualDisk",
        "CombinedLayers",
        "MappedDirectory",
        "VPMemDevice",
    ] {
        let request = json!({"ResourceType": kind, "RequestType": "Add"});
        ask(&vm, UVM_ID, request)?.is(codes::INVALID_JSON)?;
        let request = json!({"ResourceType": kind, "RequestType": "Add", "Settings": null});
        ask(&vm, UVM_ID, request)?.is(codes::INVALID_JSON)?;
    }
    Ok(())
}

pub fn ids(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let container = vm.container("true").create()?;
    let disk = json!({"ResourceType": "MappedVirtualDisk", "RequestType": "Remove",
        "Settings": {"MountPath": "/run/mounts/scsi/never"}});
    let constraints = json!({"ResourceType": "ContainerConstraints", "RequestType": "Update",
        "Settings": {"Linux": {}}});
    ask(&vm, container.id(), disk.clone())?.is(codes::FAIL)?;
    ask(&vm, "no-such-container", disk.clone())?.is(codes::NOT_FOUND)?;
    ask(&vm, UVM_ID, constraints)?.is(codes::NOT_FOUND)?;
    ask(&vm, UVM_ID, disk)?.is(0)?;
    container.remove()
}

pub fn read_only(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let disk = PluggedDisk::blank(&vm)?;
    disk.add_ext4()?;
    disk.keep("file")?;
    disk.remove()?;
    disk.add(json!({"ReadOnly": true, "Options": ["ro"]}))?;
    let line = mount_line(&vm, &disk.path)?;
    contains("the mount", " ext4 ro", &line)?;
    // The kernel shows `noload` by its other name.
    let unwritten = line.contains("norecovery") || line.contains("noload");
    that(unwritten, "noload", line)?;
    disk.has("file")?;
    let written = vm.shell(&format!("echo x > {}/new", disk.path))?.run()?;
    that(written.code != 0, "no write to succeed", "one that did")
}

pub fn arrival(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let disk = PluggedDisk::blank(&vm)?;
    disk.add_ext4()?;
    disk.remove()?;
    // The same address, empty for now.
    let address = disk.address();
    vm.eject_disk(address)?;
    let body = json!({"Request": {"ResourceType": "MappedVirtualDisk", "RequestType": "Add",
        "Settings": {"MountPath": disk.path, "Lun": address.lun}}});
    let mut late = vm.send(Rpc::ModifySettings, UVM_ID, body)?;
    // The line says: 2 s later.
    std::thread::sleep(Duration::from_secs(2));
    let again = vm.plug_disk(disk.file(), "raw", false)?;
    same(
        "the address",
        (address.controller, address.lun),
        (again.controller, again.lun),
    )?;
    late.answer(LIMIT)?.is(0)?;
    mount_line(&vm, &disk.path)?;
    disk.remove()?;
    vm.eject_disk(address)?;

    let began = Instant::now();
    refused(disk.add(json!({})), codes::FAIL)?;
    let took = began.elapsed();
    let right = (Duration::from_secs(4)..Duration::from_secs(20)).contains(&took);
    that(right, "a refusal after about 5 s", format!("{took:?}"))?;
    gone(&vm, &disk.path)?;
    // Plugged in there again, for the end of the scenario.
    vm.plug_disk(disk.file(), "raw", false)
        .map(drop)
        .map_err(Into::into)
}

pub fn controllers(lab: &mut Lab) -> Checked {
    let vm = lab.boot(|b| b.profile.controllers = 2)?;
    for controller in [4, 255] {
        let settings = json!({"MountPath": "/run/mounts/scsi/no", "Controller": controller});
        refused(vm.modify("MappedVirtualDisk", "Add", settings), codes::FAIL)?;
    }
    let (_dir, file) = super::plugged::file(16 * MIB)?;
    let address = ScsiAddress {
        controller: 1,
        lun: 3,
    };
    vm.vm().qmp().plug(&address, &file, "raw", false)?;
    vm.modify(
        "MappedVirtualDisk",
        "Add",
        json!({"MountPath": "/run/mounts/scsi/one", "Controller": 1, "Lun": 3,
            "EnsureFilesystem": true, "Filesystem": "ext4"}),
    )?;
    let line = mount_line(&vm, "/run/mounts/scsi/one")?;
    let name = vm.sh("ls /sys/bus/scsi/devices/1:0:0:3/block")?;
    contains("the mount", &format!("/dev/{name} "), &line)
}

pub fn partitions(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let disk = PluggedDisk::of(&vm, 64 * MIB, |file| {
        // Two Linux partitions in a DOS table: start and length in sectors.
        let mut table = [0_u8; 512];
        for (at, first, sectors) in [(446, 2048_u32, 32_768_u32), (462, 65_536, 32_768)] {
            table[at + 4] = 0x83;
            table[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
            table[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        }
        table[510..].copy_from_slice(&[0x55, 0xaa]);
        let file = std::fs::File::options().write(true).open(file)?;
        Ok(file.write_all_at(&table, 0)?)
    })?;
    let block = format!("ls /sys/bus/scsi/devices/0:0:0:{}/block", disk.lun());
    for partition in [2, 1] {
        disk.add(json!({"Partition": partition, "EnsureFilesystem": true, "Filesystem": "ext4"}))?;
        // After the Add, which waits for the disk.
        let name = vm.sh(&block)?;
        let line = mount_line(&vm, &disk.path)?;
        contains("the mount", &format!("/dev/{name}{partition} ext4"), &line)?;
        vm.modify(
            "MappedVirtualDisk",
            "Remove",
            json!({"MountPath": disk.path, "Lun": disk.lun(), "Partition": partition}),
        )?;
        gone(&vm, &disk.path)?;
    }
    refused(disk.add(json!({"Partition": 3})), codes::FAIL).map(drop)
}

pub fn formatting(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let disk = PluggedDisk::blank(&vm)?;
    disk.add_ext4()?;
    contains("the mount", " ext4 rw", &mount_line(&vm, &disk.path)?)?;
    disk.keep("file")?;
    // Room for what a scratch disk is for.
    let fill = "dd if=/dev/zero of=$D/big bs=65536 count=640 2>/dev/null && rm $D/big";
    vm.sh(&format!("D={}; {fill}", disk.path))?;
    disk.remove()?;
    disk.add_ext4()?;
    disk.has("file")?;
    disk.remove()?;
    vm.eject_disk(disk.address())?;
    let checked = tool(&["e2fsck", "-fn"], disk.file());
    vm.plug_disk(disk.file(), "raw", false)?;
    checked
}

pub fn an_xfs_stays(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let disk = PluggedDisk::of(&vm, 320 * MIB, |file| tool(&["mkfs.xfs", "-q"], file))?;
    let xfs = json!({"EnsureFilesystem": true, "Filesystem": "xfs"});
    disk.add(xfs.clone())?;
    contains("the mount", " xfs rw", &mount_line(&vm, &disk.path)?)?;
    disk.keep("file")?;
    disk.remove()?;
    disk.add(xfs)?;
    disk.has("file")?;
    disk.remove()?;
    disk.add(json!({"ReadOnly": true}))?;
    contains("the mount", " xfs ro", &mount_line(&vm, &disk.path)?)?;
    disk.has("file")
}

pub fn nothing_known(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let disk = PluggedDisk::blank(&vm)?;
    refused(disk.add(json!({})), codes::FAIL)?;
    gone(&vm, &disk.path)?;
    refused(disk.add(json!({"EnsureFilesystem": true})), codes::FAIL)?;
    gone(&vm, &disk.path)
}

pub fn twice(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let (disk, other) = (PluggedDisk::blank(&vm)?, PluggedDisk::blank(&vm)?);
    refused(disk.add(json!({})), codes::FAIL)?;
    // After the failure the path is free.
    disk.add_ext4()?;
    disk.keep("file")?;
    refused(disk.add_ext4(), codes::FAIL)?;
    let intruder = json!({"MountPath": disk.path, "Lun": other.lun(),
        "EnsureFilesystem": true, "Filesystem": "ext4"});
    refused(vm.modify("MappedVirtualDisk", "Add", intruder), codes::FAIL)?;
    mount_line(&vm, &disk.path)?;
    disk.has("file")
}

pub fn removal(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let disk = PluggedDisk::blank(&vm)?;
    // Never mounted, and a directory that is no mount.
    disk.remove()?;
    vm.sh(&format!("mkdir -p {}", disk.path))?;
    disk.remove()?;
    gone(&vm, &disk.path)?;
    disk.add_ext4()?;
    disk.remove()?;
    gone(&vm, &disk.path)?;
    disk.remove()?;
    // Without its device.
    disk.add_ext4()?;
    vm.unplug_disk(disk.address())?;
    disk.remove()?;
    gone(&vm, &disk.path)?;
    vm.plug_disk(disk.file(), "raw", false)
        .map(drop)
        .map_err(Into::into)
}

pub fn options(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let disk = PluggedDisk::blank(&vm)?;
    for (word, mark) in [
        ("rshared", "shared:"),
        ("unbindable", "unbindable"),
        ("private", "- "),
    ] {
        disk.add(json!({"EnsureFilesystem": true, "Filesystem": "ext4",
            "Options": ["noexec", "ro", word, "no-such-option"]}))?;
        let script = format!("grep ' {} ' /proc/self/mountinfo", disk.path);
        let line = vm.sh(&script)?;
        contains("mountinfo", mark, &line)?;
        let plain = line.contains(" rw,") && !line.contains("noexec");
        that(plain, "a writable mount without noexec", line)?;
        disk.remove()?;
    }
    Ok(())
}

pub fn scsi_device(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let disk = PluggedDisk::blank(&vm)?;
    let device = json!({"Lun": disk.lun()});
    refused(vm.modify("SCSIDevice", "Add", device.clone()), codes::FAIL)?;
    let path = format!("/sys/bus/scsi/devices/0:0:0:{}", disk.lun());
    let there = format!("ls -d {path} 2>/dev/null; true");
    // The kernel finds it some time after it was plugged in.
    let found =
        format!("i=0; until [ -e {path} ] || [ $i = 600 ]; do usleep 50000; i=$((i+1)); done");
    let seen = vm.sh(&format!("{found}; {there}"))?;
    that(!seen.is_empty(), "the disk", "none within 30 s")?;
    vm.modify("SCSIDevice", "Remove", device.clone())?;
    let seen = vm.sh(&there)?;
    if !seen.is_empty() {
        return Err(fail("no disk any more", seen));
    }
    vm.modify("SCSIDevice", "Remove", device)?;
    Ok(())
}
