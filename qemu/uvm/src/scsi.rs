//! Which SCSI addresses of the VM have a disk.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use uvm_vm::profile::Profile;
use uvm_vm::qmp::ScsiAddress;
use uvm_vm::Vm;

use crate::error::UvmError;

/// Of each controller.
const LUNS: u8 = 64;
const UNPLUG_LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct ScsiDisks {
    controllers: u8,
    taken: Mutex<BTreeSet<ScsiAddress>>,
}

impl ScsiDisks {
    /// A VM starts with the disks of its profile, at the first LUNs of controller 0.
    pub(crate) fn new(profile: &Profile) -> Self {
        let cold = (0..LUNS).take(profile.cold_disks().count());
        let taken = cold.map(|lun| ScsiAddress { controller: 0, lun }).collect();
        Self {
            controllers: profile.controllers,
            taken: Mutex::new(taken),
        }
    }

    pub(crate) fn plug(
        &self,
        vm: &Vm,
        file: &Path,
        format: &str,
        read_only: bool,
    ) -> Result<ScsiAddress, UvmError> {
        let address = self.take()?;
        let plugged = vm.qmp().plug(&address, file, format, read_only);
        plugged.map_err(|source| {
            self.lock().remove(&address);
            UvmError::Disk {
                file: file.display().to_string(),
                source,
            }
        })?;
        Ok(address)
    }

    pub(crate) fn unplug(&self, vm: &Vm, address: ScsiAddress) -> Result<(), UvmError> {
        let unplugged = vm.qmp().unplug(&address, UNPLUG_LIMIT);
        unplugged.map_err(|source| UvmError::Disk {
            file: format!("at {address}"),
            source,
        })?;
        self.lock().remove(&address);
        Ok(())
    }

    fn take(&self) -> Result<ScsiAddress, UvmError> {
        let controllers = self.controllers;
        let address = |controller| move |lun| ScsiAddress { controller, lun };
        let mut all = (0..controllers).flat_map(|number| (0..LUNS).map(address(number)));
        let mut taken = self.lock();
        let free = all.find(|address| !taken.contains(address));
        let free = free.ok_or(UvmError::NoLun { controllers })?;
        taken.insert(free);
        Ok(free)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<ScsiAddress>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
