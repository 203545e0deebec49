//! Disks of scenarios.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{json, Value};
use tempfile::TempDir;

use crate::{fail, Checked, Guest};
use uvm_host::HostError;
use uvm_images::tool_path;
use uvm_vm::qmp::ScsiAddress;

pub const MIB: u64 = 1 << 20;

/// A disk that is plugged in, and a path for it. Dropping it unmounts and unplugs.
pub struct PluggedDisk<'g> {
    vm: &'g Guest,
    address: ScsiAddress,
    pub path: String,
    file: PathBuf,
    _dir: TempDir,
}

/// A file that is removed with its directory.
pub fn file(bytes: u64) -> Checked<(TempDir, PathBuf)> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("disk");
    File::create(&file)?.set_len(bytes)?;
    Ok((dir, file))
}

impl<'g> PluggedDisk<'g> {
    /// Blank and writable.
    pub fn blank(vm: &'g Guest) -> Checked<Self> {
        Self::of(vm, 64 * MIB, |_| Ok(()))
    }

    /// Writable, with what `fill` puts on it.
    pub fn of(vm: &'g Guest, bytes: u64, fill: impl FnOnce(&Path) -> Checked) -> Checked<Self> {
        let (dir, file) = file(bytes)?;
        fill(&file)?;
        let address = vm.plug_disk(&file, "raw", false)?;
        Ok(Self {
            vm,
            address,
            path: vm.fresh("/run/mounts/scsi/lab"),
            file,
            _dir: dir,
        })
    }

    pub fn lun(&self) -> u8 {
        self.address.lun
    }

    pub fn address(&self) -> ScsiAddress {
        self.address
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    fn settings(&self, more: Value) -> Value {
        let mut settings = json!({
            "MountPath": self.path, "Lun": self.address.lun, "Controller": self.address.controller});
        if let (Some(settings), Value::Object(more)) = (settings.as_object_mut(), more) {
            settings.extend(more);
        }
        settings
    }

    pub fn add(&self, more: Value) -> Result<(), HostError> {
        let settings = self.settings(more);
        self.vm.modify("MappedVirtualDisk", "Add", settings)
    }

    /// With an ext4 file system made by the guest, if there is none.
    pub fn add_ext4(&self) -> Result<(), HostError> {
        self.add(json!({"EnsureFilesystem": true, "Filesystem": "ext4"}))
    }

    /// With the members that a v0.12.3 host sends.
    pub fn remove(&self) -> Result<(), HostError> {
        self.vm
            .modify("MappedVirtualDisk", "Remove", self.settings(json!({})))
    }

    pub fn keep(&self, name: &str) -> Checked {
        self.vm
            .sh(&format!("echo kept > {}/{name} && sync", self.path))
            .map(drop)
    }

    pub fn has(&self, name: &str) -> Checked {
        let seen = self.vm.sh(&format!("cat {}/{name}", self.path))?;
        crate::same(name, "kept", seen)
    }
}

impl Drop for PluggedDisk<'_> {
    fn drop(&mut self) {
        // This may fail, because the scenario may have done it already, or failed.
        if self.vm.ended().is_none() {
            drop(self.remove());
            drop(self.vm.eject_disk(self.address));
        }
    }
}

/// The options and the type of what is mounted at a path: `/dev/sda ext4 ro,relatime`.
pub fn mount_line(vm: &Guest, path: &str) -> Checked<String> {
    let mounts = vm.sh("cat /proc/mounts")?;
    let lines = mounts.lines().filter_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            [source, at, kind, options, ..] if *at == path => {
                Some(format!("{source} {kind} {options}"))
            }
            _ => None,
        }
    });
    let lines: Vec<String> = lines.collect();
    match lines.as_slice() {
        [line] => Ok(line.clone()),
        other => Err(fail(format!("one mount at {path}"), format!("{other:?}"))),
    }
}

/// Nothing is mounted there and the directory is gone.
pub fn gone(vm: &Guest, path: &str) -> Checked {
    let script = format!("grep ' {path} ' /proc/mounts; ls -d {path} 2>/dev/null; true");
    let seen = vm.sh(&script)?;
    crate::that(
        seen.is_empty(),
        format!("no mount and no directory {path}"),
        seen,
    )
}

/// Names of the mapped devices of the VM.
pub fn mapped(vm: &Guest) -> Checked<Vec<String>> {
    let names = vm.sh("cat /sys/block/dm-*/dm/name 2>/dev/null; true")?;
    Ok(names.lines().map(str::to_owned).collect())
}

/// A tool of this machine on a file of ours.
pub fn tool(args: &[&str], file: &Path) -> Checked {
    let mut command = Command::new(args[0]);
    command.args(&args[1..]).arg(file).env("PATH", tool_path());
    let done = match command.output() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(crate::not_run(format!(
                "{} is not installed on this machine",
                args[0]
            )))
        }
        done => done?,
    };
    let said = String::from_utf8_lossy(&done.stderr);
    crate::that(
        done.status.success(),
        format!("{} to succeed", args[0]),
        said,
    )
}
