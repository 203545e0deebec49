//! A stand-in for PID 1: makes containers in tasks as PID 1 does, and reaps what they leave behind.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use gcs::engine::devices::Programs;
use gcs::engine::{self, Bare, Container, Plan, Process};
use gcs::error::Failure;
use gcs::prot::stats::Metrics;
use gcs::prot::HResult;
use nix::sys::socket::SockType;
use serde_json::{json, Value};

use crate::bundle;
use crate::task::{go_on, pair, Made, Running, Task};

pub struct Rig {
    pub dir: tempfile::TempDir,
    pub v2: bool,
    containers: RefCell<BTreeMap<String, Record>>,
    bare: RefCell<Option<Bare>>,
}

/// What PID 1 knows of a container.
struct Record {
    container: Container,
    process: OwnedFd,
    control: OwnedFd,
    started: bool,
}

impl Rig {
    pub fn new(v2: bool) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            v2,
            containers: RefCell::default(),
            bare: RefCell::default(),
        }
    }

    /// A bundle with a busybox root, its spec changed by `change`.
    pub fn bundle(&self, id: &str, args: &[&str], change: impl FnOnce(&mut Value)) -> PathBuf {
        bundle::write(&self.dir.path().join("c"), id, args, change)
    }

    pub fn create(
        &self,
        id: &str,
        args: &[&str],
        change: impl FnOnce(&mut Value),
    ) -> Result<Made, Failure> {
        let bundle = self.bundle(id, args, change);
        self.create_from(id, &bundle)
    }

    /// Of the bundle as it is.
    pub fn create_from(&self, id: &str, bundle: &Path) -> Result<Made, Failure> {
        if self.containers.borrow().contains_key(id) {
            return Err(Failure::new(
                HResult::SYSTEM_ALREADY_EXISTS,
                "the id is in use",
            ));
        }
        let text = fs::read(bundle.join("config.json")).unwrap();
        let spec: Value = serde_json::from_slice(&text).unwrap();
        let plan = Plan::of(&spec, bundle, id).map_err(Failure::unspecified)?;
        let state =
            json!({"id": id, "bundle": bundle, "status": "creating", "ociVersion": "1.2.0"});
        let (control, theirs) = pair(SockType::Stream);
        let bare = self.bare.borrow();
        let also: Vec<_> = bare.iter().map(AsFd::as_fd).collect();
        let task = Task::start(theirs.as_fd(), &also, |ends| {
            engine::create(&plan, bare.as_ref(), &Programs::default(), &state, ends)
        });
        drop((theirs, bare));
        let made = task.wait();
        let group = plan.group.path.clone();
        let made = made.and_then(|(told, streams)| {
            if told.ready {
                return Ok((told, streams));
            }
            Err(Failure::unspecified(
                "the new process ended and said nothing",
            ))
        });
        let (told, streams) = made.inspect_err(|_| engine::group(&group).destroy().unwrap())?;
        for warning in &told.warnings {
            println!("    {warning}");
        }
        if let Some(bare) = told.bare {
            self.bare.replace(Some(Bare::from(bare)));
        }
        let record = Record {
            container: told.container.unwrap(),
            process: told.process.unwrap(),
            control,
            started: false,
        };
        self.containers.borrow_mut().insert(id.into(), record);
        Ok(Made {
            pid: told.pid.unwrap(),
            streams,
            master: told.terminal.map(File::from),
        })
    }

    pub fn exec(&self, id: &str, process: Value) -> Result<Made, Failure> {
        self.spawn_exec(id, process)?.wait()
    }

    pub fn spawn_exec(&self, id: &str, process: Value) -> Result<Running, Failure> {
        let containers = self.containers.borrow();
        let record = containers
            .get(id)
            .ok_or_else(|| Failure::new(HResult::SYSTEM_NOT_FOUND, "there is no such container"))?;
        let process = Process::parse(&process).map_err(Failure::unspecified)?;
        let also: Vec<_> = record
            .container
            .descriptors()
            .chain([record.process.as_fd()])
            .collect();
        let (control, theirs) = pair(SockType::Stream);
        let task = Task::start(theirs.as_fd(), &also, |ends| {
            engine::exec(&process, &record.container, &record.process, ends)
        });
        Ok(Running(task, control))
    }

    pub fn start(&self, id: &str) -> Result<(), Failure> {
        let mut containers = self.containers.borrow_mut();
        let missing = || Failure::new(HResult::SYSTEM_NOT_FOUND, "there is no such container");
        let record = containers.get_mut(id).ok_or_else(missing)?;
        if std::mem::replace(&mut record.started, true) {
            return Err(Failure::new(
                HResult::INVALID_STATE,
                "it was started before",
            ));
        }
        go_on(&record.control)
    }

    fn path(&self, id: &str) -> PathBuf {
        Path::new("containers").join(id)
    }

    pub fn signal_all(&self, id: &str, signal: i32) -> Result<(), Failure> {
        engine::group(&self.path(id)).signal_all(signal)
    }

    pub fn pids(&self, id: &str) -> Result<Vec<i32>, Failure> {
        engine::group(&self.path(id)).pids()
    }

    pub fn constrain(&self, id: &str, resources: &Value) -> Result<(), Failure> {
        engine::group(&self.path(id)).constrain(resources)
    }

    pub fn statistics(&self, id: &str) -> Result<Metrics, Failure> {
        engine::group(&self.path(id)).statistics()
    }

    /// Ends what is left of it and forgets it.
    pub fn delete(&self, id: &str) -> Result<(), Failure> {
        let done = engine::group(&self.path(id)).destroy();
        self.containers.borrow_mut().remove(id);
        done
    }

    /// Create, start, read to the end, wait, delete: (stdout, stderr, exit code).
    pub fn run(
        &self,
        id: &str,
        args: &[&str],
        change: impl FnOnce(&mut Value),
    ) -> (String, String, i32) {
        let made = self.create(id, args, change).unwrap();
        self.start(id).unwrap();
        let seen = made.finish();
        self.delete(id).unwrap();
        self.assert_clean(id);
        seen
    }

    /// Nothing of the container is left: cgroup, mounts.
    pub fn assert_clean(&self, id: &str) {
        let find = Command::new("find")
            .args(["/sys/fs/cgroup", "-path", &format!("*/containers/{id}")])
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&find.stdout),
            "",
            "cgroup of {id} is left"
        );
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = self.dir.path().join("c");
        assert!(
            !mounts.contains(dir.to_str().unwrap()),
            "mounts are left: {mounts}"
        );
    }
}
