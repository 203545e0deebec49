//! A further container of a pod (5.5). It uses what its sandbox has, and may get devices of the
//! utility VM.

use std::path::Path;

use super::document::{list, text, Object};
use super::{annotations, assigned, devices, files, mounts, user, Job};
use crate::error::Failure;

/// `pod` is the directory of its sandbox.
pub(super) fn rewrite(top: &mut Object, pod: &Path, job: &mut Job<'_>) -> Result<(), Failure> {
    if !text(top, "hostname")?.is_empty() {
        return Err(Failure::unspecified(
            "hostname is set: a workload has that of its sandbox",
        ));
    }
    annotations::shared_memory(top)?;
    annotations::core_limit(top)?;
    user::resolve_process(top, &job.root)?;
    let privileged = annotations::flag(top, annotations::PRIVILEGED, false)?;
    if privileged {
        devices::all(top, &job.context.roots.dev)?;
    } else {
        devices::listed(top)?;
    }
    assigned::add(top, job)?;
    if !privileged && !job.context.security.policy.is_empty() {
        devices::secure_processor(top, &job.context.roots.dev);
    }
    mounts::block_devices(top)?;
    let mounts = list(top, "mounts")?;
    // This comes last, because it makes things that other containers see.
    mounts::resolve_sources(mounts, pod, &mut job.shared)?;
    for name in files::NAMES {
        let destination = files::destination(name);
        if !mounts::mounted(mounts, &destination) {
            mounts.push(mounts::bind(&destination, &pod.join(name), job.read_only));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "workload_tests.rs"]
mod tests;
