//! A container on a root file system of its own: every request from its layers to the end of its
//! state, in the order in which a Windows host sends them (protocol 11.3).
//!
//! ```text
//! scratch disk, layer disks ─ CombinedLayers ─ Create ─ Start ─ ExecuteProcess, WaitForProcess
//!   … exit … ShutdownGraceful (Forced) ─ CombinedLayers, disks removed ─ DeleteContainerState
//! ```
//!
//! After a failure half-way the VM is to be thrown away, as a host does with a failed pod.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use uvm_host::{Host, HostError, Launch, MappedVirtualDisk};
use uvm_vm::qmp::ScsiAddress;

use crate::error::UvmError;
use crate::uvm::Uvm;

/// A host waits this long for the exit notification, twice (protocol 11.1).
const NOTIFICATION_LIMIT: Duration = Duration::from_secs(30);
/// Of each controller; a disk is mounted at a path with its number among all.
const LUNS: u32 = 64;
/// HCS_E_SYSTEM_NOT_FOUND.
const NOT_FOUND: i32 = 0xc037_010e_u32.cast_signed();

/// What plugs disks in: QEMU, unless a test has no VM.
pub trait Plug {
    fn plug(&self, file: &Path, read_only: bool) -> Result<ScsiAddress, UvmError>;
}

impl Plug for Uvm {
    fn plug(&self, file: &Path, read_only: bool) -> Result<ScsiAddress, UvmError> {
        self.plug_disk(file, "raw", read_only)
    }
}

/// What the root file system of a container is made of.
pub struct Rootfs {
    /// Directories of the VM, from the bottom up.
    layers: Vec<String>,
    /// The directory of the VM that takes the container's writes.
    scratch: String,
    /// To be mounted for it, in this order.
    disks: Vec<MappedVirtualDisk>,
}

impl Rootfs {
    /// Plugs the disks in without telling the guest. `scratch` is an ext4 disk that nothing else
    /// uses, `layers` are ext4 disks from the bottom up.
    pub fn plug(
        plug: &impl Plug,
        id: &str,
        scratch: &Path,
        layers: &[&Path],
    ) -> Result<Self, UvmError> {
        let disk = |file: &Path, read_only| -> Result<_, UvmError> {
            let ScsiAddress { controller, lun } = plug.plug(file, read_only)?;
            let number = u32::from(controller) * LUNS + u32::from(lun);
            let path = format!("/run/mounts/scsi/m{number}");
            Ok(MappedVirtualDisk::new(controller, lun, &path, read_only))
        };
        let mut scratch = disk(scratch, false)?;
        scratch.ensure_filesystem = Some("ext4".to_owned());
        let mut disks = vec![scratch];
        for layer in layers {
            disks.push(disk(layer, true)?);
        }
        let path = |disk: &MappedVirtualDisk| disk.mount_path.clone();
        Ok(Self {
            layers: disks[1..].iter().map(path).collect(),
            scratch: format!("{}/scratch/{id}", disks[0].mount_path),
            disks,
        })
    }

    /// Of directories that the VM has already; `layers` from the bottom up.
    pub fn of_directories(layers: &[&str], scratch: &str) -> Self {
        Self {
            layers: layers.iter().map(|layer| (*layer).to_owned()).collect(),
            scratch: scratch.to_owned(),
            disks: Vec::new(),
        }
    }

    pub fn scratch(&self) -> &str {
        &self.scratch
    }
}

/// A container whose root file system is mounted in the guest.
pub struct Container {
    host: Host,
    id: String,
    bundle: String,
    rootfs: Rootfs,
}

/// The bundle directory of a container (protocol 5.3).
pub fn bundle(id: &str) -> String {
    format!("/run/gcs/c/{id}")
}

/// Where its root file system is mounted.
pub fn root(id: &str) -> String {
    format!("{}/rootfs", bundle(id))
}

impl Container {
    /// Makes the guest mount the disks and their overlay.
    pub fn mount(host: &Host, id: &str, rootfs: Rootfs) -> Result<Self, HostError> {
        Self::mount_at(host, id, bundle(id), rootfs)
    }

    /// The same with a bundle elsewhere, as the hosts of 2026 have it.
    pub fn mount_at(
        host: &Host,
        id: &str,
        bundle: String,
        rootfs: Rootfs,
    ) -> Result<Self, HostError> {
        for disk in &rootfs.disks {
            host.add_disk(disk)?;
        }
        // The wire wants the topmost first.
        let layers: Vec<String> = rootfs.layers.iter().rev().cloned().collect();
        let container = Self {
            host: host.clone(),
            id: id.to_owned(),
            bundle,
            rootfs,
        };
        let scratch = Some(container.scratch());
        host.combine_layers(id, &container.root(), &layers, scratch)?;
        Ok(container)
    }

    pub fn bundle(&self) -> &str {
        &self.bundle
    }

    /// Where its root file system is mounted.
    pub fn root(&self) -> String {
        format!("{}/rootfs", self.bundle)
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its scratch directory, as the VM sees it.
    pub fn scratch(&self) -> &str {
        self.rootfs.scratch()
    }

    /// Create; its program has not been started.
    pub fn create(&self, spec: &Value) -> Result<(), HostError> {
        self.host
            .create(&self.id, &self.bundle, spec, self.scratch())
    }

    /// Start, which every host sends before the first process.
    pub fn start(&self) -> Result<(), HostError> {
        self.host.start(&self.id)
    }

    /// The first process, as the spec said.
    pub fn init(&self) -> Launch {
        self.host.init(&self.id)
    }

    /// One more process, by its `OciProcess`.
    pub fn exec(&self, process: &Value) -> Launch {
        self.host.exec(&self.id, process)
    }

    /// [Stops](Self::stop) and [releases](Self::release) it.
    pub fn remove(self) -> Result<Vec<ScsiAddress>, HostError> {
        self.stop()?;
        self.release()
    }

    /// ShutdownGraceful, also of one that has exited, and its notification; then the forced way.
    pub fn stop(&self) -> Result<(), HostError> {
        self.shutdown(false)?;
        let exited = self.host.wait_notification(&self.id, NOTIFICATION_LIMIT);
        if let Err(HostError::Timeout { .. }) = exited {
            self.shutdown(true)?;
            self.host.wait_notification(&self.id, NOTIFICATION_LIMIT)?;
            return Ok(());
        }
        exited.map(drop)
    }

    /// Removes the mounts and the state of a container that has ended. Returns the addresses of its
    /// disks: the guest does not use them any more, and the caller may unplug what it has plugged
    /// in.
    pub fn release(&self) -> Result<Vec<ScsiAddress>, HostError> {
        self.host.remove_layers(&self.root())?;
        let disks = &self.rootfs.disks;
        for disk in disks.iter().rev() {
            self.host.remove_disk(disk)?;
        }
        for disk in disks.iter().rev() {
            self.host.remove_scsi_device(disk.controller, disk.lun)?;
        }
        self.host.delete(&self.id)?;
        let address = |disk: &MappedVirtualDisk| ScsiAddress {
            controller: disk.controller,
            lun: disk.lun,
        };
        Ok(disks.iter().map(address).collect())
    }

    fn shutdown(&self, forced: bool) -> Result<(), HostError> {
        match self.host.shutdown(&self.id, forced) {
            // It is gone already, which is the aim (protocol 11.3).
            Err(HostError::Refused { result, .. }) if result == NOT_FOUND => Ok(()),
            outcome => outcome,
        }
    }
}
