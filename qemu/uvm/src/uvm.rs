//! A VM from its boot to its end.

use std::path::Path;
use std::time::{Duration, Instant};

use uvm_host::trace::Recorder;
use uvm_host::{End, Host, HostConfig, HostError, LogSink, MappedVirtualDisk, Transport};
use uvm_vm::choice::{self, AccelWish, VsockKind};
use uvm_vm::profile::{Accel, Machine, Profile};
use uvm_vm::qmp::ScsiAddress;
use uvm_vm::{Vm, VmEnd, VmError, VsockWire};
use uvm_vsock::{Device, DeviceConfig, DeviceHandle, Faults};

use crate::error::UvmError;
use crate::pmem::PmemDevices;
use crate::private_dir::PrivateDir;
use crate::scsi::ScsiDisks;

/// A real host gives entropy, log and bridge this long (protocol 11.1).
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// Power-off takes some 30 ms; the guest may sync for a few seconds.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(60);
/// Console lines shown when the guest does not come up.
const SHOWN: usize = 15;

/// How to boot the VM that the profile describes.
pub struct BootOptions {
    pub accel: AccelWish,
    pub strict: bool,
    pub log_sink: Option<LogSink>,
    /// Refuse dials for the log until [`Host::accept_log`].
    pub late_log: bool,
    /// Send what a real host always sends: NegotiateProtocol and the SecurityPolicy request.
    pub negotiate: bool,
    pub limit: Duration,
    /// How long the entropy connection stays open after its bytes were written.
    pub entropy_hold: Duration,
    /// The faults that the vsock device makes, for tests.
    pub faults: Faults,
    /// Notes the boot, the requests and the guest's work.
    pub trace: Recorder,
}

impl Default for BootOptions {
    fn default() -> Self {
        Self {
            accel: AccelWish::default(),
            strict: true,
            log_sink: None,
            late_log: false,
            negotiate: true,
            limit: BOOT_LIMIT,
            entropy_hold: Duration::ZERO,
            faults: Faults::default(),
            trace: Recorder::default(),
        }
    }
}

/// When things happened, from the start of QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    pub entropy: Option<Duration>,
    pub log: Option<Duration>,
    pub bridge: Duration,
    /// The answer to NegotiateProtocol.
    pub negotiated: Option<Duration>,
}

/// A booted VM. It is also a [`Host`], with all requests. Dropping it kills the VM and removes its
/// files.
pub struct Uvm {
    // Dropped in this order.
    vm: Vm,
    device: Option<DeviceHandle>,
    host: Host,
    dir: PrivateDir,
    disks: ScsiDisks,
    pmem: PmemDevices,
    memory_mib: u32,
    timings: Timings,
}

impl std::ops::Deref for Uvm {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

impl Uvm {
    pub fn boot(profile: Profile) -> Result<Self, UvmError> {
        Self::boot_with(profile, BootOptions::default())
    }

    pub fn boot_with(mut profile: Profile, options: BootOptions) -> Result<Self, UvmError> {
        let accel = choice::accel(options.accel, &profile.kernel);
        // KVM tells the guest itself, where there is a way to.
        let told = accel.chosen == Accel::Kvm && profile.machine == Machine::Q35;
        if profile.tsc_khz.is_none() && !told {
            profile.tsc_khz = choice::tsc_khz();
        }
        log::info!("accelerator {}: {}", accel.chosen.name(), accel.why);
        let dir = PrivateDir::new().map_err(UvmError::Dir)?;
        let trace = options.trace.clone();
        let boot = trace.stage("booting the VM");
        let limit = options.limit;
        let negotiate = options.negotiate;
        let (host, wire, device) = open_vsock(&dir, &profile, options)?;

        let ender = host.ender();
        let console_log = profile
            .console_log
            .clone()
            .unwrap_or_else(|| dir.join("console.log"));
        let qemu = trace.stage("starting QEMU");
        let on_end = move |end| ender(as_host_sees(end));
        let vm = Vm::start(&profile, accel.chosen, wire, &console_log, on_end)?;
        drop(qemu);
        let guest = trace.stage("guest boots");
        // The host's clock began when it listened, a little before QEMU.
        let started = vm.started();
        let connected = match host.wait_connected(limit) {
            Ok(connected) => connected,
            Err(source @ HostError::Timeout { .. }) => {
                let console = vm.console().tail(SHOWN);
                return Err(UvmError::NotReady { source, console });
            }
            Err(e) => return Err(e.into()),
        };
        drop(guest);
        let head = started.saturating_duration_since(connected.started);
        let mut timings = Timings {
            entropy: connected.entropy.map(|at| at.saturating_sub(head)),
            log: connected.log.map(|at| at.saturating_sub(head)),
            bridge: connected.bridge.saturating_sub(head),
            negotiated: None,
        };
        if negotiate {
            let _stage = trace.stage("negotiating");
            host.negotiate()?;
            timings.negotiated = Some(started.elapsed());
            host.security_policy_empty()?;
        }
        drop(boot);
        Ok(Self {
            vm,
            device,
            host,
            dir,
            disks: ScsiDisks::new(&profile),
            pmem: PmemDevices::new(&profile),
            memory_mib: profile.memory_mib,
            timings,
        })
    }

    /// The handle that can be cloned into threads.
    pub fn host(&self) -> &Host {
        &self.host
    }

    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// The memory of the VM, as its profile has it.
    pub fn memory_mib(&self) -> u32 {
        self.memory_mib
    }

    /// The vsock device, unless the kernel carries the vsock.
    pub fn device(&self) -> Option<&DeviceHandle> {
        self.device.as_ref()
    }

    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// The directory that is removed with the VM.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Plugs a disk image in. Returns where the guest finds it. `format` is QEMU's name: `raw`,
    /// `vpc`, `vhdx`, `qcow2`.
    pub fn plug_disk(
        &self,
        file: &Path,
        format: &str,
        read_only: bool,
    ) -> Result<ScsiAddress, UvmError> {
        self.disks.plug(&self.vm, file, format, read_only)
    }

    /// Unplugs a disk without telling the guest.
    pub fn unplug_disk(&self, address: ScsiAddress) -> Result<(), UvmError> {
        self.disks.unplug(&self.vm, address)
    }

    /// Makes the guest forget a disk, then unplugs it. It must not be mounted.
    pub fn eject_disk(&self, address: ScsiAddress) -> Result<(), UvmError> {
        self.host
            .remove_scsi_device(address.controller, address.lun)?;
        self.unplug_disk(address)
    }

    /// Plugs a raw disk in and makes the guest mount it.
    pub fn mount_disk(
        &self,
        file: &Path,
        read_only: bool,
        mount_path: &str,
    ) -> Result<MappedVirtualDisk, UvmError> {
        let ScsiAddress { controller, lun } = self.plug_disk(file, "raw", read_only)?;
        let disk = MappedVirtualDisk::new(controller, lun, mount_path, read_only);
        self.host.add_disk(&disk)?;
        Ok(disk)
    }

    /// Makes the guest unmount a disk, and ejects it.
    pub fn unmount_disk(&self, disk: &MappedVirtualDisk) -> Result<(), UvmError> {
        self.host.remove_disk(disk)?;
        self.eject_disk(ScsiAddress {
            controller: disk.controller,
            lun: disk.lun,
        })
    }

    /// Plugs a raw file in as persistent memory and gives its device number. QEMU cannot unplug it,
    /// so a file that was [parked](Self::park_pmem) gets its device again.
    pub fn plug_pmem(&self, file: &Path) -> Result<u32, UvmError> {
        self.pmem.plug(&self.vm, file)
    }

    /// Notes that the guest does not use a device any more.
    pub fn park_pmem(&self, number: u32) {
        self.pmem.park(number);
    }

    /// Asks the guest to power off and waits until QEMU is gone.
    pub fn power_off(&self) -> Result<Duration, UvmError> {
        self.power_off_within(POWER_OFF_LIMIT)
    }

    /// The same with a limit of its own.
    pub fn power_off_within(&self, limit: Duration) -> Result<Duration, UvmError> {
        let asked = Instant::now();
        let _stage = self.host.trace().stage("powering off");
        self.host.shutdown_uvm()?;
        match self.vm.wait(limit)? {
            VmEnd::Exited(_) | VmEnd::Stopped => Ok(asked.elapsed()),
            end => Err(VmError::Ended { end }.into()),
        }
    }
}

/// What the end of the VM is to the host.
fn as_host_sees(end: VmEnd) -> End {
    match end {
        VmEnd::Panic(text) => End::Panic(text),
        VmEnd::Exited(text) => End::Exited(text),
        VmEnd::Stopped => End::Stopped,
    }
}

/// Opens the host's ports and starts the device that leads to them.
fn open_vsock(
    dir: &PrivateDir,
    profile: &Profile,
    options: BootOptions,
) -> Result<(Host, VsockWire, Option<DeviceHandle>), UvmError> {
    let chosen = choice::vsock(profile.vsock);
    log::info!("vsock by {:?}: {}", chosen.chosen, chosen.why);
    let uds = dir.join("vsock");
    let kind = chosen.chosen;
    let transport = match kind {
        VsockKind::Kernel => Transport::Vsock,
        VsockKind::Device | VsockKind::None => Transport::Unix(uds.clone()),
    };
    let host = Host::listen(HostConfig {
        transport,
        strict: options.strict,
        log_sink: options.log_sink,
        late_log: options.late_log,
        entropy_hold: options.entropy_hold,
        trace: options.trace,
    })?;
    let (wire, device) = match kind {
        VsockKind::None => (VsockWire::None, None),
        VsockKind::Kernel => (VsockWire::Kernel { cid: guest_cid() }, None),
        VsockKind::Device => {
            let socket = dir.join("vhost.sock");
            let device = Device::start(DeviceConfig {
                socket: socket.clone(),
                uds,
                cid: guest_cid().into(),
                faults: options.faults,
            })?;
            (VsockWire::Device(socket), Some(device))
        }
    };
    Ok((host, wire, device))
}

/// The CIDs of a machine's VMs must differ, so this one is made from the process id.
fn guest_cid() -> u32 {
    // 0 to 2 have meanings of their own (vsock(7)).
    0x1_0000 + (std::process::id() & 0x3fff_ffff)
}
