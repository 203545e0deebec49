//! The first container of a pod (5.4). Its directory holds what the workloads share; the sandbox
//! itself does not see it (P-109).

use super::document::Object;
use super::{annotations, files, made, user, Job};
use crate::error::Failure;

/// Directories below the sandbox's, to which `sandbox://`, `hugepages://` and `sandbox-tmp://`
/// lead.
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
    // Each becomes a mount, because only a mount can be shared. The others then see what a workload
    // mounts below it.
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
