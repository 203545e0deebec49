//! For unit tests: the kernel's calls, of which one fails.

use std::cell::{Cell, RefCell};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use nix::sys::signal::{raise, Signal::SIGKILL};
use serde::{Deserialize, Serialize};

use super::formatter::Formatter;
use super::kernel::{Kernel, Linux, Mount};
use super::mapper::MapperRequest;
use super::overlay::Overlay;
use super::Roots;
use crate::error::Failure;

/// The real calls, of which one goes wrong. In the place of the device-mapper, which a machine
/// that builds need not have, stands a directory of tables beside its nodes: a mapped device is a
/// link to the device below it.
pub struct Failing {
    calls: Cell<usize>,
    fault: Cell<Fault>,
    tables: RefCell<Option<PathBuf>>,
}

/// What goes wrong at the call with this number, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Never,
    Fails(usize),
    /// The process is killed before the call does anything.
    DiesBefore(usize),
    /// The process is killed when it was done.
    DiesAfter(usize),
}

/// What a table was loaded with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapped {
    pub sectors: u64,
    pub kind: String,
    pub parameters: String,
    pub read_only: bool,
    pub running: bool,
}

impl Failing {
    pub fn with(fault: Fault) -> Self {
        Self {
            calls: Cell::new(0),
            fault: Cell::new(fault),
            tables: RefCell::default(),
        }
    }

    pub fn at(fails: usize) -> Self {
        Self::with(Fault::Fails(fails))
    }

    /// Nothing fails.
    pub fn never() -> Self {
        Self::with(Fault::Never)
    }

    /// From now on nothing fails.
    pub fn heal(&self) {
        self.fault.set(Fault::Never);
    }

    /// Whether the failing call was reached.
    pub fn failed(&self) -> bool {
        matches!(self.fault.get(), Fault::Fails(number) if self.calls.get() > number)
    }

    /// What each mapped device is made of, by name.
    pub fn tables(&self) -> Vec<(String, Mapped)> {
        let Some(directory) = self.tables.borrow().clone() else {
            return Vec::new();
        };
        let names = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().path()).collect();
        names.sort();
        let one = |path: PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, read_table(&path).unwrap())
        };
        names.into_iter().map(one).collect()
    }

    fn call<T, E>(
        &self,
        action: impl FnOnce() -> Result<T, E>,
        refused: impl FnOnce(io::Error) -> E,
    ) -> Result<T, E> {
        let number = self.calls.replace(self.calls.get() + 1);
        let fault = self.fault.get();
        if fault == Fault::Fails(number) {
            return Err(refused(io::Error::from_raw_os_error(libc::EIO)));
        }
        if fault == Fault::DiesBefore(number) {
            raise(SIGKILL).unwrap();
        }
        let done = action();
        if fault == Fault::DiesAfter(number) {
            raise(SIGKILL).unwrap();
        }
        done
    }

    fn io<T>(&self, action: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.call(action, |error| error)
    }

    fn work<T>(&self, action: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        self.call(action, |error| Failure::unspecified(error.to_string()))
    }
}

fn read_table(path: &Path) -> Option<Mapped> {
    let text = fs::read(path).ok()?;
    Some(serde_json::from_slice(&text).unwrap())
}

fn write_table(path: &Path, mapped: &Mapped) {
    fs::write(path, serde_json::to_vec(mapped).unwrap()).unwrap();
}

impl Kernel for Failing {
    fn mkdir(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.io(|| Linux.mkdir(path, mode))
    }

    fn rmdir(&self, path: &Path) -> io::Result<()> {
        self.io(|| Linux.rmdir(path))
    }

    fn mount(&self, mount: Mount<'_>) -> io::Result<()> {
        self.io(|| Linux.mount(mount))
    }

    fn overlay(&self, overlay: &Overlay) -> Result<(), Failure> {
        self.work(|| Linux.overlay(overlay))
    }

    fn unmount(&self, path: &Path) -> io::Result<()> {
        self.io(|| Linux.unmount(path))
    }

    fn format(&self, formatter: &Formatter, device: &Path) -> Result<(), Failure> {
        self.work(|| Linux.format(formatter, device))
    }

    fn map(&self, roots: &Roots, name: &str, request: MapperRequest<'_>) -> io::Result<u64> {
        let directory = tables_of(&roots.dev);
        let path = directory.join(name);
        *self.tables.borrow_mut() = Some(directory);
        self.io(|| {
            let error = |number| Err(io::Error::from_raw_os_error(number));
            match (request, read_table(&path)) {
                (MapperRequest::Create, Some(_)) => return error(libc::EBUSY),
                (MapperRequest::Create, None) => write_table(&path, &Mapped::default()),
                (_, None) => return error(libc::ENXIO),
                (MapperRequest::Load(target, read_only), Some(_)) => {
                    if target.kind == "integrity" {
                        format_integrity(target.parameters.split(' ').next().unwrap());
                    }
                    let loaded = Mapped {
                        sectors: target.sectors,
                        kind: target.kind.to_owned(),
                        parameters: target.parameters.to_owned(),
                        read_only: read_only.0,
                        running: false,
                    };
                    write_table(&path, &loaded);
                }
                (MapperRequest::Resume, Some(loaded)) => {
                    let running = true;
                    write_table(&path, &Mapped { running, ..loaded });
                }
                (MapperRequest::Remove, Some(_)) => fs::remove_file(&path).unwrap(),
            }
            Ok(0)
        })
    }

    fn make_node(&self, path: &Path, _: u64) -> io::Result<()> {
        self.io(|| {
            let (mapper, name) = (path.parent().unwrap(), path.file_name().unwrap());
            let table = tables_of(mapper.parent().unwrap()).join(name);
            let parameters = read_table(&table).unwrap().parameters;
            let below = parameters.split(' ').find(|word| word.starts_with('/'));
            std::os::unix::fs::symlink(below.unwrap(), path)
        })
    }

    fn remove_node(&self, path: &Path) -> io::Result<()> {
        self.io(|| Linux.remove_node(path))
    }

    fn link(&self, to: &Path, path: &Path) -> io::Result<()> {
        self.io(|| Linux.link(to, path))
    }
}

pub fn tables_of(dev: &Path) -> PathBuf {
    dev.join("tables")
}

/// As dm-integrity does where it finds no superblock of its own.
fn format_integrity(device: &str) {
    let sectors = 8_u64.to_le_bytes();
    let superblock = [&b"integrt\0"[..], &[0; 8], &sectors].concat();
    let file = fs::File::options().write(true).open(device).unwrap();
    file.write_all_at(&superblock, 0).unwrap();
}
