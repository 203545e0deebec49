//! What mounts of all kinds share: the path is taken while a request is at work on it, and the
//! record of what was mounted there is kept for the Remove.

use std::time::Duration;

use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::host::Host;
use crate::storage::{self, Record, Roots, Source};

impl Host {
    /// Runs the Add in a task. The path is taken before anything is looked for: of two requests
    /// one is refused.
    pub(super) fn add_mount(
        &mut self,
        ticket: Ticket,
        path: &str,
        doing: String,
        limit: Duration,
        job: impl FnOnce() -> Result<Record, Failure>,
    ) {
        if let Err(failure) = self.mounts.begin_add(path) {
            return self.outbox.answer(ticket, Err(failure));
        }
        let path = path.to_owned();
        self.run(doing, limit, job, move |host, added| {
            host.end_add(ticket, &path, added);
        });
    }

    pub(super) fn end_add(&mut self, ticket: Ticket, path: &str, added: Result<Record, Failure>) {
        let (record, result) = match added {
            Ok(record) => (Some(record), Ok(Reply::Done)),
            Err(failure) => (None, Err(failure)),
        };
        self.mounts.end_add(path, record);
        self.outbox.answer(ticket, result);
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
        let record = match self.mounts.begin_remove(path, named) {
            Ok(record) => record,
            Err(failure) => {
                then(self, false);
                return self.outbox.answer(ticket, Err(failure));
            }
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
            move |host, removed: Result<(), Failure>| {
                host.mounts.end_remove(&path, removed.is_ok());
                then(host, removed.is_ok());
                let result = removed.map(|()| Reply::Done);
                let result = result.map_err(|failure| failure.during(doing));
                host.outbox.answer(ticket, result);
            },
        );
    }

    /// Whether read-only layers are checked against the hash trees that they carry: where a
    /// security policy was set (protocol 7.1, step 3).
    pub(super) fn layers_are_verified(&self) -> bool {
        !self.policy.encoded().is_empty()
    }
}
