//! The pure way from a [`Profile`] to QEMU's command line.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use crate::kernel_line::kernel_line;
use crate::network::Nic;
use crate::profile::{Accel, Forward, Machine, Profile, Root};

/// QEMU's name of the user-mode network.
const NETWORK: &str = "net";
/// Devices of memory are placed at multiples of it, in bytes.
const PMEM_ALIGNMENT: u64 = 1 << 30;

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

/// What only the start knows: the descriptors that QEMU inherits, and the choices made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wiring {
    pub accel: Accel,
    pub vsock: VsockWire,
    pub qmp: RawFd,
    pub console: RawFd,
    /// Instead of the profile's initrd: [`crate::initrd`].
    pub initrd: Option<RawFd>,
}

type Part = fn(&Profile, &Wiring, &mut Args);

/// The parts of the command line, in their order. It is also the order in which the guest finds
/// the devices, so moving a part renames devices in the guest.
const PARTS: [Part; 12] = [
    nothing_by_default,
    machine,
    memory,
    cold_pmem,
    pmem_slots,
    control_and_console,
    scsi_controllers,
    cold_disks,
    network,
    vsock,
    boot,
    as_asked,
];

/// QEMU's arguments, without the program's name.
pub fn command_line(profile: &Profile, wiring: &Wiring) -> Vec<OsString> {
    let mut args = Args::default();
    for part in PARTS {
        part(profile, wiring, &mut args);
    }
    args.0
}

#[derive(Default)]
struct Args(Vec<OsString>);

impl Args {
    fn flag(&mut self, name: &str) {
        self.0.push(name.into());
    }

    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.extend([name.into(), value.into()]);
    }
}

fn nothing_by_default(_: &Profile, _: &Wiring, args: &mut Args) {
    args.flag("-nodefaults");
    args.flag("-no-user-config");
    args.flag("-no-reboot");
    args.option("-display", "none");
}

fn machine(profile: &Profile, wiring: &Wiring, args: &mut Args) {
    // vhost-user needs memory that another process can map.
    let size = profile.memory_mib;
    args.option(
        "-object",
        format!("memory-backend-memfd,id=mem0,size={size}M,share=on"),
    );
    let machine = match profile.machine {
        Machine::Q35 => "q35",
        // The kernel does not set up the PIC here, because ACPI says that there is none. Interrupts
        // of the PIC would then arrive as vector 0, the divide error.
        Machine::Microvm => "microvm,pic=off,pit=off",
    };
    let accel = wiring.accel.name();
    args.option(
        "-machine",
        format!("{machine},accel={accel},memory-backend=mem0"),
    );
    let cpu = match wiring.accel {
        Accel::Kvm => "host",
        // QEMU's usual one. Without RDRAND the kernel gathers its first random numbers from timer
        // interrupts, which is half of all that it does in a boot.
        Accel::Tcg => "qemu64,+rdrand",
    };
    args.option("-cpu", cpu);
}

/// The VM's own memory, and address space for what is plugged in besides.
fn memory(profile: &Profile, _: &Wiring, args: &mut Args) {
    let own = profile.memory_mib;
    let cold = profile.cold_pmem();
    let cold: u64 = cold.map(|(_, bytes, _)| PMEM_ALIGNMENT + bytes).sum();
    let room = cold + u64::from(profile.pmem_slots) * 2 * PMEM_ALIGNMENT;
    let memory = match room {
        0 => format!("{own}M"),
        room => format!("{own}M,maxmem={}M", u64::from(own) + (room >> 20)),
    };
    args.option("-m", memory);
    args.option("-smp", profile.cpus.to_string());
}

fn cold_pmem(profile: &Profile, _: &Wiring, args: &mut Args) {
    for (index, (file, bytes, read_only)) in profile.cold_pmem().enumerate() {
        let path = escape(file);
        let read_only = if read_only { ",readonly=on" } else { "" };
        args.option(
            "-object",
            format!(
                "memory-backend-file,id=pmem{index},mem-path={path},size={bytes},share=on{read_only}"
            ),
        );
        args.option(
            "-device",
            format!("virtio-pmem-pci,id=pmem{index},memdev=pmem{index}"),
        );
    }
}

fn pmem_slots(profile: &Profile, _: &Wiring, args: &mut Args) {
    for slot in 0..profile.pmem_slots {
        // Nothing can be plugged into the root bus of a running machine of this type.
        let chassis = slot + 1;
        args.option(
            "-device",
            format!("pcie-root-port,id=port{slot},chassis={chassis}"),
        );
    }
}

fn control_and_console(profile: &Profile, wiring: &Wiring, args: &mut Args) {
    if profile.machine == Machine::Microvm {
        args.option("-global", "virtio-mmio.force-legacy=false");
    }
    args.option("-chardev", format!("socket,id=qmp,fd={}", wiring.qmp));
    args.option("-mon", "chardev=qmp,mode=control");
    args.option(
        "-chardev",
        format!("socket,id=console,fd={}", wiring.console),
    );
    args.option("-serial", "chardev:console");
}

fn scsi_controllers(profile: &Profile, _: &Wiring, args: &mut Args) {
    let bus = bus(profile);
    for controller in 0..profile.controllers {
        args.option("-device", format!("virtio-scsi-{bus},id=scsi{controller}"));
    }
}

fn cold_disks(profile: &Profile, _: &Wiring, args: &mut Args) {
    for (lun, disk) in profile.cold_disks().enumerate() {
        let (path, format) = (escape(&disk.path), &disk.format);
        let read_only = if disk.read_only { "on" } else { "off" };
        args.option(
            "-blockdev",
            format!(
                "driver={format},node-name=cold{lun},read-only={read_only},file.driver=file,\
                 file.filename={path},file.locking=off"
            ),
        );
        args.option(
            "-device",
            format!(
                "scsi-hd,id=cold{lun},drive=cold{lun},bus=scsi0.0,channel=0,scsi-id=0,lun={lun},werror=report,rerror=report"
            ),
        );
    }
}

/// One user-mode network at a hub, and all adapters at the same hub.
fn network(profile: &Profile, _: &Wiring, args: &mut Args) {
    if profile.nics == 0 {
        return;
    }
    let mut network = format!("user,id={NETWORK}");
    for Forward { host, guest } in &profile.forwards {
        let to = Nic::new(0).ipv4();
        network.push_str(&format!(",hostfwd=tcp:127.0.0.1:{host}-{to}:{guest}"));
    }
    args.option("-netdev", network);
    args.option(
        "-netdev",
        format!("hubport,id=hub,hubid=0,netdev={NETWORK}"),
    );
    let bus = bus(profile);
    // Without the option ROM, which only a boot from the network needs.
    let rom = match profile.machine {
        Machine::Q35 => ",romfile=",
        Machine::Microvm => "",
    };
    for nic in (0..profile.nics).map(Nic::new) {
        let (id, mac) = (format!("nic{}", nic.number()), nic.mac());
        args.option("-netdev", format!("hubport,id={id},hubid=0"));
        args.option(
            "-device",
            format!("virtio-net-{bus},netdev={id},mac={mac}{rom}"),
        );
    }
}

fn vsock(profile: &Profile, wiring: &Wiring, args: &mut Args) {
    let bus = bus(profile);
    match &wiring.vsock {
        VsockWire::None => {}
        VsockWire::Device(socket) => {
            let path = escape(socket);
            args.option("-chardev", format!("socket,id=vsock,path={path}"));
            args.option("-device", format!("vhost-user-vsock-{bus},chardev=vsock"));
        }
        VsockWire::Kernel { cid } => {
            args.option("-device", format!("vhost-vsock-{bus},guest-cid={cid}"));
        }
    }
}

fn boot(profile: &Profile, wiring: &Wiring, args: &mut Args) {
    if let Some(Root::Uefi { firmware, .. }) = &profile.root {
        args.option("-bios", firmware);
    } else {
        args.option("-append", kernel_line(profile));
        args.option("-kernel", &profile.kernel);
    }
    match (wiring.initrd, profile.initrd()) {
        (Some(fd), _) => args.option("-initrd", format!("/dev/fd/{fd}")),
        (None, Some(file)) => args.option("-initrd", file),
        (None, None) => {}
    }
}

fn as_asked(profile: &Profile, _: &Wiring, args: &mut Args) {
    profile.qemu_arguments.iter().for_each(|arg| args.flag(arg));
}

/// What virtio devices of this machine are named after: their transport.
fn bus(profile: &Profile) -> &'static str {
    match profile.machine {
        Machine::Q35 => "pci",
        Machine::Microvm => "device",
    }
}

/// A comma ends an option's value unless doubled.
fn escape(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

#[cfg(test)]
#[path = "command_line_tests.rs"]
mod tests;
