//! The calls that change the machine, behind one trait. Tests make any one of them fail and check
//! that everything before it is undone.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags};
use nix::sys::stat::{self, Mode, SFlag};

use super::formatter::{self, Formatter};
use super::mapper::MapperRequest;
use super::overlay::{self, Overlay};
use super::Roots;
use crate::error::Failure;
use crate::sys::dm::Control;

/// One mount(2).
#[derive(Debug, Clone, Copy)]
pub struct Mount<'a> {
    pub source: &'a Path,
    pub target: &'a Path,
    /// Empty for a bind mount or a change of an existing mount.
    pub kind: &'a str,
    pub flags: MsFlags,
    pub data: &'a str,
}

pub trait Kernel {
    fn mkdir(&self, path: &Path, mode: u32) -> io::Result<()>;
    fn rmdir(&self, path: &Path) -> io::Result<()>;
    fn mount(&self, mount: Mount<'_>) -> io::Result<()>;
    fn overlay(&self, overlay: &Overlay) -> Result<(), Failure>;
    fn unmount(&self, path: &Path) -> io::Result<()>;
    fn format(&self, formatter: &Formatter, device: &Path) -> Result<(), Failure>;
    /// Sends a request to the device-mapper. Returns the device's number if it was resumed,
    /// otherwise 0.
    fn map(&self, roots: &Roots, name: &str, request: MapperRequest<'_>) -> io::Result<u64>;
    /// Makes a block device node that only root may use.
    fn make_node(&self, path: &Path, number: u64) -> io::Result<()>;
    /// Removes a node or a link.
    fn remove_node(&self, path: &Path) -> io::Result<()>;
    fn link(&self, to: &Path, path: &Path) -> io::Result<()>;
}

/// The real kernel.
#[derive(Debug, Clone, Copy)]
pub struct Linux;

impl Kernel for Linux {
    fn mkdir(&self, path: &Path, mode: u32) -> io::Result<()> {
        fs::DirBuilder::new().mode(mode).create(path)
    }

    fn rmdir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn mount(&self, mount: Mount<'_>) -> io::Result<()> {
        let Mount {
            source,
            target,
            kind,
            flags,
            data,
        } = mount;
        nix::mount::mount(Some(source), target, Some(kind), flags, Some(data))?;
        Ok(())
    }

    fn overlay(&self, overlay: &Overlay) -> Result<(), Failure> {
        overlay::mount(overlay)
    }

    fn unmount(&self, path: &Path) -> io::Result<()> {
        nix::mount::umount2(path, MntFlags::empty())?;
        Ok(())
    }

    fn format(&self, formatter: &Formatter, device: &Path) -> Result<(), Failure> {
        formatter::format(formatter, device)
    }

    fn map(&self, roots: &Roots, name: &str, request: MapperRequest<'_>) -> io::Result<u64> {
        let control = Control::open(&roots.dev.join("mapper/control"))?;
        match request {
            MapperRequest::Create => control.create(name)?,
            MapperRequest::Load(target, read_only) => control.load(name, target, read_only.0)?,
            MapperRequest::Resume => return Ok(control.resume(name)?),
            MapperRequest::Remove => control.remove(name)?,
        }
        Ok(0)
    }

    fn make_node(&self, path: &Path, number: u64) -> io::Result<()> {
        // A node that an earlier device of this name has left would lead to another device.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        stat::mknod(path, SFlag::S_IFBLK, mode, number)?;
        Ok(())
    }

    fn remove_node(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn link(&self, to: &Path, path: &Path) -> io::Result<()> {
        std::os::unix::fs::symlink(to, path)
    }
}
