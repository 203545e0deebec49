//! A VM from its boot to its end.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::private_dir::PrivateDir;
use uvm_host::trace::Recorder;
use uvm_host::{Disk, End, Host, HostConfig, HostError, LogSink, Transport};
use uvm_vm::choice::{self, AccelWish, VsockKind};
use uvm_vm::profile::{Machine, Profile, VsockWire};
use uvm_vm::qmp::{Place, QmpError};
use uvm_vm::{Vm, VmEnd, VmError};
use uvm_vsock::{Device, DeviceConfig, DeviceHandle, Faults};

/// A real host gives entropy, log and bridge this long (protocol.md 11.1).
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// Power-off takes some 30 ms; the guest may sync for a few seconds.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(60);
const UNPLUG_LIMIT: Duration = Duration::from_secs(60);
const LUNS: u8 = 64;
/// Console lines shown when the guest does not come up.
const SHOWN: usize = 15;

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
    #[error("all places for disks are taken")]
    NoPlace,
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

/// How to boot; the profile says what.
pub struct BootOptions {
    pub accel: AccelWish,
    pub strict: bool,
    pub log_sink: Option<LogSink>,
    /// Send what a real host always sends: NegotiateProtocol and the SecurityPolicy request.
    pub negotiate: bool,
    pub limit: Duration,
    /// How long the entropy connection stays open behind its bytes.
    pub entropy_hold: Duration,
    /// What the vsock device shall do wrong, for tests.
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
    /// The answer to NegotiateProtocol was there.
    pub negotiated: Option<Duration>,
}

/// A booted VM. It is also a [`Host`]: all requests are there. Dropping it kills the VM and
/// leaves nothing behind.
pub struct Uvm {
    // Dropped in this order.
    vm: Vm,
    device: Option<DeviceHandle>,
    host: Host,
    dir: PrivateDir,
    taken: Mutex<BTreeSet<(u8, u8)>>,
    controllers: u8,
    memory_mib: u32,
    pmem: Mutex<PmemSlots>,
    plan9: Mutex<()>,
    timings: Timings,
}

/// Persistent memory that was plugged into the running VM, which is for good.
struct PmemSlots {
    machine: Machine,
    /// Devices from before; theirs are the first numbers.
    cold: u32,
    slots: u8,
    plugged: Vec<Plugged>,
}

struct Plugged {
    file: FileId,
    in_use: bool,
}

/// The same file, whatever its path: device and inode.
type FileId = (u64, u64);

/// Linux takes persistent memory in units of this.
const PMEM_UNIT: u64 = 2 << 20;

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
        if profile.tsc_khz.is_none() {
            profile.tsc_khz = choice::tsc_khz();
        }
        let accel = choice::accel(options.accel, &profile.kernel);
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
        let taken = (0..)
            .map(|lun| (0, lun))
            .take(profile.cold_disks().count())
            .collect();
        Ok(Self {
            vm,
            device,
            host,
            dir,
            taken: Mutex::new(taken),
            controllers: profile.controllers,
            memory_mib: profile.memory_mib,
            pmem: Mutex::new(PmemSlots {
                machine: profile.machine,
                cold: u32::try_from(profile.pmem.len()).unwrap_or(u32::MAX),
                slots: profile.pmem_slots,
                plugged: Vec::new(),
            }),
            plan9: Mutex::default(),
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

    /// As the profile has it.
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

    /// The directory that goes with the VM.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Plugs a disk image in and says where the guest finds it. `format`: `raw`, `vpc`, `vhdx`.
    pub fn attach_disk(
        &self,
        file: &Path,
        format: &str,
        read_only: bool,
    ) -> Result<Place, UvmError> {
        let place = self.take_place()?;
        if let Err(source) = self.vm.qmp().plug(&place, file, format, read_only) {
            self.free_place(place);
            return Err(UvmError::Disk {
                file: file.display().to_string(),
                source,
            });
        }
        Ok(place)
    }

    /// Has the guest let go of a disk, then unplugs it. It must not be mounted.
    pub fn detach_disk(&self, place: Place) -> Result<(), UvmError> {
        self.host.remove_scsi_device(place.controller, place.lun)?;
        self.unplug_disk(place)
    }

    /// Unplugs a disk without a word to the guest.
    pub fn unplug_disk(&self, place: Place) -> Result<(), UvmError> {
        let unplugged = self.vm.qmp().unplug(&place, UNPLUG_LIMIT);
        unplugged.map_err(|source| UvmError::Disk {
            file: format!("at {}:0:0:{}", place.controller, place.lun),
            source,
        })?;
        self.free_place(place);
        Ok(())
    }

    /// Plugs a raw disk in and has it mounted.
    pub fn mount_disk(
        &self,
        file: &Path,
        read_only: bool,
        mount_path: &str,
    ) -> Result<Disk, UvmError> {
        let place = self.attach_disk(file, "raw", read_only)?;
        let disk = Disk {
            controller: place.controller,
            lun: place.lun,
            mount_path: mount_path.to_owned(),
            read_only,
            ensure_filesystem: None,
        };
        self.host.add_disk(&disk)?;
        Ok(disk)
    }

    /// Has a disk unmounted and unplugs it.
    pub fn unmount_disk(&self, disk: &Disk) -> Result<(), UvmError> {
        self.host.remove_disk(disk)?;
        self.detach_disk(Place {
            controller: disk.controller,
            lun: disk.lun,
        })
    }

    /// Plugs a raw file in as persistent memory and gives its device number, also of a file that
    /// was plugged in before and is not used any more.
    pub fn attach_pmem(&self, file: &Path) -> Result<u32, UvmError> {
        let mut pmem = self.pmem.lock().unwrap_or_else(PoisonError::into_inner);
        if pmem.machine == Machine::Microvm {
            return Err(UvmError::NoPci);
        }
        let not = |why: String| UvmError::NotPmem {
            file: file.display().to_string(),
            why,
        };
        let metadata = file.metadata().map_err(|e| not(e.to_string()))?;
        if !metadata.is_file() || metadata.len() == 0 || metadata.len() % PMEM_UNIT != 0 {
            let why = "it is not a file whose size is a multiple of 2 MiB";
            return Err(not(why.into()));
        }
        let id = (metadata.dev(), metadata.ino());
        let number = |index: usize| pmem.cold + u32::try_from(index).unwrap_or(u32::MAX);
        if let Some(index) = pmem.plugged.iter().position(|plugged| plugged.file == id) {
            if pmem.plugged[index].in_use {
                return Err(not("the VM has it already".into()));
            }
            let number = number(index);
            pmem.plugged[index].in_use = true;
            return Ok(number);
        }
        let index = pmem.plugged.len();
        let slot = u8::try_from(index).ok().filter(|slot| *slot < pmem.slots);
        let slot = slot.ok_or(UvmError::NoSlot { slots: pmem.slots })?;
        let plugged = self.vm.qmp().plug_pmem(slot, file, metadata.len());
        plugged.map_err(|source| UvmError::Pmem {
            file: file.display().to_string(),
            source,
        })?;
        let number = number(index);
        pmem.plugged.push(Plugged {
            file: id,
            in_use: true,
        });
        Ok(number)
    }

    /// Notes that the guest does not use a device any more. QEMU cannot unplug it.
    pub fn park_pmem(&self, number: u32) {
        let mut pmem = self.pmem.lock().unwrap_or_else(PoisonError::into_inner);
        let index = number.checked_sub(pmem.cold).map(|index| index as usize);
        if let Some(plugged) = index.and_then(|index| pmem.plugged.get_mut(index)) {
            plugged.in_use = false;
        }
    }

    /// Held while a server of a directory waits for its dial: there is one port for all.
    pub(crate) fn plan9_turn(&self) -> MutexGuard<'_, ()> {
        self.plan9.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the guest to power off and waits until QEMU is gone.
    pub fn power_off(&self) -> Result<Duration, UvmError> {
        let asked = Instant::now();
        let _stage = self.host.trace().stage("powering off");
        self.host.shutdown_uvm()?;
        match self.vm.wait(POWER_OFF_LIMIT)? {
            VmEnd::Exited(_) | VmEnd::Stopped => Ok(asked.elapsed()),
            end => Err(VmError::Ended { end }.into()),
        }
    }

    fn take_place(&self) -> Result<Place, UvmError> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let places = (0..self.controllers).flat_map(|c| (0..LUNS).map(move |lun| (c, lun)));
        let free = places.into_iter().find(|place| !taken.contains(place));
        let (controller, lun) = free.ok_or(UvmError::NoPlace)?;
        taken.insert((controller, lun));
        Ok(Place { controller, lun })
    }

    fn free_place(&self, place: Place) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.remove(&(place.controller, place.lun));
    }
}

/// The end of the VM as the end of the host's run.
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

/// The CIDs of a machine's VMs must differ: this process's id makes ours.
fn guest_cid() -> u32 {
    // 0 to 2 have meanings of their own.
    0x1_0000 + (std::process::id() & 0x3fff_ffff)
}
