//! A container without a pod (5.6). The generated files are its own.

use super::document::{list, Object};
use super::mounts::{bind, mounted};
use super::{files, user, Job};
use crate::error::Failure;

pub(super) fn rewrite(top: &mut Object, job: &mut Job<'_>) -> Result<(), Failure> {
    let context = job.context;
    // Its namespace need not be known. Without adapters there are no name servers.
    let adapters = context.adapters.as_deref().unwrap_or_default();
    let contents = files::contents(top, &context.hostname, adapters)?;
    user::resolve_process(top, &job.root)?;
    let mounts = list(top, "mounts")?;
    let dir = job.directory()?;
    for (name, text) in contents {
        let destination = files::destination(name);
        if mounted(mounts, &destination) {
            continue;
        }
        let source = dir.join(name);
        job.own.file(&source, text.as_bytes(), 0o644)?;
        mounts.push(bind(&destination, &source, job.read_only));
    }
    Ok(())
}

#[cfg(test)]
#[path = "standalone_tests.rs"]
mod tests;
