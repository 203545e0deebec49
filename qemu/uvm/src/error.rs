//! What booting a VM, or plugging something into it, can fail with.

use uvm_host::HostError;
use uvm_vm::qmp::QmpError;
use uvm_vm::VmError;

#[derive(Debug, thiserror::Error)]
pub enum UvmError {
    #[error(transparent)]
    Vm(#[from] VmError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("{source}; the console's last lines:\n{console}")]
    NotReady { source: HostError, console: String },
    #[error("a private directory for the VM: {0}")]
    Dir(std::io::Error),
    #[error(transparent)]
    Vsock(#[from] uvm_vsock::Error),
    #[error("the disk {file}: {source}")]
    Disk { file: String, source: QmpError },
    #[error("all LUNs of the VM's {controllers} SCSI controllers are taken")]
    NoLun { controllers: u8 },
    #[error("persistent memory {file}: {source}")]
    Pmem { file: String, source: QmpError },
    #[error("{file} cannot be persistent memory: {why}")]
    NotPmem { file: String, why: String },
    #[error(
        "a microvm takes no persistent memory while it runs: it has no PCI; boot it with \
         --machine q35"
    )]
    NoPci,
    #[error(
        "all {slots} places for persistent memory are taken; QEMU cannot unplug it, so they stay \
         taken until the VM ends: boot it with more (--pmem-slots)"
    )]
    NoSlot { slots: u8 },
}
