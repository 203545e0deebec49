//! What mounts of all kinds share: the path is taken while a request is at work on it, and the
//! record of what was mounted there is kept for the Remove.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::storage::{self, clean, Journal, Record, Roots, Source};
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
        job: impl FnOnce(&Journal) -> Result<Record, Failure>,
    ) {
        self.mount(path, doing, limit, job, move |uvm, done| {
            uvm.outbox.answer(ticket, done.map(|()| Reply::Done));
        });
    }

    /// Runs the Add in a task. The path is taken before anything is looked for: of two requests
    /// one is refused.
    pub(in crate::uvm) fn mount(
        &mut self,
        path: &str,
        doing: String,
        limit: Duration,
        job: impl FnOnce(&Journal) -> Result<Record, Failure>,
        then: impl FnOnce(&mut Self, Result<(), Failure>) + 'static,
    ) {
        match self.mounts.begin_add(path) {
            Ok(()) => self.mount_at(path.to_owned(), doing, limit, &[], job, then),
            Err(failure) => then(self, Err(failure)),
        }
    }

    /// The same at a path that was taken; it is free again when an Add that failed is undone.
    pub(super) fn mount_at(
        &mut self,
        path: String,
        doing: String,
        limit: Duration,
        keep: &[BorrowedFd<'_>],
        job: impl FnOnce(&Journal) -> Result<Record, Failure>,
        then: impl FnOnce(&mut Self, Result<(), Failure>) + 'static,
    ) {
        let mounted_at = path.clone();
        let then = move |uvm: &mut Self, added: Result<Record, Failure>| {
            let done = added.map(|record| uvm.mounts.end_add(&mounted_at, Some(record)));
            then(uvm, done);
        };
        let failed = move |uvm: &mut Self| uvm.mounts.end_add(&path, None);
        self.run_undoable(doing, limit, keep, job, then, failed);
    }

    /// Unmounts what is at the path, by its record and not by what the host says of it. `then`
    /// comes before the answer and is told whether it has worked.
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
        let job = move || storage::remove(&Roots::default(), &at, &mappings);
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

    /// Before a container's directories are removed: what the host has mounted inside goes with
    /// them. Their servers get the time that an unmount takes.
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

    /// After it: what has gone is forgotten, and its paths are free.
    pub(in crate::uvm) fn end_removal(&mut self, inside: &Inside, removed: bool) {
        if !removed {
            return self.shares_answered(&inside.shares);
        }
        self.forget_shares(&inside.shares);
        let directories = &inside.directories;
        self.mounts
            .forget(|path| directories.iter().any(|d| path.starts_with(d)));
    }

    /// Whether read-only layers are checked against the hash trees that they carry: where a
    /// security policy was set (protocol 7.1, step 3).
    pub(super) fn layers_are_verified(&self) -> bool {
        !self.policy.encoded().is_empty()
    }
}
