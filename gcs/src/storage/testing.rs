//! For unit tests: real mounts in a private mount namespace, device trees and events by script.

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;
use std::{fs, io};

use nix::mount::{mount, MsFlags};
use nix::sched::{unshare, CloneFlags};

use super::failing::tables_of;
use super::mountinfo::mount_points_below;
use super::Roots;
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
