//! What the escapes are tried with: something outside a container that must stay as it is, and a
//! container of a root that was prepared for the attempt.

use std::fs;
use std::os::unix::fs::{symlink, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use gcs::error::Failure;
use serde_json::Value;

use crate::rig::Rig;

/// What a container must never reach, and what it was before.
pub struct Outside {
    pub dir: PathBuf,
    before: Vec<String>,
}

impl Outside {
    pub fn new(rig: &Rig) -> Self {
        let dir = rig.dir.path().join("outside");
        fs::create_dir_all(dir.join("sub")).unwrap();
        fs::write(dir.join("secret"), "secret\n").unwrap();
        let before = state(&dir);
        Self { dir, before }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Nothing has been made, written, mounted or given away there.
    pub fn assert_untouched(&self) {
        assert_eq!(state(&self.dir), self.before);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains("/outside"), "{mounts}");
    }
}

/// All below a directory: names, owners, modes, devices and contents.
pub fn state(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut entries: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .collect();
    entries.sort();
    for path in entries {
        let about = path.symlink_metadata().unwrap();
        let content = if about.is_file() {
            fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        let (mode, owner, device) = (about.mode(), about.uid(), about.rdev());
        all.push(format!("{path:?} {mode:o} {owner} {device} {content:?}"));
        if about.is_dir() {
            all.extend(state(&path));
        }
    }
    all
}

/// Replaces what is at a path of the root by a link.
pub fn link(root: &Path, name: &str, to: impl AsRef<Path>) {
    let path = root.join(name);
    if path.symlink_metadata().is_ok_and(|about| about.is_dir()) {
        fs::remove_dir_all(&path).unwrap();
    } else {
        fs::remove_file(&path).ok();
    }
    symlink(to, path).unwrap();
}

pub fn mounts(spec: &mut Value) -> &mut Vec<Value> {
    spec["mounts"].as_array_mut().unwrap()
}

/// Without the mounts at and below `/dev`: what the image has there stays.
pub fn own_dev(spec: &mut Value) {
    mounts(spec).retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
}

/// Runs a container of a root that `prepare` has changed; either it is refused, or this is what
/// it said. Nothing of it is left.
pub fn attempt(
    rig: &Rig,
    id: &str,
    args: &[&str],
    change: impl FnOnce(&mut Value),
    prepare: impl FnOnce(&Path),
) -> Result<(String, String, i32), Failure> {
    let bundle = rig.bundle(id, args, change);
    prepare(&bundle.join("rootfs"));
    let seen = rig.create_from(id, &bundle).and_then(|made| {
        let started = rig.start(id);
        let seen = made.finish();
        rig.delete(id).unwrap();
        started.map(|()| seen)
    });
    rig.assert_clean(id);
    seen
}
/// A program of the VM that exchanges a directory of a root and a link, over and over.
pub struct Exchange(Child);

impl Exchange {
    pub fn start(at: &Path, link_to: &Path) -> Self {
        let script = "while :; do rm -rf \"$1\"; ln -s \"$2\" \"$1\"; rm -f \"$1\"; mkdir -p \"$1/sub\"; done";
        let child = Command::new("sh")
            .args(["-c", script, "sh"])
            .args([at, link_to])
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}
