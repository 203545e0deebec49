//! Files that `make` has built, for the tests of every crate of this side.

use std::path::{Path, PathBuf};

/// A file named by a variable or built by `make`; `None` and a loud word when it is not there.
pub fn built(variable: &str, name: &str) -> Option<PathBuf> {
    let mut folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let root = folders.find(|folder| folder.join("Cargo.lock").exists());
    let root = root.expect("the workspace is around its packages");
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
