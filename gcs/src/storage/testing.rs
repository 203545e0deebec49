//! Real mounts for unit tests, in a mount namespace that ends with the test's own child.

use nix::mount::{mount, MsFlags};
use nix::sched::{unshare, CloneFlags};

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
