//! For unit tests: real mounts in a private mount namespace, device trees and events by script.

use std::collections::VecDeque;
use std::time::Instant;
use std::{fs, io};

use nix::mount::{mount, MsFlags};
use nix::sched::{unshare, CloneFlags};

use super::Roots;
use crate::uevent::{Next, Source, Uevent};

/// Runs `body` in a private mount namespace. The namespace belongs to a new thread, so other
/// tests see nothing of it. Without the right to do so: skipped, and said.
pub fn in_mount_namespace(name: &str, body: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            // CLONE_FS: the root and working directory are shared between threads otherwise.
            if let Err(error) = unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS) {
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

/// A scratch directory that stands for `/sys` and `/dev`.
pub struct Tree {
    pub roots: Roots,
    _top: tempfile::TempDir,
}

impl Tree {
    pub fn new() -> Self {
        let top = tempfile::tempdir().unwrap();
        let roots = Roots {
            sys: top.path().join("sys"),
            dev: top.path().join("dev"),
        };
        fs::create_dir(&roots.sys).unwrap();
        fs::create_dir(&roots.dev).unwrap();
        Self { roots, _top: top }
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

impl Source for Script<'_> {
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
