//! For unit tests: real mounts in a private mount namespace, device trees and events by script.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use std::{fs, io};

use nix::mount::{mount, MsFlags};
use nix::sched::{unshare, CloneFlags};
use nix::sys::signal::{raise, Signal::SIGKILL};
use serde::{Deserialize, Serialize};

use super::formatter::Formatter;
use super::kernel::{Kernel, Linux, Mount};
use super::mapper::MapperRequest;
use super::mountinfo::mount_points_below;
use super::overlay::Overlay;
use super::Roots;
use crate::error::Failure;
use crate::machine::uevent::{EventSource, Next, Uevent};

/// Runs `body` in a private mount namespace. The namespace belongs to a new thread, so other tests
/// see nothing of it. Without the right to do so, the test is skipped and says so.
pub fn in_mount_namespace(name: &str, body: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            // CLONE_FS: the root and working directory are shared between threads otherwise.
            // CLONE_FILES: or else a child that another test forks holds our open files for a
            // moment, and what they are on cannot be unmounted.
            let private = CloneFlags::CLONE_FS | CloneFlags::CLONE_FILES | CloneFlags::CLONE_NEWNS;
            if let Err(error) = unshare(private) {
                println!("SKIPPED: {name}: no private mount namespace ({error}); run as root");
                return;
            }
            mount(
                None::<&str>,
                "/",
                None::<&str>,
                MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                None::<&str>,
            )
            .expect("a fresh mount namespace can be made private");
            body();
        });
        if let Err(panic) = run.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A blank device of 16 MiB with the name `node` below the tree's `/dev`, in a private mount
/// namespace.
pub fn with_loop_device(name: &str, node: &str, body: impl FnOnce(&Tree) + Send) {
    in_mount_namespace(name, || {
        let tree = Tree::new();
        let image = tree.path("image");
        fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let attached = Command::new("losetup")
            .arg("--find")
            .arg("--show")
            .arg(&image)
            .output();
        let device = match attached {
            Ok(output) if output.status.success() => {
                String::from_utf8(output.stdout).unwrap().trim().to_owned()
            }
            other => {
                println!("SKIPPED: {name}: no loop device: {other:?}");
                return;
            }
        };
        std::os::unix::fs::symlink(&device, tree.roots.dev.join(node)).unwrap();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(&tree)));
        super::tree::unmount_below(&tree.path("")).unwrap();
        let detached = Command::new("losetup").arg("-d").arg(&device).status();
        assert!(detached.unwrap().success());
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A scratch directory that stands for `/sys` and `/dev`.
pub struct Tree {
    pub roots: Roots,
    top: tempfile::TempDir,
}

impl Tree {
    pub fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }

    fn at(top: tempfile::TempDir) -> Self {
        let roots = Roots {
            sys: top.path().join("sys"),
            dev: top.path().join("dev"),
        };
        fs::create_dir(&roots.sys).unwrap();
        fs::create_dir_all(roots.dev.join("mapper")).unwrap();
        fs::create_dir(tables_of(&roots.dev)).unwrap();
        Self { roots, top }
    }

    /// The same on a file system of its own: an overlay cannot stand on another.
    pub fn on_tmpfs() -> Self {
        let top = tempfile::tempdir().unwrap();
        mount(
            Some("tmpfs"),
            top.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        Self::at(top)
    }

    /// A path beside the two roots.
    pub fn path(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    /// What exists below the top directory, with modes, and what is mounted there.
    pub fn snapshot(&self) -> Vec<String> {
        let mut seen: Vec<String> = mount_points_below(self.top.path())
            .unwrap()
            .iter()
            .map(|point| format!("mount {}", point.display()))
            .collect();
        let mut left = vec![self.top.path().to_owned()];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let metadata = path.symlink_metadata().unwrap();
                seen.push(format!("{:o} {}", metadata.mode(), path.display()));
                if metadata.is_dir() {
                    left.push(path);
                }
            }
        }
        seen.sort();
        seen
    }

    pub fn sys_dir(&self, path: &str) {
        fs::create_dir_all(self.roots.sys.join(path)).unwrap();
    }

    pub fn node(&self, name: &str) {
        fs::write(self.roots.dev.join(name), "").unwrap();
    }

    pub fn disk(&self, host: u32, lun: u8, name: &str) {
        self.sys_dir(&format!("bus/scsi/devices/{host}:0:0:{lun}/block/{name}"));
        self.node(name);
    }
}

impl Drop for Tree {
    /// Before the directory goes: what is mounted inside would keep it.
    fn drop(&mut self) {
        if let Err(failure) = super::tree::unmount_below(self.top.path()) {
            println!("left behind: {failure}");
        }
    }
}

type Scripted<'a> = (Uevent, Box<dyn FnOnce() + 'a>);

/// Events in the order given, each with what happens just before it; then the deadline.
#[derive(Default)]
pub struct Script<'a>(VecDeque<Scripted<'a>>);

impl<'a> Script<'a> {
    pub fn event(mut self, subsystem: &str, devpath: &str, change: impl FnOnce() + 'a) -> Self {
        let event = Uevent {
            action: "add".into(),
            devpath: devpath.into(),
            subsystem: subsystem.into(),
        };
        self.0.push_back((event, Box::new(change)));
        self
    }
}

impl EventSource for Script<'_> {
    fn next(&mut self, _: Instant) -> io::Result<Next> {
        Ok(self
            .0
            .pop_front()
            .map_or(Next::Deadline, |(event, change)| {
                change();
                Next::Event(event)
            }))
    }
}

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

fn tables_of(dev: &Path) -> PathBuf {
    dev.join("tables")
}

/// As dm-integrity does where it finds no superblock of its own.
fn format_integrity(device: &str) {
    let sectors = 8_u64.to_le_bytes();
    let superblock = [&b"integrt\0"[..], &[0; 8], &sectors].concat();
    let file = fs::File::options().write(true).open(device).unwrap();
    file.write_all_at(&superblock, 0).unwrap();
}
