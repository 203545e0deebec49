//! Directories over 9P, disk images over SCSI and files as persistent memory that this machine
//! gives to a running VM, each at a path of the VM.
//!
//! ```text
//! directory ── a 9P server, on the connection that the guest opens ── MappedDirectory
//! disk      ── SCSI hot-plug ── MappedVirtualDisk
//! memory    ── virtio-pmem behind a root port ── VPMemDevice
//! ```
//!
//! A failed attach leaves nothing in the guest or in QEMU, and a failed removal can be tried again.
//! The exception is persistent memory, which QEMU cannot unplug. Such a device stays unmounted, and
//! is used again when its file is.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde_json::json;

use uvm_vm::qmp::ScsiAddress;

use crate::attach_error::AttachError;
use crate::share::{self, ShareServer};
use crate::uvm::Uvm;

/// One of them, mounted.
pub struct Attachment {
    path: String,
    what: What,
}

enum What {
    Share(ShareServer),
    Disk(ScsiAddress),
    /// By its device number.
    Pmem(u32),
}

impl Attachment {
    /// Shares a directory of this machine at `path` of the VM, or a file as the only entry there.
    pub fn share(
        vm: &Uvm,
        source: &Path,
        path: &str,
        read_only: bool,
    ) -> Result<Self, AttachError> {
        let server = share::share(vm, source, path, read_only)?;
        Ok(Self::new(path, What::Share(server)))
    }

    /// Mounts a disk image at `path` of the VM. Its name decides its format.
    pub fn disk(vm: &Uvm, file: &Path, path: &str, read_only: bool) -> Result<Self, AttachError> {
        Self::disk_with(vm, file, path, read_only, &[])
    }

    /// Mounts a disk image so that mounts below `path` propagate to its bind mounts.
    pub fn shared_disk(vm: &Uvm, file: &Path, path: &str) -> Result<Self, AttachError> {
        Self::disk_with(vm, file, path, false, &["shared"])
    }

    fn disk_with(
        vm: &Uvm,
        file: &Path,
        path: &str,
        read_only: bool,
        options: &[&str],
    ) -> Result<Self, AttachError> {
        let address = vm.plug_disk(file, format_of(file), read_only)?;
        let settings = json!({"MountPath": path, "Lun": address.lun, "Options": options,
            "Controller": address.controller, "ReadOnly": read_only});
        let mounted = vm.modify("MappedVirtualDisk", "Add", settings);
        if let Err(e) = mounted.map_err(AttachError::mount(path)) {
            if let Err(undo) = vm.eject_disk(address) {
                log::error!("a disk that cannot be mounted stays plugged in: {undo}");
            }
            return Err(e);
        }
        Ok(Self::new(path, What::Disk(address)))
    }

    /// Mounts a raw file as persistent memory, read-only as all of it is, at `path` of the VM.
    pub fn pmem(vm: &Uvm, file: &Path, path: &str) -> Result<Self, AttachError> {
        let failed = |source| AttachError::Source {
            path: file.display().to_string(),
            source,
        };
        if !has_file_system(file).map_err(failed)? {
            let path = file.display().to_string();
            return Err(AttachError::NoFileSystem { path });
        }
        let number = vm.plug_pmem(file)?;
        let settings = json!({"DeviceNumber": number, "MountPath": path});
        let mounted = vm.modify("VPMemDevice", "Add", settings);
        if let Err(e) = mounted.map_err(AttachError::mount(path)) {
            vm.park_pmem(number);
            return Err(e);
        }
        Ok(Self::new(path, What::Pmem(number)))
    }

    fn new(path: &str, what: What) -> Self {
        let path = path.to_owned();
        Self { path, what }
    }

    /// Where it is in the VM.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Takes it away again; nothing in the VM may use it. It can be called again after a failure.
    pub fn remove(&mut self, vm: &Uvm) -> Result<(), AttachError> {
        let path = &self.path;
        match &mut self.what {
            What::Share(server) => {
                let settings = json!({"MountPath": path, "Port": server.port()});
                vm.modify("MappedDirectory", "Remove", settings)
                    .map_err(AttachError::unmount(path))?;
                server.end();
            }
            What::Disk(address) => {
                let settings = json!({"MountPath": path, "Lun": address.lun,
                    "Controller": address.controller});
                vm.modify("MappedVirtualDisk", "Remove", settings)
                    .map_err(AttachError::unmount(path))?;
                vm.eject_disk(*address)?;
            }
            What::Pmem(number) => {
                let settings = json!({"DeviceNumber": *number, "MountPath": path});
                vm.modify("VPMemDevice", "Remove", settings)
                    .map_err(AttachError::unmount(path))?;
                vm.park_pmem(*number);
            }
        }
        Ok(())
    }
}

/// QEMU's name of an image's format, by the file's own.
pub fn format_of(file: &Path) -> &'static str {
    let extension = file
        .extension()
        .map(|extension| extension.to_ascii_lowercase());
    match extension
        .as_deref()
        .and_then(|extension| extension.to_str())
    {
        Some("vhd") => "vpc",
        Some("vhdx") => "vhdx",
        Some("qcow2") => "qcow2",
        _ => "raw",
    }
}

/// Offset and bytes of the file systems that the guest finds by content.
const MAGICS: [(usize, &[u8]); 4] = [
    (1024 + 0x38, &[0x53, 0xef]),
    (0, b"XFSB"),
    (1024, &[0xe2, 0xe1, 0xf5, 0xe0]),
    (0, b"hsqs"),
];

fn has_file_system(file: &Path) -> io::Result<bool> {
    let mut head = Vec::new();
    File::open(file)?.take(4096).read_to_end(&mut head)?;
    Ok(MAGICS
        .iter()
        .any(|(at, magic)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_formats() {
        for (name, format) in [
            ("a.vhd", "vpc"),
            ("a.VHDX", "vhdx"),
            ("a.qcow2", "qcow2"),
            ("a.img", "raw"),
            ("a", "raw"),
        ] {
            assert_eq!(format_of(Path::new(name)), format, "{name}");
        }
    }

    #[test]
    fn content_tells_file_systems() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        for (at, magic) in MAGICS {
            let mut bytes = vec![0; at];
            bytes.extend_from_slice(magic);
            std::fs::write(&file, &bytes).unwrap();
            assert!(has_file_system(&file).unwrap());
            bytes[at] ^= 1;
            std::fs::write(&file, &bytes).unwrap();
            assert!(!has_file_system(&file).unwrap());
        }
    }
}
