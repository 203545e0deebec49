//! What the tests of this crate share.
#![allow(dead_code)] // Each test binary uses a part of it.

pub mod fake_guest;

use std::path::PathBuf;

/// A file named by a variable or built by `make`; `None` and a loud word when it is not there.
fn built(variable: &str, name: &str) -> Option<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let path =
        std::env::var_os(variable).map_or_else(|| root.join("out").join(name), PathBuf::from);
    if path.exists() {
        return Some(path);
    }
    eprintln!(
        "SKIPPED: {} is not there (build it, or set {variable})",
        path.display()
    );
    None
}

/// The kernel of the VM tests: `UVM_KERNEL` or `out/vmlinux`.
pub fn kernel() -> Option<PathBuf> {
    built("UVM_KERNEL", "vmlinux")
}

/// The initrd of the VM tests: `UVM_INITRD` or `out/initrd.img`.
pub fn initrd() -> Option<PathBuf> {
    built("UVM_INITRD", "initrd.img")
}
