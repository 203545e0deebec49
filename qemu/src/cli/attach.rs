//! `uvm attach` and `uvm detach`: gives a running VM disks, directories and persistent memory, and
//! takes them away again.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::client::{Inside, Which};
use crate::control::wire::{self, Kind, Request, Target};
use uvm::volume::Volume;

#[derive(Debug, Args)]
pub struct Attach {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The file system on a disk image: raw, .vhd, .vhdx or .qcow2
    Disk(Disk),
    /// A directory of this machine, served over 9P
    Share(Share),
    /// A raw file as persistent memory, read-only; QEMU cannot unplug it, so its slot stays taken
    /// after a detach and is for the same file only
    Pmem(Pmem),
}

#[derive(Debug, Args)]
struct Disk {
    /// PATH is one of the VM
    #[arg(value_name = "FILE:PATH[:ro]", value_parser = Volume::disk)]
    volume: Volume,
    #[command(flatten)]
    target: TargetOptions,
}

#[derive(Debug, Args)]
struct Share {
    /// PATH is one of the VM
    #[arg(value_name = "DIRECTORY:PATH[:ro]", value_parser = Volume::share)]
    volume: Volume,
    #[command(flatten)]
    target: TargetOptions,
}

#[derive(Debug, Args)]
struct Pmem {
    /// PATH is one of the VM
    #[arg(value_name = "FILE:PATH", value_parser = Volume::disk)]
    volume: Volume,
    #[command(flatten)]
    target: TargetOptions,
}

#[derive(Debug, Args)]
struct TargetOptions {
    #[command(flatten)]
    which: Which,
    /// PATH is one of this container, right below its `--attach-dir`
    #[command(flatten)]
    inside: Inside,
}

impl Attach {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let (kind, volume, target) = match self.what {
            What::Disk(disk) => (Kind::Disk, disk.volume, disk.target),
            What::Share(share) => (Kind::Share, share.volume, share.target),
            What::Pmem(pmem) => (Kind::Pmem, pmem.volume, pmem.target),
        };
        let order = wire::Attach {
            kind,
            source: absolute(volume.source())?,
            target: Target {
                path: volume.target().to_owned(),
                container: target.inside.container,
            },
            read_only: volume.is_read_only() || kind == Kind::Pmem,
        };
        target.which.connect()?.order(&Request::Attach(order))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// For a process with another working directory.
fn absolute(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let full = path.canonicalize().with_context(|| format!("{shown}"))?;
    let full = full.into_os_string().into_string();
    full.map_err(|_| anyhow::anyhow!("{shown}: its path is not UTF-8"))
}

#[derive(Debug, Args)]
pub struct Detach {
    /// As it was attached
    #[arg(value_name = "PATH")]
    path: String,
    #[command(flatten)]
    target: TargetOptions,
}

impl Detach {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let target = Target {
            path: self.path,
            container: self.target.inside.container,
        };
        let client = self.target.which.connect()?;
        client.order(&Request::Detach(target))?;
        Ok(ExitCode::SUCCESS)
    }
}
