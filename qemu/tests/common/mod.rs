//! What the tests of this crate share.
#![allow(dead_code)] // Each test binary uses a part of it.

mod built;
pub mod image;

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub use built::{built, kernel};

use uvm::private_dir::PrivateDir;
use uvm::Uvm;
use uvm_conformance::{Guest, Lab, Supplies, Watch};
use uvm_vm::choice::AccelWish;
use uvm_vm::profile::Profile;

/// For what takes long under emulation on a busy machine.
pub const LONG: Duration = Duration::from_secs(180);

/// The initrd of the VM tests, one with a shell: `UVM_INITRD` or `out/initrd-debug.img`.
pub fn initrd() -> Option<PathBuf> {
    built("UVM_INITRD", "initrd-debug.img")
}

/// A profile with the built kernel and the initrd that ships: `UVM_INITRD` or `out/initrd.img`.
pub fn shipped_profile() -> Option<Profile> {
    Some(Profile::new(
        kernel()?,
        Some(built("UVM_INITRD", "initrd.img")?),
    ))
}

/// The same with the initrd that has mkfs.xfs: `make image IMAGE_XFS=1`.
pub fn xfs_profile() -> Option<Profile> {
    Some(Profile::new(
        kernel()?,
        Some(built("UVM_XFS_INITRD", "initrd-xfs.img")?),
    ))
}

/// Where tests keep layer disks.
pub fn layer_cache() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/layers")
}

/// A profile with the built kernel and the initrd with a shell.
pub fn profile() -> Option<Profile> {
    Some(Profile::new(kernel()?, Some(initrd()?)))
}

/// Boots a VM, negotiated and in strict mode. `None`: nothing is built, and it was said.
pub fn boot() -> Option<Uvm> {
    Some(boot_profile(profile()?))
}

pub fn boot_profile(profile: Profile) -> Uvm {
    Uvm::boot(profile).unwrap_or_else(|e| panic!("the VM does not boot: {e}"))
}

/// A VM of the shipped initrd as scenarios have it: with tools, containers and pods. `None`:
/// something is not there, and it was said.
pub fn guest() -> Option<Rc<Guest>> {
    guest_with(|_| {})
}

/// The same with changes to its profile.
pub fn guest_with(change: impl FnOnce(&mut Profile)) -> Option<Rc<Guest>> {
    Some(lab_with(change)?.guest().unwrap())
}

/// What boots such VMs.
pub fn lab() -> Option<Lab> {
    lab_with(|_| {})
}

fn lab_with(change: impl FnOnce(&mut Profile)) -> Option<Lab> {
    for tool in ["mkfs.ext4", "busybox", uvm_vm::QEMU] {
        if uvm_vm::choice::program(tool).is_none() {
            eprintln!("SKIPPED: {tool} is not there");
            return None;
        }
    }
    let mut profile = shipped_profile()?;
    change(&mut profile);
    let cache = uvm_images::Cache::open(Some(&layer_cache())).unwrap();
    let image = uvm_images::default_image(&cache).unwrap();
    let supplies = Supplies {
        profile,
        accel: AccelWish::default(),
        layer: image.layers[0].path.clone(),
        dir: PrivateDir::new().unwrap(),
        log: None,
    };
    Some(Lab::new(Arc::new(supplies), Watch::default()))
}

/// No container is left of, and nothing of those that were.
pub fn leaves_nothing(vm: &Guest) {
    let left = "ls /run/gcs/c /run/gcs/runtime; grep -c ' /run/gcs/' /proc/mounts; \
                find /sys/fs/cgroup/containers -mindepth 1 -type d; true";
    let left = vm.sh(left).unwrap();
    let words: Vec<&str> = left
        .lines()
        .filter(|line| !line.is_empty() && !line.ends_with(':'))
        .collect();
    assert_eq!(
        words,
        ["0"],
        "directories, mounts or control groups are left"
    );
}

/// `uvm run` with the files built by make, or nothing and a word.
pub fn run(options: &[&str], script: &str) -> Option<std::process::Output> {
    let profile = shipped_profile()?;
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_uvm"));
    command.arg("run").arg("--kernel").arg(&profile.kernel);
    command.arg("--initrd").args(profile.initrd());
    command.args(options).args(["--", "sh", "-c", script]);
    command.env("UVM_LAYER_CACHE", layer_cache());
    Some(command.output().unwrap())
}

/// Whether a program is installed; it is said when not.
pub fn has(program: &str) -> bool {
    let there = uvm_vm::choice::program(program).is_some();
    if !there {
        eprintln!("SKIPPED: {program} is not installed");
    }
    there
}
