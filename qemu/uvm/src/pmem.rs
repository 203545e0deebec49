//! Persistent memory that was plugged into the running VM. QEMU cannot unplug it. A device that the
//! guest does not use any more waits until its file is attached again.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use uvm_vm::profile::{Machine, Profile};
use uvm_vm::Vm;

use crate::error::UvmError;

/// Linux takes persistent memory in units of this many bytes.
const UNIT: u64 = 2 << 20;

pub(crate) struct PmemDevices {
    machine: Machine,
    /// The number of devices from the start of the VM, which have the first numbers.
    cold: u32,
    slots: u8,
    plugged: Mutex<Vec<PluggedFile>>,
}

struct PluggedFile {
    /// The same file, whatever its path: device and inode.
    id: (u64, u64),
    in_use: bool,
}

impl PmemDevices {
    pub(crate) fn new(profile: &Profile) -> Self {
        Self {
            machine: profile.machine,
            cold: u32::try_from(profile.pmem.len()).unwrap_or(u32::MAX),
            slots: profile.pmem_slots,
            plugged: Mutex::default(),
        }
    }

    /// Plugs a file in, unless it still is and is not used. Returns its device number.
    pub(crate) fn plug(&self, vm: &Vm, file: &Path) -> Result<u32, UvmError> {
        if self.machine == Machine::Microvm {
            return Err(UvmError::NoPci);
        }
        let not = |why: String| UvmError::NotPmem {
            file: file.display().to_string(),
            why,
        };
        let metadata = file.metadata().map_err(|e| not(e.to_string()))?;
        if !metadata.is_file() || metadata.len() == 0 || metadata.len() % UNIT != 0 {
            let why = "it is not a file whose size is a multiple of 2 MiB";
            return Err(not(why.into()));
        }
        let id = (metadata.dev(), metadata.ino());
        let mut plugged = self.lock();
        if let Some(index) = plugged.iter().position(|other| other.id == id) {
            if plugged[index].in_use {
                return Err(not("the VM has it already".into()));
            }
            plugged[index].in_use = true;
            return Ok(self.number(index));
        }
        let index = plugged.len();
        let slot = u8::try_from(index).ok().filter(|slot| *slot < self.slots);
        let slot = slot.ok_or(UvmError::NoSlot { slots: self.slots })?;
        let outcome = vm.qmp().plug_pmem(slot, file, metadata.len());
        outcome.map_err(|source| UvmError::Pmem {
            file: file.display().to_string(),
            source,
        })?;
        plugged.push(PluggedFile { id, in_use: true });
        Ok(self.number(index))
    }

    /// Notes that the guest no longer uses a device.
    pub(crate) fn park(&self, number: u32) {
        let index = number.checked_sub(self.cold).map(|index| index as usize);
        let mut plugged = self.lock();
        if let Some(file) = index.and_then(|index| plugged.get_mut(index)) {
            file.in_use = false;
        }
    }

    fn number(&self, index: usize) -> u32 {
        self.cold + u32::try_from(index).unwrap_or(u32::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<PluggedFile>> {
        self.plugged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
