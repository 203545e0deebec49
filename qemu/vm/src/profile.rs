//! A VM as data, and the pure way from there to QEMU's command line.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;

use crate::network::Nic;

/// QEMU's name of the user-mode network.
const NETWORK: &str = "net";

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
    /// The vhost-user device of this crate.
    Device,
    /// `/dev/vhost-vsock`.
    Kernel,
    /// No vsock at all; for tests of the VM alone.
    None,
}

/// The two forms of protocol.md 10.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BootForm {
    /// `/bin/vsockexec -e 109 /bin/gcs ...`
    Vsockexec,
    /// `sh -c "/bin/vsockexec ... & exec sh"`, what a host with a console sends.
    Shell,
}

/// A disk that is there from the start, on controller 0 at its place in the list.
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

/// What the kernel mounts as its root; protocol.md 10.3 has a form of the kernel line for each.
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
    /// The first disk has it all, kernel and kernel line included, and firmware starts it. What the
    /// profile says of kernel, its line and the guest's words has no effect.
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

    /// How the host's kernel line begins.
    fn line(&self) -> Option<String> {
        match self {
            Self::Initrd(_) | Self::Uefi { .. } => None,
            Self::Scsi(_) => Some("root=/dev/sda ro rootwait init=/init".into()),
            Self::Pmem(_) => Some("root=/dev/pmem0 ro rootwait init=/init".into()),
            Self::Verity { create, .. } => {
                let line = format!("root=/dev/dm-0 dm-mod.create=\"{create}\" init=/init");
                Some(line)
            }
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
    /// `-loglevel` of the service.
    pub guest_log_level: String,
    /// More flags for the service.
    pub service_flags: Vec<String>,
    /// More kernel options, behind ours, as a host's user options.
    pub kernel_options: Vec<String>,
    /// Everything on the kernel line from `--` on, instead of ours.
    pub init_line: Option<String>,
    /// The kernel talks to the serial console, so that a panic is seen.
    pub serial_console: bool,
    /// All kernel messages on the console instead of `quiet`.
    pub verbose_boot: bool,
    /// Of the host in kHz; a microvm that has to measure it hangs now and then.
    pub tsc_khz: Option<u64>,
    pub vsock: VsockWish,
    /// SCSI controllers, 1 to 4.
    pub controllers: u8,
    /// Behind those of the root.
    pub disks: Vec<ColdDisk>,
    /// Persistent memory devices (`/dev/pmem<n>`), raw files of whole 2 MiB, behind the root's. Needs
    /// PCI.
    pub pmem: Vec<PathBuf>,
    /// Places for more of them, to be plugged in later (`Qmp::plug_pmem`).
    pub pmem_slots: u8,
    /// Adapters on the VM's one user-mode network; see [`network`](crate::network).
    pub nics: u8,
    /// TCP ports of this machine's loopback that lead to the first adapter's address.
    pub forwards: Vec<Forward>,
    /// Keeps the serial console; otherwise it goes with the private directory.
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

    /// All disks in the order of their places.
    pub fn cold_disks(&self) -> impl Iterator<Item = &ColdDisk> {
        let root = self.root.as_ref().map_or(&[][..], Root::disks);
        root.iter().chain(&self.disks)
    }

    /// All persistent memory, with its length in bytes; only a root is never written.
    fn cold_pmem(&self) -> impl Iterator<Item = (&PathBuf, u64, bool)> {
        let root = match &self.root {
            Some(Root::Pmem(file)) => Some((file, length(file) >> 20 << 20, true)),
            _ => None,
        };
        let others = self.pmem.iter().map(|file| (file, length(file), false));
        root.into_iter().chain(others)
    }
}

/// The vsock that was chosen for this start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VsockWire {
    None,
    /// The socket of a vhost-user-vsock device.
    Device(PathBuf),
    /// The kernel's, with the guest's CID.
    Kernel {
        cid: u32,
    },
}

/// What only the start knows: the two sockets that QEMU inherits, and the choices made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wiring {
    pub accel: Accel,
    pub vsock: VsockWire,
    pub qmp: RawFd,
    pub console: RawFd,
}

/// The kernel line: protocol.md 10.3 for a VM without VPCI, but with what QEMU needs. On q35
/// without `pci=off`, because the devices are on PCI.
pub fn kernel_line(profile: &Profile) -> String {
    let mut words: Vec<String> = profile.root.iter().filter_map(Root::line).collect();
    if profile.serial_console {
        words.push("8250_core.nr_uarts=1 8250_core.skip_txen_test=1 console=ttyS0,115200".into());
    } else {
        words.push("8250_core.nr_uarts=0".into());
    }
    words.push("panic=-1".into());
    if !profile.verbose_boot {
        words.push("quiet".into());
    }
    match (profile.machine, profile.tsc_khz) {
        // The first skips a calibration that takes 0.2 s under TCG, the second a check that
        // counts real time: on a loaded machine it finds the timer dead, and then may panic.
        (Machine::Q35, _) => words.push("nolapic_timer no_timer_check".into()),
        (Machine::Microvm, Some(khz)) => words.push(format!("tsc_early_khz={khz}")),
        (Machine::Microvm, None) => {}
    }
    words.extend(profile.kernel_options.iter().cloned());
    if profile.machine == Machine::Microvm {
        words.push("pci=off".into());
    }
    words.push(format!("nr_cpus={} brd.rd_nr=0 pmtmr=0 --", profile.cpus));
    words.push(
        profile
            .init_line
            .clone()
            .unwrap_or_else(|| init_line(profile)),
    );
    words.join(" ")
}

fn init_line(profile: &Profile) -> String {
    let mut service = format!(
        "/bin/vsockexec -e 109 /bin/gcs -v4 -log-format json -loglevel {}",
        profile.guest_log_level
    );
    for flag in &profile.service_flags {
        service.push(' ');
        service.push_str(flag);
    }
    match profile.form {
        BootForm::Vsockexec => format!("-e 1 {service}"),
        BootForm::Shell => format!("-e 1 sh -c \"{service} & exec sh\""),
    }
}

/// QEMU's arguments, without the program's name.
pub fn command_line(profile: &Profile, wiring: &Wiring) -> Vec<OsString> {
    let mut args: Vec<OsString> = Vec::new();
    let mut push = |words: &[&str]| args.extend(words.iter().map(OsString::from));
    let memory = format!("{}M", profile.memory_mib);
    let machine = match profile.machine {
        Machine::Q35 => "q35",
        // The kernel leaves the PIC as it is here (ACPI says there is none), and its interrupts
        // then come as vector 0, the divide error.
        Machine::Microvm => "microvm,pic=off,pit=off",
    };
    let pci = profile.machine == Machine::Q35;

    push(&[
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
    ]);
    // vhost-user needs memory that another process can map.
    push(&[
        "-object",
        &format!("memory-backend-memfd,id=mem0,size={memory},share=on"),
    ]);
    push(&[
        "-machine",
        &format!(
            "{machine},accel={},memory-backend=mem0",
            wiring.accel.name()
        ),
    ]);
    if wiring.accel == Accel::Kvm {
        push(&["-cpu", "host"]);
    }
    let pmem: Vec<_> = profile.cold_pmem().collect();
    let most: u64 = pmem
        .iter()
        .map(|(_, bytes, _)| PMEM_ALIGNMENT + bytes)
        .sum();
    let most = most + u64::from(profile.pmem_slots) * 2 * PMEM_ALIGNMENT;
    let ram = match most {
        0 => memory.clone(),
        most => format!(
            "{memory},maxmem={}M",
            u64::from(profile.memory_mib) + (most >> 20)
        ),
    };
    push(&["-m", &ram, "-smp", &profile.cpus.to_string()]);
    for (index, (file, bytes, read_only)) in pmem.iter().enumerate() {
        let path = escape(&file.to_string_lossy());
        let read_only = if *read_only { ",readonly=on" } else { "" };
        push(&[
            "-object",
            &format!(
                "memory-backend-file,id=pmem{index},mem-path={path},size={bytes},share=on{read_only}"
            ),
        ]);
        push(&[
            "-device",
            &format!("virtio-pmem-pci,id=pmem{index},memdev=pmem{index}"),
        ]);
    }
    for slot in 0..profile.pmem_slots {
        // The root bus of this machine takes nothing while it runs.
        push(&[
            "-device",
            &format!("pcie-root-port,id=port{slot},chassis={}", slot + 1),
        ]);
    }
    if !pci {
        push(&["-global", "virtio-mmio.force-legacy=false"]);
    }
    push(&["-chardev", &format!("socket,id=qmp,fd={}", wiring.qmp)]);
    push(&["-mon", "chardev=qmp,mode=control"]);
    push(&[
        "-chardev",
        &format!("socket,id=console,fd={}", wiring.console),
    ]);
    push(&["-serial", "chardev:console"]);

    let bus = if pci { "pci" } else { "device" };
    for controller in 0..profile.controllers {
        push(&["-device", &format!("virtio-scsi-{bus},id=scsi{controller}")]);
    }
    for (lun, disk) in profile.cold_disks().enumerate() {
        let path = escape(&disk.path.to_string_lossy());
        let read_only = if disk.read_only { "on" } else { "off" };
        push(&[
            "-blockdev",
            &format!(
                "driver={},node-name=cold{lun},read-only={read_only},file.driver=file,\
             file.filename={path},file.locking=off",
                disk.format
            ),
        ]);
        push(&[
            "-device",
            &format!(
                "scsi-hd,id=cold{lun},drive=cold{lun},bus=scsi0.0,channel=0,scsi-id=0,lun={lun}"
            ),
        ]);
    }
    if profile.nics > 0 {
        let mut network = format!("user,id={NETWORK}");
        for Forward { host, guest } in &profile.forwards {
            let to = Nic::new(0).ipv4();
            network.push_str(&format!(",hostfwd=tcp:127.0.0.1:{host}-{to}:{guest}"));
        }
        push(&["-netdev", &network]);
        push(&[
            "-netdev",
            &format!("hubport,id=hub,hubid=0,netdev={NETWORK}"),
        ]);
    }
    for nic in (0..profile.nics).map(Nic::new) {
        let id = format!("nic{}", nic.number());
        let mac = nic.mac();
        push(&["-netdev", &format!("hubport,id={id},hubid=0")]);
        // Without the rom, which only a boot from the network needs.
        let rom = if pci { ",romfile=" } else { "" };
        let device = format!("virtio-net-{bus},netdev={id},mac={mac}{rom}");
        push(&["-device", &device]);
    }
    match &wiring.vsock {
        VsockWire::None => {}
        VsockWire::Device(socket) => {
            let path = escape(&socket.to_string_lossy());
            push(&["-chardev", &format!("socket,id=vsock,path={path}")]);
            push(&["-device", &format!("vhost-user-vsock-{bus},chardev=vsock")]);
        }
        VsockWire::Kernel { cid } => {
            push(&["-device", &format!("vhost-vsock-{bus},guest-cid={cid}")]);
        }
    }
    if let Some(Root::Uefi { firmware, .. }) = &profile.root {
        args.extend(["-bios".into(), firmware.clone().into_os_string()]);
    } else {
        push(&["-append", &kernel_line(profile)]);
        args.extend(["-kernel".into(), profile.kernel.clone().into_os_string()]);
    }
    if let Some(initrd) = profile.initrd() {
        args.extend(["-initrd".into(), initrd.clone().into_os_string()]);
    }
    args.extend(profile.qemu_arguments.iter().map(OsString::from));
    args
}

/// Devices of memory are placed at multiples of it.
const PMEM_ALIGNMENT: u64 = 1 << 30;

/// 0 for a file that is not there: QEMU says it better.
fn length(file: &std::path::Path) -> u64 {
    std::fs::metadata(file).map_or(0, |metadata| metadata.len())
}

/// A comma ends an option's value unless doubled.
fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
#[path = "profile_tests.rs"]
mod tests;
