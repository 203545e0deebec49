//! `uvm run`: boots a VM, runs one container from an image in it, and has that container's streams
//! and exit code. The tool itself writes nothing to stdout.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;

use crate::control::{Known, Server, Urge};
use crate::exit::start_failure;
use uvm::attach_dir::AttachDir;
use uvm::attachment::Attachment;
use uvm::container::{self, Container, Rootfs};
use uvm::network;
use uvm::volume::{self, Volume};
use uvm::Uvm;
use uvm_host::{HostError, Process};
use uvm_images::{Cache, Image, Platform};
use uvm_vm::network::Nic;
use uvm_vm::profile::{Forward, Profile};

use super::exec::relay;
use super::owner::{power_off, OwnerOptions, Tended};
use super::{exit_code, progress, terminal, Progress, VmOptions};

/// Disks that fit on one controller.
const LUNS: usize = 64;
/// Controllers that an LCOW VM can have.
const CONTROLLERS: usize = 4;

// The container's stderr is the tool's own, so warnings of the guest's kernel do not go there.
#[derive(Debug, Args)]
#[command(mut_arg("log_level", |arg| arg.default_value("error")))]
// `-v` is for volumes here, as in other tools. `--verbose` stays.
#[command(mut_arg("verbose", |arg| arg.short(None)))]
pub struct Run {
    #[command(flatten)]
    vm: VmOptions,
    #[command(flatten)]
    container: ContainerOptions,
    #[command(flatten)]
    owner: OwnerOptions,
    /// The program and its arguments, instead of the image's command
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Container")]
struct ContainerOptions {
    /// OCI layout directory, OCI or `docker save` archive, rootfs directory or tar
    /// [default: an image made from this machine's static busybox]
    #[arg(long, value_name = "PATH")]
    image: Option<PathBuf>,
    /// Of an image for several platforms, the one to take [default: the best variant of linux/amd64
    /// that this machine's processor has]
    #[arg(long, value_name = "linux/amd64[/VARIANT]")]
    platform: Option<Platform>,
    /// The command as one string, split into words as a shell does, but run without one
    #[arg(long, value_name = "STRING", conflicts_with = "args")]
    command: Option<String>,
    /// Instead of the image's entrypoint; "" for none
    #[arg(long, value_name = "STRING")]
    entrypoint: Option<String>,
    /// Variables for the container
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<String>,
    /// Working directory
    #[arg(long, short, value_name = "DIRECTORY")]
    workdir: Option<String>,
    /// User: name or uid, perhaps with :group
    #[arg(long, short, value_name = "USER")]
    user: Option<String>,
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Gives the container a directory or file of this machine
    #[arg(long, short = 'v', value_name = "HOST:CONTAINER[:ro]", value_parser = Volume::share)]
    volume: Vec<Volume>,
    /// Gives the container the file system on a disk image: raw, .vhd, .vhdx or .qcow2
    #[arg(long, value_name = "FILE:PATH[:ro]", value_parser = Volume::disk)]
    disk: Vec<Volume>,
    /// A directory of the container in which `uvm attach --container` puts what it gets while it
    /// runs
    #[arg(long, value_name = "DIRECTORY", value_parser = directory)]
    attach_dir: Option<String>,
    /// Give the container a network: QEMU's user-mode network, with this machine at 10.0.2.2
    #[arg(long)]
    net: bool,
    /// A TCP port of this machine's loopback that leads to one of the container; implies --net
    #[arg(long, short = 'p', value_name = "HOST:GUEST", value_parser = forward)]
    publish: Vec<Forward>,
    /// The container has no standard input
    #[arg(long)]
    no_stdin: bool,
    /// The container gets this terminal
    #[arg(long, short, conflicts_with = "no_stdin")]
    terminal: bool,
    /// Where converted layers are kept [default: lcow-uvm/layers in the user's cache directory]
    #[arg(long, env = "UVM_LAYER_CACHE", value_name = "DIRECTORY")]
    cache_dir: Option<PathBuf>,
    /// Size of the disk that takes the container's writes, in MiB; sparse
    #[arg(long, default_value_t = uvm_images::SCRATCH_BYTES >> 20, value_name = "MIB",
        value_parser = clap::value_parser!(u64).range(16..=1 << 20))]
    scratch_size: u64,
}

fn variable(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.to_owned()),
        _ => Err("it is not of the form NAME=VALUE".into()),
    }
}

fn directory(text: &str) -> Result<String, String> {
    let words = text.strip_prefix('/').unwrap_or_default().split('/');
    match words
        .into_iter()
        .any(|word| ["", ".", ".."].contains(&word))
    {
        true => Err("it is not an absolute path without `.` and `..`".into()),
        false => Ok(text.to_owned()),
    }
}

fn forward(text: &str) -> Result<Forward, String> {
    let port = |text: &str| text.parse().ok().filter(|port| *port != 0);
    text.split_once(':')
        .and_then(|(host, guest)| {
            Some(Forward {
                host: port(host)?,
                guest: port(guest)?,
            })
        })
        .ok_or_else(|| "it is not of the form HOST:GUEST with two ports".into())
}

impl Run {
    pub fn run(mut self) -> anyhow::Result<ExitCode> {
        self.name_terminal()?;
        let progress = Progress::new();
        progress::log_to_stderr(&progress, self.vm.log_filter());
        let id = uuid::Uuid::new_v4().to_string();
        let process = self.process()?;

        let trace = self.vm.recorder();
        let mut profile = self.vm.profile()?;
        self.owner.prepare(&mut profile)?;
        let stage = trace.stage("image to disks");
        progress.doing("preparing the image");
        let cache = Cache::open(self.container.cache_dir.as_deref())?;
        let image = match &self.container.image {
            Some(path) => {
                let platform = self.container.platform;
                let platform = platform.unwrap_or_else(Platform::of_machine);
                uvm_images::load(path, &platform, &cache)?
            }
            None => uvm_images::default_image(&cache)?,
        };
        drop(stage);
        let mut spec = uvm_images::standalone(&image.config, &process, &container::root(&id));
        let program = spec["process"]["args"][0].as_str().map(str::to_owned);
        let program = program.context("the image has no command: give one after `--`")?;

        network::unprivileged(&mut spec);
        let net = self.fit(&mut profile, &image)?;
        let vm = Arc::new(self.vm.boot_profile(profile, &progress)?);
        let _tended = Tended::new(&vm);
        if net {
            // The pod's namespace, which the host's network service would name.
            let namespace = uuid::Uuid::new_v4().to_string();
            network::join(&mut spec, &namespace);
            vm.modify("Network", "Add", network::settings(Nic::new(0), &namespace))?;
        }
        let stage = trace.stage("attaching disks and shares");
        let (container, storage) = self.mount(&vm, &cache, &image, &id)?;
        if let Some(mounts) = spec["mounts"].as_array_mut() {
            mounts.extend(storage.mounts);
        }
        drop(stage);
        let stage = trace.stage("running the container");
        let process = match self.start(&container, &spec) {
            Ok(process) => process,
            Err(e @ HostError::Refused { .. }) => {
                progress.line(&format!("uvm: {program} cannot be run: {e}"));
                return Ok(start_failure(&e).into());
            }
            Err(e) => return Err(e.into()),
        };
        let known = Known {
            id: id.clone(),
            process: spec["process"].take(),
            attach_dir: storage.attach_dir,
        };
        let stop_signal = image.config.stop_signal.unwrap_or(libc::SIGTERM);
        let (host, ask) = (vm.host().clone(), process.signaller());
        let on_stop = move |urge| match urge {
            Urge::Asked if stop_signal != libc::SIGTERM => ask(stop_signal),
            urge => host.shutdown(&id, urge == Urge::Pressed),
        };
        let server = self.owner.serve("run", &vm, vec![known], on_stop)?;
        let outcome = relay(process, self.container.terminal, stop_signal);
        drop(stage);
        let _stage = trace.stage("stopping");
        // The outcome is known; nothing from here on may change it.
        if let Err(e) = leave(&vm, server, container, storage.attachments) {
            log::warn!("the VM was not left in good order: {e:#}");
        }
        Ok(exit_code(outcome?))
    }

    /// Gives the container a `TERM` of this terminal's, unless one was chosen.
    fn name_terminal(&mut self) -> anyhow::Result<()> {
        if !self.container.terminal {
            return Ok(());
        }
        terminal::check()?;
        let env = &mut self.container.env;
        if !env.iter().any(|variable| variable.starts_with("TERM=")) {
            env.push(format!("TERM={}", terminal::kind()));
        }
        Ok(())
    }

    /// Gives the VM room for the container's disks, and an adapter if it is to have a network.
    /// Returns the adapter.
    fn fit(&mut self, profile: &mut Profile, image: &Image) -> anyhow::Result<bool> {
        let options = &mut self.container;
        // An attach directory and the scratch are disks, too.
        let own = 1 + usize::from(options.attach_dir.is_some());
        let disks = image.layers.len() + options.volume.len() + options.disk.len() + own;
        profile.controllers = u8::try_from(disks.div_ceil(LUNS).min(CONTROLLERS))?;
        profile.forwards = std::mem::take(&mut options.publish);
        if !options.volume.is_empty() {
            // Programs may map files of shares, unless --append says otherwise.
            profile.kernel_options.insert(0, "gcs.9p_cache=mmap".into());
        }
        let net = options.net || !profile.forwards.is_empty();
        profile.nics = net.into();
        Ok(net)
    }

    /// Mounts the container's root, and attaches what it gets besides.
    fn mount(
        &self,
        vm: &Uvm,
        cache: &Cache,
        image: &Image,
        id: &str,
    ) -> anyhow::Result<(Container, Storage)> {
        let options = &self.container;
        let scratch = vm.dir().join("scratch.ext4");
        cache.scratch(options.scratch_size << 20, &scratch)?;
        let rootfs = Rootfs::plug(vm, id, &scratch, &image.layer_files())?;
        let container = Container::mount(vm.host(), id, rootfs)?;
        let mut storage = Storage::default();
        for (number, volume) in options.volume.iter().chain(&options.disk).enumerate() {
            let (attachment, mount) = volume.attach(vm, id, number)?;
            storage.attachments.push(attachment);
            storage.mounts.push(mount);
        }
        if let Some(inside) = &options.attach_dir {
            let (dir, attachment) = AttachDir::attach(vm, cache, id, inside.clone())?;
            storage.attachments.push(attachment);
            storage.mounts.push(dir.mount());
            storage.attach_dir = Some(dir);
        }
        volume::parents_first(&mut storage.mounts);
        Ok((container, storage))
    }

    fn start(&self, container: &Container, spec: &Value) -> Result<Process, HostError> {
        container.create(spec)?;
        container.start()?;
        let launch = container.init();
        match (self.container.terminal, self.container.no_stdin) {
            (true, _) => launch.open_stdin().without_stderr().start(),
            (false, true) => launch.start(),
            (false, false) => launch.open_stdin().start(),
        }
    }

    fn process(&mut self) -> anyhow::Result<uvm_images::Process> {
        let options = &mut self.container;
        let given = std::mem::take(&mut self.args);
        let args = match &options.command {
            Some(line) => Some(split("--command", line)?),
            None => Some(given).filter(|given| !given.is_empty()),
        };
        let entrypoint = options.entrypoint.as_deref();
        Ok(uvm_images::Process {
            args,
            entrypoint: entrypoint
                .map(|line| split("--entrypoint", line))
                .transpose()?,
            env: std::mem::take(&mut options.env),
            cwd: options.workdir.take(),
            user: options.user.take(),
            hostname: options.hostname.take(),
            terminal: options.terminal,
        })
    }
}

/// What a container has besides its root file system.
#[derive(Default)]
struct Storage {
    /// In the order in which they were made. They are removed in reverse.
    attachments: Vec<Attachment>,
    /// For its spec.
    mounts: Vec<Value>,
    attach_dir: Option<AttachDir>,
}

/// When it returns, everything that was written is on the disks and directories of this machine.
fn leave(
    vm: &Uvm,
    mut server: Option<Server>,
    container: Container,
    attachments: Vec<Attachment>,
) -> anyhow::Result<()> {
    let released = release(vm, server.as_mut(), container, attachments);
    // Also when something could not be unmounted: the guest writes out what it has.
    power_off(vm, server)?;
    released
}

fn release(
    vm: &Uvm,
    server: Option<&mut Server>,
    container: Container,
    attachments: Vec<Attachment>,
) -> anyhow::Result<()> {
    container.remove()?;
    if let Some(server) = server {
        server.close();
    }
    for mut attachment in attachments.into_iter().rev() {
        attachment.remove(vm)?;
    }
    Ok(())
}

/// Words as a shell splits them. Operators (`|`, `;`, `>`) are plain characters: where a shell is
/// wanted, it is named (`sh -c '…'`).
fn split(option: &str, line: &str) -> anyhow::Result<Vec<String>> {
    shlex::split(line).with_context(|| format!("{option}: a quotation is not closed in {line:?}"))
}
