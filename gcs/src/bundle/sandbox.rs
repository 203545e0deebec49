//! The first container of a pod (5.4): its directory holds what the workloads share. It sees
//! none of it itself (P-109).

use super::document::Object;
use super::{annotations, files, made, user, Job};
use crate::error::Failure;

/// Below the sandbox's directory: what stands behind `sandbox://`, `hugepages://` and
/// `sandbox-tmp://`.
pub(super) const MOUNTS: &str = "sandboxMounts";
pub(super) const HUGEPAGES: &str = "hugepages";
pub(super) const TMPFS_MOUNTS: &str = "sandboxTmpfsMounts";

pub(super) fn rewrite(top: &mut Object, job: &mut Job<'_>) -> Result<(), Failure> {
    let context = job.context;
    let adapters = context.adapters.as_ref().map_err(Clone::clone)?;
    let contents = files::contents(top, &context.hostname, adapters)?;
    user::resolve_process(top, &job.root)?;
    annotations::core_limit(top)?;

    let dir = job.directory()?;
    for (name, text) in contents {
        job.own.file(&dir.join(name), text.as_bytes(), 0o644)?;
    }
    // A mount of their own, for only a mount can be shared: what a workload mounts below them
    // is seen by the others.
    for name in [MOUNTS, HUGEPAGES] {
        let path = dir.join(name);
        job.own.directories(&path, 0o755)?;
        job.own.bind_to_itself(&path)?;
        made::share(&path)?;
    }
    let path = dir.join(TMPFS_MOUNTS);
    job.own.directories(&path, 0o755)?;
    job.own.file_system("tmpfs", &path, "mode=755")?;
    made::share(&path)
}

#[cfg(test)]
#[path = "sandbox_tests.rs"]
mod tests;
