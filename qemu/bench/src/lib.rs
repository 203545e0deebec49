//! What the guest costs, each figure beside its floor: the same work done on the same kernel by
//! bare system calls (`qemu/bench/floor`). Guest and floor take turns within one run, because
//! a machine without hardware virtualisation is never quiet for long; medians count.
//!
//! ```text
//! initrds ─ boot (guest | floor as PID 1)
//!         └ one VM with the floor program in it ─ process · streams · container · disks ──┐
//!         ├ one VM for each size of a 9P message ─────────────────────────────────────┤
//!         └ VMs whose instructions are counted ───────────────────────────────────────┴ figures → report
//! ```

mod boot;
mod container;
mod figure;
mod floor;
mod guest;
mod initrd;
mod instructions;
mod meter;
mod peer;
pub mod report;
mod share;
mod spec;
mod storage;
mod stream;

use std::path::{Path, PathBuf};

use uvm::private_dir::PrivateDir;
use uvm::{BootOptions, Uvm, UvmError};
use uvm_host::{HostError, LogSink};
use uvm_images::OciError;
use uvm_vm::choice::AccelWish;
use uvm_vm::profile::{Profile, Root};

pub use figure::{median, Budget, Figure, Unit};
pub use peer::Peer;

#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error(transparent)]
    Vm(#[from] UvmError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Image(#[from] OciError),
    #[error("{0}")]
    Files(String),
    #[error("{doing}: {source}")]
    Io {
        doing: String,
        source: std::io::Error,
    },
    #[error("in the guest, {args}: exit code {code}: {said}")]
    Floor {
        args: String,
        code: u32,
        said: String,
    },
}

impl BenchError {
    fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}

/// What to measure, and how often.
pub struct Plan {
    /// The VM; its initrd is the guest that is measured.
    pub profile: Profile,
    pub accel: AccelWish,
    /// The floor program.
    pub floor: PathBuf,
    /// The plugin that counts instructions; without it they are not counted.
    pub counter: Option<PathBuf>,
    /// Another runtime, for a third column.
    pub peer: Option<Peer>,
    /// The guest's binary, for its size.
    pub init: Option<PathBuf>,
    /// Turns of guest and floor.
    pub rounds: u32,
    /// Only figures whose name contains this.
    pub filter: Option<String>,
    /// Makes a sink for the log of each guest.
    pub log: Option<Box<dyn Fn() -> LogSink>>,
}

impl Plan {
    fn wants(&self, name: &str) -> bool {
        let wanted = |filter: &String| name.contains(filter.as_str());
        self.filter.as_ref().is_none_or(wanted)
    }

    fn wants_any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.wants(name))
    }

    fn boot(&self, initrd: &Path, init_line: Option<&str>) -> Result<Uvm, UvmError> {
        self.boot_with(initrd, |profile| {
            profile.init_line = init_line.map(str::to_owned);
        })
    }

    fn boot_with(&self, initrd: &Path, change: impl FnOnce(&mut Profile)) -> Result<Uvm, UvmError> {
        let mut profile = self.profile.clone();
        profile.root = Some(Root::Initrd(initrd.to_owned()));
        change(&mut profile);
        let options = BootOptions {
            accel: self.accel,
            // The floor does not speak the protocol.
            negotiate: profile.init_line.is_none(),
            log_sink: self.log.as_ref().map(|make| make()),
            ..BootOptions::default()
        };
        Uvm::boot_with(profile, options)
    }
}

/// Measures everything that the plan wants. `doing` is told what is being measured.
///
/// # Errors
/// A VM does not come up, or work in it fails. A wrong figure is worse than none.
pub fn run(plan: &Plan, mut doing: impl FnMut(&str)) -> Result<Vec<Figure>, BenchError> {
    let dir = PrivateDir::new().map_err(BenchError::io("a private directory"))?;
    let guest = plan
        .profile
        .initrd()
        .cloned()
        .ok_or_else(|| BenchError::Files("there is no initrd to measure".into()))?;
    let mut figures = Vec::new();

    if plan.wants_any(&[boot::NAME, boot::COUNTED]) {
        let floor = dir.join("floor.img");
        initrd::floor_only(&plan.floor, &floor).map_err(BenchError::Files)?;
        if plan.wants(boot::NAME) {
            figures.push(boot::measure(plan, &guest, &floor, &mut doing)?);
        }
        if plan.wants(boot::COUNTED) {
            figures.push(boot::count(plan, &guest, &floor, dir.path(), &mut doing)?);
        }
    }
    let inside = [
        &guest::NAMES[..],
        &stream::NAMES,
        &container::NAMES,
        &storage::NAMES,
    ]
    .concat();
    let both = dir.join("both.img");
    let counted = plan.wants_any(&instructions::NAMES);
    if plan.wants_any(&inside) || plan.wants_any(&share::NAMES) || counted {
        initrd::with_floor(&guest, &plan.floor, plan.peer.as_ref(), &both)
            .map_err(BenchError::Files)?;
    }
    if plan.wants_any(&inside) {
        doing("booting the guest with the floor program in it");
        let vm = plan.boot(&both, None)?;
        if plan.wants_any(&guest::NAMES) {
            figures.extend(guest::measure(&vm, plan.rounds, &mut doing)?);
        }
        if plan.wants_any(&stream::NAMES) {
            figures.push(stream::measure(&vm, plan.rounds, &mut doing)?);
        }
        if plan.wants_any(&container::NAMES) {
            let made = container::measure(&vm, plan, dir.path(), &mut doing)?;
            figures.extend(made);
        }
        if plan.wants_any(&storage::NAMES) {
            let made = storage::measure(&vm, plan, dir.path(), &mut doing)?;
            figures.extend(made);
        }
        vm.power_off()?;
    }
    if plan.wants_any(&share::NAMES) {
        figures.extend(share::measure(plan, &both, dir.path(), &mut doing)?);
    }
    if counted {
        figures.extend(instructions::measure(plan, &both, dir.path(), &mut doing)?);
    }
    figures.extend(sizes(plan, &guest));
    figures.retain(|figure| plan.wants(&figure.name));
    Ok(figures)
}

fn sizes(plan: &Plan, initrd: &Path) -> Vec<Figure> {
    let size = |name: &str, path: &Path| {
        let mut figure = Figure::new(name, Unit::Kibibytes);
        // What is missing is not measured, and the table says so.
        if let Ok(about) = path.metadata() {
            figure.samples.push(about.len() as f64 / 1024.0);
        }
        figure
    };
    let mut figures = Vec::new();
    if let Some(init) = &plan.init {
        figures.push(size("size: binary", init).within(3072.0));
    }
    figures.push(size("size: initrd", initrd).within(3072.0));
    figures.push(size("size: kernel", &plan.profile.kernel));
    figures
}
