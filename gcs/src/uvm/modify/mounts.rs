//! What mounts of all kinds share. A path is taken while a request works on it, and the record of
//! what was mounted there is kept for the Remove.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::storage::{self, clean, Journal, MountRecord, Roots, Source};
use crate::uvm::Uvm;

/// Mounts of the host in directories of a container.
pub struct Inside {
    directories: Vec<PathBuf>,
    shares: Vec<PathBuf>,
    /// Mapped devices below those mounts.
    pub mappings: Vec<String>,
}

impl Uvm {
    pub(super) fn add_mount(
        &mut self,
        ticket: Ticket,
        path: &str,
        doing: String,
        limit: Duration,
        job: impl FnOnce(&Journal) -> Result<MountRecord, Failure>,
    ) {
        self.mount(path, doing, limit, job, move |uvm, done| {
            uvm.outbox.answer(ticket, done.map(|()| Reply::Done));
        });
    }

    /// Runs the Add in a task. The path is taken before anything is looked for, so that one of two
    /// requests is refused.
    pub(in crate::uvm) fn mount(
        &mut self,
        path: &str,
        doing: String,
        limit: Duration,
        job: impl FnOnce(&Journal) -> Result<MountRecord, Failure>,
        then: impl FnOnce(&mut Self, Result<(), Failure>) + 'static,
    ) {
        match self.mounts.begin_add(path) {
            Ok(()) => self.mount_at(path.to_owned(), doing, limit, &[], job, then),
            Err(failure) => then(self, Err(failure)),
        }
    }

    /// The same for a path that is taken already. The path is free again when a failed Add is
    /// undone.
    pub(super) fn mount_at(
        &mut self,
        path: String,
        doing: String,
        limit: Duration,
        keep: &[BorrowedFd<'_>],
        job: impl FnOnce(&Journal) -> Result<MountRecord, Failure>,
        then: impl FnOnce(&mut Self, Result<(), Failure>) + 'static,
    ) {
        let mounted_at = path.clone();
        let then = move |uvm: &mut Self, added: Result<MountRecord, Failure>| {
            let done = added.map(|record| uvm.mounts.end_add(&mounted_at, Some(record)));
            then(uvm, done);
        };
        let failed = move |uvm: &mut Self| uvm.mounts.end_add(&path, None);
        self.run_undoable(doing, limit, keep, job, then, failed);
    }

    /// Unmounts what is at the path, by the record of the Add and not by the settings of the
    /// Remove. `then` is called before the answer, with whether the unmount has succeeded.
    pub(super) fn remove_mount(
        &mut self,
        ticket: Ticket,
        path: &str,
        named: Source,
        limit: Duration,
        then: impl FnOnce(&mut Self, bool) + 'static,
    ) {
        self.unmount(path, named, limit, move |uvm, removed| {
            then(uvm, removed.is_ok());
            uvm.outbox.answer(ticket, removed.map(|()| Reply::Done));
        });
    }

    pub(in crate::uvm) fn unmount(
        &mut self,
        path: &str,
        named: Source,
        limit: Duration,
        then: impl FnOnce(&mut Self, Result<(), Failure>) + 'static,
    ) {
        let record = match self.mounts.begin_remove(path, named) {
            Ok(record) => record,
            Err(failure) => return then(self, Err(failure)),
        };
        let doing = match &record {
            Some(record) => format!("removing {} at {path:?}", record.source),
            None => format!("removing what is at {path:?}"),
        };
        let mappings = record.map_or_else(Vec::new, |record| record.mappings);
        let at = path.to_owned();
        let path = path.to_owned();
        // A v0.12.3 host unplugs the scratch first and deletes the container then.
        let bundles = clean(Path::new(&path))
            .map(|path| self.containers.ended_bundles_on(&path))
            .unwrap_or_default();
        let job = move || {
            for bundle in &bundles {
                if let Err(failure) = storage::tree::unmount_below(bundle) {
                    log::warn!("{failure}");
                }
            }
            storage::remove(&Roots::default(), &at, &mappings)
        };
        self.run(
            doing.clone(),
            limit,
            job,
            move |uvm, removed: Result<(), Failure>| {
                uvm.mounts.end_remove(&path, removed.is_ok());
                then(uvm, removed.map_err(|failure| failure.during(doing)));
            },
        );
    }

    /// To be called before a container's directories are removed. Mounts of the host inside them
    /// are taken away too, and the servers of shares get the time that an unmount takes.
    pub(in crate::uvm) fn begin_removal(&mut self, directories: &[&Path]) -> Inside {
        let directories = directories.iter().filter(|d| !d.as_os_str().is_empty());
        let directories: Vec<PathBuf> = directories.filter_map(|d| clean(d).ok()).collect();
        let inside = |path: &Path| directories.iter().any(|d| path.starts_with(d));
        Inside {
            shares: self.expect_answers(inside),
            mappings: self.mounts.mappings(inside),
            directories,
        }
    }

    /// To be called after it. What was removed is forgotten, and its paths are free.
    pub(in crate::uvm) fn end_removal(&mut self, inside: &Inside, removed: bool) {
        if !removed {
            return self.shares_answered(&inside.shares);
        }
        self.forget_shares(&inside.shares);
        let directories = &inside.directories;
        self.mounts
            .forget(|path| directories.iter().any(|d| path.starts_with(d)));
    }

    /// Whether read-only layers are checked against their hash trees, which is so when a security
    /// policy was set (protocol 7.1).
    pub(super) fn layers_are_verified(&self) -> bool {
        !self.policy.sent().policy.is_empty()
    }
}
