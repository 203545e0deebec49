//! A standalone container on its own disks, from mounted layers to removed state, in the order in
//! which a Windows host sends it (protocol.md 11.3).
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

use crate::{Uvm, UvmError};
use uvm_host::{Disk, Host, HostError, Launch};
use uvm_vm::qmp::Place;

/// A host waits this long for the exit notification, twice (protocol.md 11.1).
const NOTIFICATION_LIMIT: Duration = Duration::from_secs(30);

/// What plugs disks in; QEMU, unless a test has no VM.
pub trait Plug {
    fn plug(&self, file: &Path, read_only: bool) -> Result<Place, UvmError>;
}

impl Plug for Uvm {
    fn plug(&self, file: &Path, read_only: bool) -> Result<Place, UvmError> {
        self.attach_disk(file, "raw", read_only)
    }
}

/// A container whose root file system is mounted in the guest.
pub struct Container {
    host: Host,
    id: String,
    /// As mounted: the scratch disk first, then the layers from the bottom up.
    disks: Vec<Disk>,
}

/// The bundle directory of a container (protocol.md 5.3).
pub fn bundle(id: &str) -> String {
    format!("/run/gcs/c/{id}")
}

/// Where its root file system is mounted.
pub fn root(id: &str) -> String {
    format!("/run/gcs/c/{id}/rootfs")
}

fn mount_path(index: usize) -> String {
    format!("/run/mounts/scsi/m{index}")
}

impl Container {
    /// Plugs the disks in and mounts them and their overlay. `layers` from the bottom up.
    pub fn mount(
        host: &Host,
        plug: &impl Plug,
        id: &str,
        scratch: &Path,
        layers: &[&Path],
    ) -> Result<Self, UvmError> {
        let mut container = Self {
            host: host.clone(),
            id: id.to_owned(),
            disks: Vec::new(),
        };
        let files = std::iter::once((scratch, false));
        let files = files.chain(layers.iter().map(|layer| (*layer, true)));
        for (index, (file, read_only)) in files.enumerate() {
            let place = plug.plug(file, read_only)?;
            container.disks.push(Disk {
                controller: place.controller,
                lun: place.lun,
                mount_path: mount_path(index),
                read_only,
                ensure_filesystem: (!read_only).then(|| "ext4".to_owned()),
            });
        }
        for disk in &container.disks {
            host.add_disk(disk)?;
        }
        // The wire wants the topmost first.
        let paths = container.disks.iter().skip(1).rev();
        let paths: Vec<String> = paths.map(|disk| disk.mount_path.clone()).collect();
        let scratch = container.scratch_dir();
        host.combine_layers(id, &root(id), &paths, Some(&scratch))?;
        Ok(container)
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Create and Start; the program starts with [`Container::init`].
    pub fn create(&self, spec: &Value) -> Result<(), HostError> {
        let bundle = bundle(&self.id);
        self.host
            .create(&self.id, &bundle, spec, &self.scratch_dir())?;
        self.host.start(&self.id)
    }

    /// The first process, as the spec said.
    pub fn init(&self) -> Launch {
        self.host.init(&self.id)
    }

    /// Ends the container and has its mounts and state removed. The places of its disks come
    /// back: the guest has let go of them, unplugging is left to who plugged.
    pub fn remove(self) -> Result<Vec<Place>, HostError> {
        self.stop()?;
        self.host.remove_layers(&root(&self.id))?;
        for disk in self.disks.iter().rev() {
            self.host.remove_disk(disk)?;
        }
        for disk in self.disks.iter().rev() {
            self.host.remove_scsi_device(disk.controller, disk.lun)?;
        }
        self.host.delete(&self.id)?;
        let place = |disk: &Disk| Place {
            controller: disk.controller,
            lun: disk.lun,
        };
        Ok(self.disks.iter().map(place).collect())
    }

    /// ShutdownGraceful, also of one that has exited, and its notification; then the forced way.
    fn stop(&self) -> Result<(), HostError> {
        self.shutdown(false)?;
        let exited = self.host.wait_notification(&self.id, NOTIFICATION_LIMIT);
        if let Err(HostError::Timeout { .. }) = exited {
            self.shutdown(true)?;
            self.host.wait_notification(&self.id, NOTIFICATION_LIMIT)?;
            return Ok(());
        }
        exited.map(drop)
    }

    fn shutdown(&self, forced: bool) -> Result<(), HostError> {
        match self.host.shutdown(&self.id, forced) {
            // Gone already, which is what is wanted (protocol.md 11.3).
            Err(HostError::Refused { result, .. }) if result == NOT_FOUND => Ok(()),
            outcome => outcome,
        }
    }

    fn scratch_dir(&self) -> String {
        format!("{}/scratch/{}", mount_path(0), self.id)
    }
}

/// HCS_E_SYSTEM_NOT_FOUND.
const NOT_FOUND: i32 = 0xc037_010e_u32.cast_signed();
