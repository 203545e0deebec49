//! Where scenarios get their VMs: one that is shared, or fresh ones.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use uvm::private_dir::PrivateDir;
use uvm::{BootOptions, Uvm, UvmError};
use uvm_host::{End, LogSink};
use uvm_vm::choice::AccelWish;
use uvm_vm::profile::{ColdDisk, Profile};

use super::check::{fail, not_run, Checked, Stop};
use super::guest::Guest;
use super::images;
use super::witness::Witness;

/// The VMs of a scenario that takes longer are killed, so that all its waits end.
const SCENARIO_LIMIT: Duration = Duration::from_secs(240);

/// The same for all labs of a run.
pub struct Supplies {
    /// The guest under test, without disks.
    pub profile: Profile,
    pub accel: AccelWish,
    /// ext4 disk with a static busybox: the tools of the VM and the layer of containers.
    pub layer: PathBuf,
    /// Files that are removed with the run.
    pub dir: PrivateDir,
    /// Makes a sink for the log of each VM.
    pub log: Option<Box<dyn Fn() -> LogSink + Send + Sync>>,
}

/// How a VM is to be booted; all members may be changed.
pub struct Boot {
    pub profile: Profile,
    /// Strict mode: end the VM where a real host drops the bridge.
    pub strict: bool,
    pub negotiate: bool,
    /// Gets the records of the guest's log, all of them.
    pub log_sink: Option<LogSink>,
    /// The rest. Members that are also above are ignored.
    pub options: BootOptions,
}

/// Gives scenarios their VMs. One per worker.
pub struct Lab {
    supplies: Arc<Supplies>,
    shared: Option<Rc<Guest>>,
    /// The running scenario asked for the shared VM.
    touched: bool,
    witness: Rc<RefCell<Witness>>,
    watch: Watch,
}

impl Lab {
    pub fn new(supplies: Arc<Supplies>, watch: Watch) -> Self {
        Self {
            supplies,
            shared: None,
            touched: false,
            witness: Rc::default(),
            watch,
        }
    }

    /// The shared VM, booted as a host boots it and negotiated. A scenario that changes it for
    /// others, or ends it, boots its own instead.
    pub fn guest(&mut self) -> Checked<Rc<Guest>> {
        self.touched = true;
        if let Some(guest) = &self.shared {
            return Ok(Rc::clone(guest));
        }
        let guest = Rc::new(self.boot(|_| {})?);
        self.shared = Some(Rc::clone(&guest));
        Ok(guest)
    }

    /// A VM of the scenario's own, killed when it is dropped.
    pub fn boot(&self, change: impl FnOnce(&mut Boot)) -> Checked<Guest> {
        self.try_boot(change)
            .map_err(|e| fail("a VM that comes up", e))
    }

    /// `boot` for VMs that may not come up.
    pub fn try_boot(&self, change: impl FnOnce(&mut Boot)) -> Result<Guest, UvmError> {
        let supplies = &self.supplies;
        let mut boot = Boot {
            profile: supplies.profile.clone(),
            strict: true,
            negotiate: true,
            log_sink: supplies.log.as_ref().map(|make| make()),
            options: BootOptions::default(),
        };
        change(&mut boot);
        let tools = boot.profile.cold_disks().count();
        boot.profile.disks.push(ColdDisk {
            path: supplies.layer.clone(),
            format: "raw".into(),
            read_only: true,
        });
        let options = BootOptions {
            accel: supplies.accel,
            strict: boot.strict,
            negotiate: boot.negotiate,
            log_sink: boot.log_sink,
            ..boot.options
        };
        let vm = Arc::new(Uvm::boot_with(boot.profile, options)?);
        self.watch.add(&vm);
        // Disks are few: a LUN is a byte.
        let lun = u8::try_from(tools).unwrap_or(u8::MAX);
        Ok(Guest::new(vm, lun, Rc::clone(&self.witness)))
    }

    /// The initrd under test with a busybox at [`super::BUSYBOX`], and perhaps as `/bin/sh`.
    pub fn tools_initrd(&self, shell: bool) -> Checked<PathBuf> {
        let to = self.fresh_dir()?.join("initrd.img");
        images::with_tools(&self.initrd()?, shell, &to)?;
        Ok(to)
    }

    /// The contents of the initrd under test as an ext4 disk.
    pub fn root_disk(&self) -> Checked<PathBuf> {
        images::root_disk(&self.initrd()?, &self.fresh_dir()?)
    }

    fn initrd(&self) -> Checked<PathBuf> {
        let initrd = self.supplies.profile.initrd().cloned();
        initrd.ok_or_else(|| not_run("there is no initrd"))
    }

    /// A directory that goes with the run.
    pub fn fresh_dir(&self) -> Checked<PathBuf> {
        Ok(tempfile::tempdir_in(self.supplies.dir.path())?.keep())
    }

    /// Boots the VM once, to see whether the run makes sense.
    pub(super) fn probe(&self) -> Checked {
        self.boot(|_| {}).map(drop)
    }

    /// Before a scenario.
    pub(super) fn begin(&mut self) {
        self.touched = false;
        *self.witness.borrow_mut() = Witness::default();
        self.watch.set(Some(Instant::now() + SCENARIO_LIMIT));
    }

    /// After a scenario. A VM that broke the protocol or ended unasked is a fail too. Returns the
    /// guests' last log records on a fail.
    pub(super) fn end(&mut self, outcome: Checked) -> (Checked, Vec<String>) {
        let late = self.watch.set(None);
        let shared = self.shared.as_ref().filter(|_| self.touched);
        let lost = shared.and_then(|guest| guest.ended());
        let breach = self.witness.borrow().ends.iter().find_map(|end| match end {
            End::Violation(_) => Some(end.clone()),
            _ => None,
        });
        let outcome = match (outcome, lost.clone().or(breach)) {
            (_, _) if late => Err(fail(
                format!("an end within {} s", SCENARIO_LIMIT.as_secs()),
                "none; its VMs were killed",
            )),
            (Ok(()), Some(end)) => Err(fail("a guest that goes on", end)),
            (outcome, _) => outcome,
        };
        if lost.is_none() && !matches!(outcome, Err(Stop::Fail { .. })) {
            return (outcome, Vec::new());
        }
        if self.touched {
            if let Some(guest) = self.shared.take() {
                // Its end is noted when it is dropped.
                drop(guest);
            }
        }
        let log = std::mem::take(&mut self.witness.borrow_mut().log);
        (outcome, log)
    }
}

/// Ends scenarios that do not end. The run checks it from time to time.
#[derive(Clone, Default)]
pub struct Watch(Arc<Mutex<Watched>>);

#[derive(Default)]
struct Watched {
    deadline: Option<Instant>,
    fired: bool,
    vms: Vec<Weak<Uvm>>,
}

impl Watch {
    fn add(&self, vm: &Arc<Uvm>) {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watched.vms.retain(|vm| vm.strong_count() > 0);
        watched.vms.push(Arc::downgrade(vm));
    }

    /// Says whether the last deadline had passed.
    fn set(&self, deadline: Option<Instant>) -> bool {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watched.deadline = deadline;
        std::mem::take(&mut watched.fired)
    }

    /// Kills the VMs of a scenario that is over its time.
    pub(super) fn look(&self) {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if watched.deadline.is_some_and(|at| at < Instant::now()) {
            watched.fired = true;
            for vm in watched.vms.iter().filter_map(Weak::upgrade) {
                vm.vm().kill();
            }
        }
    }
}
