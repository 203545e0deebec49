//! A VM as data: everything about it that can be chosen.

use std::path::{Path, PathBuf};

/// The machine types worth having (design: q35 for SCSI on PCI, microvm for start time).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Machine {
    Q35,
    Microvm,
}

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    Tcg,
    Kvm,
}

impl Accel {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        }
    }
}

/// How the guest's vsock reaches the host; `Auto` takes the kernel's when it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum VsockWish {
    Auto,
    /// The vhost-user device of this project (`uvm-vsock`).
    Device,
    /// `/dev/vhost-vsock`.
    Kernel,
    /// No vsock at all; for tests of the VM alone.
    None,
}

/// What a host writes to start the service: protocol 10.3 and 16.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BootForm {
    /// `/bin/vsockexec -e 109 /bin/gcs ...`
    Vsockexec,
    /// `/bin/vsockexec -o 109 -e 109 /bin/gcs ...`
    BothOutputs,
    /// `sh -c "/bin/vsockexec ... & exec sh"`, what a host with a console sends
    Shell,
    /// `/bin/vsockexec -r -e 109 /bin/gcs ...`, for a VM that may migrate
    Reconnect,
    /// `sh -c"/bin/vsockexec ...& exec sh"`, the new shim with a console
    Console,
    /// The same with `-r`
    ReconnectConsole,
}

impl BootForm {
    pub const ALL: [Self; 6] = [
        Self::Vsockexec,
        Self::BothOutputs,
        Self::Shell,
        Self::Reconnect,
        Self::Console,
        Self::ReconnectConsole,
    ];
}

/// A disk that is plugged in from the start, on controller 0 at its place in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColdDisk {
    pub path: PathBuf,
    pub format: String,
    pub read_only: bool,
}

impl ColdDisk {
    /// A boot disk of the host: VHD or VHDX by its name, else raw.
    pub fn boot(path: PathBuf) -> Self {
        let format = match path.extension().and_then(|ending| ending.to_str()) {
            Some("vhd") => "vpc",
            Some("vhdx") => "vhdx",
            _ => "raw",
        };
        Self {
            path,
            format: format.into(),
            read_only: true,
        }
    }
}

/// What the kernel mounts as its root; protocol 10.3 has a form of the kernel line for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// Unpacked into memory.
    Initrd(PathBuf),
    /// The first disk of the first controller.
    Scsi(ColdDisk),
    /// The first persistent memory device; a VHD's footer is left out. Needs PCI.
    Pmem(PathBuf),
    /// dm-verity over the first disk; its hash tree is there too or on the second.
    Verity {
        disks: Vec<ColdDisk>,
        /// `dm-mod.create`, without quotes.
        create: String,
    },
    /// The first disk has everything, kernel and kernel line included, and firmware starts it. What
    /// the profile says of the kernel, its line and PID 1's arguments has no effect.
    Uefi {
        /// UEFI for QEMU (OVMF), code and variables in one file.
        firmware: PathBuf,
        disk: ColdDisk,
    },
}

impl Root {
    /// Every file that it is made of, and what to call them.
    pub fn files(&self) -> (&'static str, Vec<&PathBuf>) {
        match self {
            Self::Initrd(file) => ("initrd", vec![file]),
            Self::Pmem(file) => ("root disk", vec![file]),
            Self::Uefi { firmware, disk } => {
                ("UEFI firmware or boot disk", vec![firmware, &disk.path])
            }
            _ => (
                "root disk",
                self.disks().iter().map(|disk| &disk.path).collect(),
            ),
        }
    }

    fn disks(&self) -> &[ColdDisk] {
        match self {
            Self::Initrd(_) | Self::Pmem(_) => &[],
            Self::Scsi(disk) | Self::Uefi { disk, .. } => std::slice::from_ref(disk),
            Self::Verity { disks, .. } => disks,
        }
    }
}

/// A TCP port of this machine's loopback that leads into the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    pub host: u16,
    pub guest: u16,
}

/// Everything about a VM that can be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    pub machine: Machine,
    pub memory_mib: u32,
    pub cpus: u32,
    /// A PVH `vmlinux` or a bzImage.
    pub kernel: PathBuf,
    pub root: Option<Root>,
    pub form: BootForm,
    /// `-w` for PID 1: `/etc` and `/var` can be written to on a root that cannot.
    pub writable_overlays: bool,
    /// `-loglevel` of the service.
    pub guest_log_level: String,
    /// More flags for the service.
    pub service_flags: Vec<String>,
    /// More kernel options, after ours, as a host has its user's options.
    pub kernel_options: Vec<String>,
    /// Everything on the kernel line from `--` on, instead of the tool's own arguments.
    pub init_line: Option<String>,
    /// The kernel talks to the serial console, so that a panic is seen.
    pub serial_console: bool,
    /// All kernel messages on the console instead of `quiet`.
    pub verbose_boot: bool,
    /// The frequency of the host's time stamp counter in kHz, so that the kernel does not have to
    /// measure it. A microvm that has to hangs now and then.
    pub tsc_khz: Option<u64>,
    pub vsock: VsockWish,
    /// SCSI controllers, 1 to 4.
    pub controllers: u8,
    /// After those of the root.
    pub disks: Vec<ColdDisk>,
    /// Persistent memory devices (`/dev/pmem<n>`), raw files of whole 2 MiB, after the root's. Needs
    /// PCI.
    pub pmem: Vec<PathBuf>,
    /// Slots for more of them, which are plugged in later (`Qmp::plug_pmem`).
    pub pmem_slots: u8,
    /// Adapters on the VM's one user-mode network; see [`network`](crate::network).
    pub nics: u8,
    /// TCP ports of this machine's loopback that lead to the first adapter's address.
    pub forwards: Vec<Forward>,
    /// Where the serial console is kept. Without one it is removed with the private directory.
    pub console_log: Option<PathBuf>,
    /// More arguments for QEMU.
    pub qemu_arguments: Vec<String>,
}

impl Profile {
    pub fn new(kernel: impl Into<PathBuf>, initrd: Option<PathBuf>) -> Self {
        Self {
            machine: Machine::Q35,
            memory_mib: 256,
            cpus: 1,
            kernel: kernel.into(),
            root: initrd.map(Root::Initrd),
            form: BootForm::Vsockexec,
            writable_overlays: false,
            guest_log_level: "debug".into(),
            service_flags: Vec::new(),
            kernel_options: Vec::new(),
            init_line: None,
            serial_console: true,
            verbose_boot: false,
            tsc_khz: None,
            vsock: VsockWish::Auto,
            controllers: 1,
            disks: Vec::new(),
            pmem: Vec::new(),
            pmem_slots: 0,
            nics: 0,
            forwards: Vec::new(),
            console_log: None,
            qemu_arguments: Vec::new(),
        }
    }

    /// The file that is unpacked into memory, where that is the root.
    pub fn initrd(&self) -> Option<&PathBuf> {
        match &self.root {
            Some(Root::Initrd(file)) => Some(file),
            _ => None,
        }
    }

    /// All disks in the order of their LUNs.
    pub fn cold_disks(&self) -> impl Iterator<Item = &ColdDisk> {
        let root = self.root.as_ref().map_or(&[][..], Root::disks);
        root.iter().chain(&self.disks)
    }

    /// All persistent memory, with its length in bytes; only a root is never written.
    pub(crate) fn cold_pmem(&self) -> impl Iterator<Item = (&PathBuf, u64, bool)> {
        let root = match &self.root {
            Some(Root::Pmem(file)) => Some((file, length(file) >> 20 << 20, true)),
            _ => None,
        };
        let others = self.pmem.iter().map(|file| (file, length(file), false));
        root.into_iter().chain(others)
    }
}

/// 0 for a missing file, whose error from QEMU is better.
fn length(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |metadata| metadata.len())
}
