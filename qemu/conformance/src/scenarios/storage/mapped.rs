//! Persistent memory and what the device-mapper makes: parts of a device, verified layers,
//! encrypted disks. And the wait for a PCI device.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::plugged::{gone, mapped, mount_line, tool, PluggedDisk, MIB};
use crate::{codes, contains, not_run, refused, same, that, AnswerIs, Checked, Guest, Lab};
use uvm_host::wire::Rpc;
use uvm_host::{HostError, UVM_ID};

const BLOCK: usize = 4096;
/// Where the second layer of a device begins, and how long each is.
const PART: u64 = 16 * MIB;

/// A file system that says `name` in a file `who`, made without root.
pub fn layer(file: &Path, name: &str, bytes: u64) -> Checked {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("who"), name)?;
    // One block of something else, to be found and damaged.
    fs::write(dir.path().join("data"), [0x5a; BLOCK])?;
    File::create(file)?.set_len(bytes)?;
    let source = dir.path().to_string_lossy().into_owned();
    let words = [
        "mke2fs",
        "-q",
        "-F",
        "-t",
        "ext4",
        "-b",
        "4096",
        "-O",
        "^has_journal",
        "-d",
        &source,
    ];
    tool(&words, file)
}

/// A VM with one persistent memory device that holds two layers.
fn with_pmem(lab: &Lab) -> Checked<(tempfile::TempDir, Guest)> {
    let dir = tempfile::tempdir()?;
    let device = dir.path().join("pmem");
    File::create(&device)?.set_len(4 * PART)?;
    let whole = File::options().write(true).open(&device)?;
    for (at, name) in [(0, "first"), (PART, "second")] {
        let part = dir.path().join(name);
        layer(&part, name, PART)?;
        whole.write_all_at(&fs::read(&part)?, at)?;
    }
    let vm = lab.boot(|b| b.profile.pmem.push(device))?;
    let there = vm.sh("ls /dev/pmem0 2>/dev/null; true")?;
    if there.is_empty() {
        return Err(not_run(
            "this guest's kernel shows no /dev/pmem0 (virtio-pmem)",
        ));
    }
    Ok((dir, vm))
}

fn pmem_change(
    vm: &Guest,
    request: &str,
    path: &str,
    part: Option<(u64, u64)>,
) -> Result<(), HostError> {
    let mut settings = json!({"DeviceNumber": 0, "MountPath": path});
    if let Some((offset, size)) = part {
        settings["MappingInfo"] = json!({"DeviceOffsetInBytes": offset, "DeviceSizeInBytes": size});
    }
    vm.modify("VPMemDevice", request, settings)
}

pub fn pmem(lab: &mut Lab) -> Checked {
    let (_dir, vm) = with_pmem(lab)?;
    let path = "/run/layers/p0";
    pmem_change(&vm, "Add", path, None)?;
    let line = mount_line(&vm, path)?;
    contains("the mount", "/dev/pmem0 ext4 ro", &line)?;
    same("the layer", "first", vm.sh(&format!("cat {path}/who"))?)?;
    pmem_change(&vm, "Remove", path, None)?;
    gone(&vm, path)?;
    pmem_change(&vm, "Remove", path, None)?;

    let parts = [(0, PART, "first"), (PART, PART, "second")];
    for (offset, size, name) in parts {
        let path = format!("/run/layers/p0-{offset}-{size}");
        pmem_change(&vm, "Add", &path, Some((offset, size)))?;
        let line = mount_line(&vm, &path)?;
        let device = format!("/dev/mapper/dm-linear-pmem0-{offset}-{size} ext4 ro");
        contains("the mount", &device, &line)?;
        same("the layer", name, vm.sh(&format!("cat {path}/who"))?)?;
    }
    for (offset, size, _) in parts {
        let path = format!("/run/layers/p0-{offset}-{size}");
        pmem_change(&vm, "Remove", &path, Some((offset, size)))?;
        gone(&vm, &path)?;
    }
    Ok(())
}

pub fn linear(lab: &mut Lab) -> Checked {
    let (_dir, vm) = with_pmem(lab)?;
    let path = "/run/layers/part";
    let none: [&str; 0] = [];
    pmem_change(&vm, "Add", path, Some((PART, PART)))?;
    let seen = vm.sh("cd /sys/block/dm-0 && cat dm/name size ro && ls slaves")?;
    let expected = format!("dm-linear-pmem0-{PART}-{PART}\n{}\n1\npmem0", PART / 512);
    same("the device", expected, seen)?;
    pmem_change(&vm, "Remove", path, Some((PART, PART)))?;
    same("mapped devices", none, mapped(&vm)?)?;
    same("nodes", "control", vm.sh("ls /dev/mapper")?)?;

    // No file system there; no such place; no such device.
    for part in [(2 * PART, PART), (64 * PART, PART)] {
        refused(pmem_change(&vm, "Add", path, Some(part)), codes::FAIL)?;
        same("mapped devices after a failure", none, mapped(&vm)?)?;
        gone(&vm, path)?;
    }
    let began = Instant::now();
    let missing = json!({"DeviceNumber": 7, "MountPath": path,
        "MappingInfo": {"DeviceSizeInBytes": PART}});
    refused(vm.modify("VPMemDevice", "Add", missing), codes::FAIL)?;
    let took = began.elapsed();
    that(
        took < Duration::from_secs(30),
        "a refusal within 30 s",
        format!("{took:?}"),
    )
}

/// Appends a hash tree for the file's blocks as dm-verity has it (version 1, SHA-256, the levels
/// from the top down); gives the digest of its root block.
fn append_hash_tree(file: &Path) -> Checked<String> {
    const SALT: [u8; 32] = [0xc3; 32];
    let data = fs::read(file)?;
    let blocks = data.len() / BLOCK;
    let hash = |block: &[u8]| {
        Sha256::new()
            .chain_update(SALT)
            .chain_update(block)
            .finalize()
    };
    let mut levels: Vec<Vec<u8>> = Vec::new();
    loop {
        let below = levels.last().unwrap_or(&data);
        let mut level: Vec<u8> = below.chunks(BLOCK).flat_map(hash).collect();
        level.resize(level.len().next_multiple_of(BLOCK), 0);
        let top = level.len() == BLOCK;
        levels.push(level);
        if top {
            break;
        }
    }
    let mut superblock = vec![0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| superblock[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"verity\0\0");
    put(8, &1_u32.to_le_bytes());
    put(12, &1_u32.to_le_bytes()); // hash type: the salt comes first
    put(32, b"sha256");
    put(64, &(BLOCK as u32).to_le_bytes());
    put(68, &(BLOCK as u32).to_le_bytes());
    put(72, &(blocks as u64).to_le_bytes());
    put(80, &(SALT.len() as u16).to_le_bytes());
    put(88, &SALT);
    let root = hex::encode(hash(&levels[levels.len() - 1]));
    let tail: Vec<u8> = superblock
        .into_iter()
        .chain(levels.into_iter().rev().flatten())
        .collect();
    File::options()
        .write(true)
        .open(file)?
        .write_all_at(&tail, data.len() as u64)?;
    Ok(root)
}

/// Changes one bit in the block that holds only 0x5a.
fn flip_a_bit(file: &Path) -> Checked {
    let data = fs::read(file)?;
    let mut blocks = data.chunks(BLOCK);
    let at = blocks.position(|block| block.iter().all(|byte| *byte == 0x5a));
    let at = at.ok_or_else(|| not_run("the block to be damaged was not found"))? * BLOCK;
    let file = File::options().write(true).open(file)?;
    Ok(file.write_all_at(&[0x5b], at as u64 + 100)?)
}

pub fn verity(lab: &mut Lab) -> Checked {
    let vm = lab.boot(|b| b.negotiate = false)?;
    vm.negotiate()?;
    // Before there is a policy: the tools' disk carries no hash tree.
    vm.tools()?;
    // base64 of {"allow_all":true}
    let policy = json!({"EnforcerType": "open_door",
        "EncodedSecurityPolicy": "eyJhbGxvd19hbGwiOnRydWV9"});
    vm.modify("SecurityPolicy", "Add", policy)?;

    let mut digest = String::new();
    let disk = PluggedDisk::of(&vm, 0, |file| {
        layer(file, "verified", 16 * MIB)?;
        digest = append_hash_tree(file)?;
        Ok(())
    })?;
    disk.add(json!({"ReadOnly": true, "Options": ["ro"]}))?;
    let name = format!("dm-verity-scsi-contr0-lun{}-p0-{digest}", disk.lun());
    same("mapped devices", [name.as_str()], mapped(&vm)?)?;
    contains("the mount", "ext4 ro", &mount_line(&vm, &disk.path)?)?;
    same(
        "the layer",
        "verified",
        vm.sh(&format!("cat {}/who", disk.path))?,
    )?;
    vm.sh(&format!("cat {}/data >/dev/null", disk.path))?;
    let size = vm.sh("cat /sys/block/dm-0/size")?;
    same("sectors", (16 * MIB / 512).to_string(), size)?;
    disk.remove()?;
    let none: [&str; 0] = [];
    same("mapped devices after the removal", none, mapped(&vm)?)?;

    let damaged = PluggedDisk::of(&vm, 0, |file| {
        layer(file, "damaged", 16 * MIB)?;
        append_hash_tree(file)?;
        flip_a_bit(file)
    })?;
    damaged.add(json!({"ReadOnly": true, "Options": ["ro"]}))?;
    same(
        "the other file",
        "damaged",
        vm.sh(&format!("cat {}/who", damaged.path))?,
    )?;
    let read = vm.shell(&format!("cat {}/data", damaged.path))?.run()?;
    that(
        read.code != 0,
        "no read of the damaged block",
        "one that succeeded",
    )?;
    let words = read.error_text().to_lowercase();
    let io = words.contains("i/o error") || words.contains("input/output error");
    that(io, "an I/O error", words)?;
    damaged.remove()?;

    // No tree at all.
    let plain = PluggedDisk::of(&vm, 0, |file| layer(file, "plain", 16 * MIB))?;
    refused(plain.add(json!({"ReadOnly": true})), codes::FAIL)?;
    gone(&vm, &plain.path)?;
    same("mapped devices in the end", none, mapped(&vm)?)
}

fn crypt_name(disk: &PluggedDisk<'_>) -> String {
    format!("dm-crypt-scsi-contr0-lun{}-p0", disk.lun())
}

/// Adds the disk encrypted.
fn add_encrypted(disk: &PluggedDisk<'_>) -> Result<(), HostError> {
    disk.add(json!({"Encrypted": true, "EnsureFilesystem": true, "Filesystem": "ext4"}))
}

pub fn removal_by_record(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let disk = PluggedDisk::blank(&vm)?;
    let before = mapped(&vm)?;
    for _ in 0..2 {
        add_encrypted(&disk)?;
        that(mapped(&vm)? != before, "a mapped device", "none")?;
        // What is sent here says nothing of encryption.
        disk.remove()?;
        same("mapped devices", before.clone(), mapped(&vm)?)?;
        gone(&vm, &disk.path)?;
    }
    Ok(())
}

pub fn crypt(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let disk = PluggedDisk::blank(&vm)?;
    let secret = "a line that must not be found on the disk";
    add_encrypted(&disk)?;
    let name = crypt_name(&disk);
    let device = format!("/dev/mapper/{name} ext4 rw");
    contains("the mount", &device, &mount_line(&vm, &disk.path)?)?;
    vm.sh(&format!(
        "cd {} && for n in $(seq 200); do echo {secret}; done > f && sync",
        disk.path
    ))?;
    let image = fs::read(disk.file())?;
    let found = image
        .windows(secret.len())
        .any(|bytes| bytes == secret.as_bytes());
    that(!found, "a disk without the plain text", "the plain text")?;
    let written = image
        .chunks(BLOCK)
        .filter(|block| block.iter().any(|byte| *byte != 0))
        .count();
    that(
        written > 8,
        "something on the disk",
        format!("{written} blocks"),
    )?;
    disk.remove()?;
    let left = mapped(&vm)?
        .into_iter()
        .find(|left| left.starts_with(&name));
    same("what is left", None::<String>, left)?;
    // Closed for good: another key, an empty file system.
    add_encrypted(&disk)?;
    same(
        "the file",
        "",
        vm.sh(&format!("ls {} | grep -v lost+found; true", disk.path))?,
    )?;
    disk.remove()?;
    // A failure closes it as well.
    refused(disk.add(json!({"Encrypted": true})), codes::FAIL)?;
    let left = mapped(&vm)?
        .into_iter()
        .find(|left| left.starts_with(&name));
    same("what a failure leaves", None::<String>, left)?;
    gone(&vm, &disk.path)
}

pub fn pci(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let guid = "7d2f8c3e-6a0b-4b8f-8a51-55a1b2c3d4e5";
    refused(
        vm.modify("VPCIDevice", "Remove", json!({"VMBusGUID": guid})),
        codes::FAIL,
    )?;
    let body = json!({"Request": {"ResourceType": "VPCIDevice", "RequestType": "Add",
        "Settings": {"VMBusGUID": guid}}});
    let began = Instant::now();
    let mut pending = vm.send(Rpc::ModifySettings, UVM_ID, body)?;
    // It keeps nobody else waiting.
    vm.sh("true")?;
    pending.answer(Duration::from_secs(120))?.is(codes::FAIL)?;
    let took = began.elapsed();
    that(
        took > Duration::from_secs(1),
        "some patience",
        format!("{took:?}"),
    )
}
