//! The calls that change the machine, as one seam: tests make any one of them fail and see
//! that all before it is undone.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags};

use super::filesystem::{self, Formatter};
use super::overlay::{self, Overlay};
use crate::error::Failure;

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
}

/// The real one.
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
        filesystem::format(formatter, device)
    }
}
