//! The options that every command with a VM has.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::Args;
use image::disk;
use image::verity::Facts;
use log::LevelFilter;

use uvm::{BootOptions, Uvm};
use uvm_host::log::{Level, Record};
use uvm_host::trace::Recorder;
use uvm_host::LogSink;
use uvm_vm::choice::AccelWish;
use uvm_vm::profile::{BootForm, ColdDisk, Machine, Profile, Root, VsockWish};

use super::progress::{log_to_stderr, Progress};

/// Where `make` puts what it builds, below the working directory.
const BUILT: &str = "out";

#[derive(Debug, Args)]
#[command(next_help_heading = "VM")]
pub struct VmOptions {
    /// Kernel: a PVH vmlinux or a bzImage [default: vmlinux or bzImage in out/]
    #[arg(long, env = "UVM_KERNEL", value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Initrd [default: out/initrd.img]
    #[arg(long, env = "UVM_INITRD", value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Kernel and root as `make dist` lays them out; wins over --kernel and --initrd [default with
    /// another root than the initrd: out/dist]
    #[arg(long, value_name = "DIRECTORY")]
    pub dist: Option<PathBuf>,
    /// What the kernel mounts as its root: all except the initrd are files of the shipping set
    #[arg(long, value_enum, default_value = "initrd", value_name = "FORM")]
    pub root: RootForm,
    /// Memory in MiB
    #[arg(long, default_value_t = 256, value_name = "MIB", value_parser = clap::value_parser!(u32).range(16..))]
    pub memory: u32,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub cpus: u32,
    #[arg(long, value_enum, default_value = "q35")]
    pub machine: Machine,
    /// `auto` boots a kernel on KVM first to see whether it works
    #[arg(long, value_enum, env = "UVM_ACCEL", default_value = "tcg")]
    pub accel: AccelWish,
    #[arg(long, value_enum, default_value = "auto")]
    pub vsock: VsockWish,
    /// Form of the boot line
    #[arg(long, value_enum, default_value = "vsockexec")]
    pub form: BootForm,
    /// Have PID 1 make /etc and /var writable over a root that is not (`-w`)
    #[arg(long)]
    pub writable_overlays: bool,
    /// Show the guest's log records from this level on, on stderr; warnings of its kernel from
    /// `info` on
    #[arg(long, default_value = "warning", value_name = "LEVEL", value_parser = level())]
    pub log_level: Level,
    /// Keep the serial console in this file
    #[arg(long, value_name = "FILE")]
    pub console_log: Option<PathBuf>,
    /// No `quiet` on the kernel line
    #[arg(long)]
    pub verbose_boot: bool,
    /// More kernel options
    #[arg(long, value_name = "OPTIONS")]
    pub append: Option<String>,
    /// More flags for the guest's service
    #[arg(long, value_name = "FLAGS", allow_hyphen_values = true)]
    pub gcs_flags: Option<String>,
    /// Write a timeline of host and guest to this file: Chrome trace event JSON, which Perfetto
    /// (ui.perfetto.dev) and chrome://tracing open
    #[arg(long, value_name = "FILE", value_parser = trace_file)]
    pub trace: Option<Recorder>,
    /// Go on where a real host would drop the bridge
    #[arg(long)]
    pub lenient: bool,
    /// Seconds that the guest has to come up
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub boot_timeout: u64,
    /// Tell what the tool does
    #[arg(long, short)]
    pub verbose: bool,
}

/// The forms that a root file system is shipped in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RootForm {
    /// initrd.img, unpacked into memory
    Initrd,
    /// rootfs.vhd as a disk
    Scsi,
    /// rootfs.vhd as persistent memory
    Pmem,
    /// rootfs.vhd checked against the hash tree after its file system
    Verity,
    /// rootfs.vhd checked against rootfs.hash.vhd
    VeritySplit,
}

impl RootForm {
    /// The root made of the files in a shipping set.
    ///
    /// # Errors
    /// The set has no file with the facts of dm-verity, or they cannot be read.
    pub fn of(self, dist: &Path) -> anyhow::Result<Root> {
        let disk = || dist.join(disk::DISK);
        let facts = || -> anyhow::Result<Facts> {
            let file = dist.join(disk::FACTS);
            let text = std::fs::read(&file)
                .with_context(|| format!("{} cannot be read: run `make dist`", file.display()))?;
            serde_json::from_slice(&text)
                .with_context(|| format!("{} is not understood", file.display()))
        };
        let form = match self {
            Self::Initrd => return Ok(Root::Initrd(dist.join("initrd.img"))),
            Self::Scsi => return Ok(Root::Scsi(ColdDisk::boot(disk()))),
            Self::Pmem => return Ok(Root::Pmem(disk())),
            Self::Verity => facts()?.combined,
            Self::VeritySplit => facts()?.separate,
        };
        let disks = form
            .disks
            .iter()
            .map(|name| ColdDisk::boot(dist.join(name)));
        Ok(Root::Verity {
            disks: disks.collect(),
            create: form.create,
        })
    }
}

impl VmOptions {
    /// The VM that the options describe.
    pub fn profile(&self) -> anyhow::Result<Profile> {
        let mut profile = Profile::new(self.kernel_path()?, None);
        profile.root = Some(match (&self.dist, self.root) {
            (None, RootForm::Initrd) => Root::Initrd(self.initrd_path()?),
            (None, form) => form.of(&built(&["dist"], "shipping set", "--dist")?)?,
            (Some(dist), form) => form.of(dist)?,
        });
        profile.machine = self.machine;
        profile.memory_mib = self.memory;
        profile.cpus = self.cpus;
        profile.form = self.form;
        profile.writable_overlays = self.writable_overlays;
        profile.vsock = self.vsock;
        profile.verbose_boot = self.verbose_boot;
        profile.console_log.clone_from(&self.console_log);
        profile.kernel_options.extend(self.append.clone());
        profile.service_flags.extend(self.gcs_flags.clone());
        // The guest sends more than is shown, because a report may need it.
        profile.guest_log_level = match self.log_level {
            Level::Trace => "trace".into(),
            _ => "debug".into(),
        };
        Ok(profile)
    }

    pub fn kernel_path(&self) -> anyhow::Result<PathBuf> {
        match (&self.dist, &self.kernel) {
            (Some(dist), _) => Ok(dist.join("vmlinux")),
            (None, Some(kernel)) => Ok(kernel.clone()),
            (None, None) => built(&["vmlinux", "bzImage"], "kernel", "--kernel or UVM_KERNEL"),
        }
    }

    pub fn initrd_path(&self) -> anyhow::Result<PathBuf> {
        match &self.initrd {
            Some(initrd) => Ok(initrd.clone()),
            None => built(&["initrd.img"], "initrd", "--initrd or UVM_INITRD"),
        }
    }

    /// Takes notes when a timeline was asked for.
    pub fn recorder(&self) -> Recorder {
        self.trace.clone().unwrap_or_default()
    }

    /// The level from which the tool's own log is shown.
    pub fn log_filter(&self) -> LevelFilter {
        match self.verbose {
            true => LevelFilter::Debug,
            false => LevelFilter::Warn,
        }
    }

    /// Boots it, with progress for a person who waits at a terminal.
    pub fn boot(&self, progress: &Progress) -> anyhow::Result<Uvm> {
        self.boot_profile(self.profile()?, progress)
    }

    /// Boots a profile made from [`VmOptions::profile`].
    pub fn boot_profile(&self, mut profile: Profile, progress: &Progress) -> anyhow::Result<Uvm> {
        // There is no clock of Hyper-V, and a guest that looks for it warns. The flag comes before
        // the user's own flags, which may override it.
        profile.service_flags.insert(0, "-disable-time-sync".into());
        log_to_stderr(progress, self.log_filter());
        progress.doing("booting the VM");
        let options = BootOptions {
            accel: self.accel,
            strict: !self.lenient,
            log_sink: Some(self.sink(progress)),
            negotiate: true,
            limit: Duration::from_secs(self.boot_timeout),
            trace: self.recorder(),
            ..BootOptions::default()
        };
        let vm = Uvm::boot_with(profile, options).context("the VM did not come up")?;
        progress.done();
        Ok(vm)
    }

    fn sink(&self, progress: &Progress) -> LogSink {
        self.sinks(progress)()
    }

    /// A sink for the log of each of several VMs.
    pub fn sinks(&self, progress: &Progress) -> impl Fn() -> LogSink + 'static {
        let (level, progress) = (self.log_level, progress.clone());
        move || {
            let progress = progress.clone();
            Box::new(move |record: &Record| {
                if shown(record, level) {
                    progress.line(&format!("guest: {record}"));
                }
            })
        }
    }
}

/// Opens the file at once, so that an error comes before anything else is done.
fn trace_file(path: &str) -> Result<Recorder, String> {
    Recorder::to_file(path.as_ref()).map_err(|e| format!("it cannot be written: {e}"))
}

/// The kernel's warnings here are about QEMU's machine, so they count as information.
/// A level by its name; `warn` is a name of `warning`.
pub(super) fn level() -> impl TypedValueParser<Value = Level> {
    let names = Level::ALL.map(|level| match level {
        Level::Warning => PossibleValue::new(level.name()).alias("warn"),
        _ => PossibleValue::new(level.name()),
    });
    let parser = PossibleValuesParser::new(names);
    parser.map(|name| Level::parse(&name).expect("its own names and `warn` are names of levels"))
}

fn shown(record: &Record, from: Level) -> bool {
    let of_kernel = record.fields.contains_key("kmsg");
    // The guest forgets a disk before QEMU unplugs it, as with a real host. QEMU's event then finds
    // no disk.
    let text = record.message.trim_end();
    let unplugged = text.starts_with("virtio_scsi: SCSI device") && text.ends_with("not found");
    match record.level {
        _ if of_kernel && unplugged => Level::Debug <= from,
        Level::Warning if of_kernel => Level::Info <= from,
        level => level <= from,
    }
}

/// Looks a built file up in `out/`, first here, then beside this program.
fn built(names: &[&str], what: &str, option: &str) -> anyhow::Result<PathBuf> {
    let mut places = vec![PathBuf::from(BUILT)];
    if let Some(beside) = std::env::current_exe()
        .ok()
        .as_deref()
        .and_then(std::path::Path::parent)
    {
        places.push(beside.to_owned());
    }
    let found = names
        .iter()
        .flat_map(|name| places.iter().map(move |place| place.join(name)))
        .find(|path| path.exists());
    found.with_context(|| {
        let goal = if what == "shipping set" { " dist" } else { "" };
        format!(
            "there is no {what} at {BUILT}/{}: run `make{goal}`, or name one with {option}",
            names[0]
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_persons_terminal_has_what_matters() {
        let shown = |level: &str, text: &str, of_kernel: bool, from: Level| {
            let mut record = json!({"level": level, "msg": text});
            if of_kernel {
                record["kmsg"] = 1.into();
            }
            shown(&Record::from_value(record).unwrap(), from)
        };
        assert!(shown("warning", "x", false, Level::Warning));
        assert!(!shown("warning", "x", true, Level::Warning));
        assert!(shown("error", "x", true, Level::Error));
        let unplugged = "virtio_scsi: SCSI device 0 0 0 3 not found";
        assert!(!shown("error", unplugged, true, Level::Error));
        assert!(shown("error", unplugged, true, Level::Debug));
    }
}
