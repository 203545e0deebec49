//! MappedDirectory (protocol section 7.3): the loop dials, a task mounts.
//!
//! The kernel waits for the server's answers, and a child in that wait cannot be killed. A silent
//! server may stay silent. So the service keeps the connection open too. When a mount or an unmount
//! takes too long, the service shuts the connection down, which ends every wait with an error.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, shutdown, sockopt, Shutdown};

use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::prot::settings::MappedDirectory;
use crate::storage::{clean, directory, Directory, Journal, Source};
use crate::uvm::pending::WorkKey;
use crate::uvm::Uvm;

/// How long the server may be silent while the directory is mounted or unmounted.
const SILENCE: Duration = Duration::from_secs(20);
/// Longer than that, so that the wait ends by itself.
const LIMIT: Duration = Duration::from_secs(40);
/// Bytes of the socket's buffer in each direction (protocol section 7.3).
const BUFFER: usize = 65_536;

/// The connection to the server of a directory that is mounted, or about to be.
#[derive(Debug)]
struct Share {
    connection: Rc<OwnedFd>,
    /// The time-out of its answer, while one is awaited.
    answer: Option<WorkKey>,
}

/// The servers of all mapped directories, by where those are mounted, as in
/// [`Directory::mount_path`]. A connection is kept as long as its directory is mounted.
#[derive(Debug, Default)]
pub struct Shares(BTreeMap<PathBuf, Share>);

impl Shares {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Ends the connection of a silent server, which ends every wait for it with an error.
    fn overdue(&mut self, path: &Path) {
        if let Some(share) = self.0.get_mut(path) {
            share.answer = None;
            log::error!("{path:?}: no answer from its server for {SILENCE:?}: connection ended");
            // This fails when the server has closed the connection, which has the same effect.
            shutdown(share.connection.as_raw_fd(), Shutdown::Both).ok();
        }
    }
}

/// What is called when a directory is mounted, or when that has failed.
pub type DirectoryMounted = Box<dyn FnOnce(&mut Uvm, Result<(), Failure>)>;

impl Uvm {
    pub(super) fn add_directory(&mut self, ticket: Ticket, settings: MappedDirectory) {
        let (path, port) = (settings.mount_path, settings.port.into());
        match Directory::new(&path, port, &settings.share_name, settings.read_only) {
            Ok(directory) => self.attach_directory(
                directory,
                Box::new(move |uvm, done| {
                    uvm.outbox.answer(ticket, done.map(|()| Reply::Done));
                }),
            ),
            Err(failure) => self.outbox.answer(ticket, Err(failure)),
        }
    }

    /// Dials the server and mounts the directory. A failure leaves nothing behind.
    pub(in crate::uvm) fn attach_directory(
        &mut self,
        directory: Directory,
        then: DirectoryMounted,
    ) {
        let path = directory.mount_path.to_string_lossy().into_owned();
        if let Err(failure) = self.mounts.begin_add(&path) {
            return then(self, Err(failure));
        }
        self.dial(vec![directory.port], move |uvm, dialled| {
            let connection = dialled.map(|mut connections| connections.pop());
            match connection {
                Ok(Some(connection)) => {
                    uvm.mount_directory(path, directory, connection, then);
                }
                Ok(None) => unreachable!("a dial of one port gives one connection"),
                Err(failure) => {
                    uvm.mounts.end_add(&path, None);
                    let failure = Failure::unspecified(failure.to_string())
                        .during(format_args!("mounting a directory on {path:?}"));
                    then(uvm, Err(failure));
                }
            }
        });
    }

    fn mount_directory(
        &mut self,
        path: String,
        directory: Directory,
        connection: OwnedFd,
        then: DirectoryMounted,
    ) {
        for result in [
            setsockopt(&connection, sockopt::RcvBuf, &BUFFER),
            setsockopt(&connection, sockopt::SndBuf, &BUFFER),
        ] {
            if let Err(errno) = result {
                log::warn!("{path:?}: the size of the socket buffers: {errno}");
            }
        }
        let (connection, at) = (Rc::new(connection), directory.mount_path.clone());
        let share = Share {
            connection: Rc::clone(&connection),
            answer: None,
        };
        self.shares.0.insert(at.clone(), share);
        self.expect_answer(&at);
        let theirs = Rc::clone(&connection);
        let doing = format!("mounting a directory on {path:?}");
        let job = move |journal: &Journal| directory::add(&directory, theirs.as_fd(), journal);
        let then = move |uvm: &mut Self, done: Result<(), Failure>| {
            uvm.share_answered(&at);
            if done.is_err() {
                uvm.shares.0.remove(&at);
            }
            then(uvm, done);
        };
        self.mount_at(path, doing, LIMIT, &[connection.as_fd()], job, then);
    }

    pub(in crate::uvm) fn remove_directory(&mut self, ticket: Ticket, settings: &MappedDirectory) {
        let path = &settings.mount_path;
        let at = clean(Path::new(path)).unwrap_or_default();
        self.expect_answer(&at);
        let then = move |uvm: &mut Self, removed| {
            uvm.share_answered(&at);
            if removed {
                uvm.shares.0.remove(&at);
            }
        };
        self.remove_mount(ticket, path, Source::Directory, LIMIT, then);
    }

    /// To be called before what is at these paths is unmounted. Gives each server its time to
    /// answer.
    pub(in crate::uvm) fn expect_answers(&mut self, at: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
        let paths = self.shares.0.keys().filter(|path| at(path)).cloned();
        let paths: Vec<PathBuf> = paths.collect();
        for path in &paths {
            self.expect_answer(path);
        }
        paths
    }

    /// To be called after the unmount.
    pub(in crate::uvm) fn shares_answered(&mut self, paths: &[PathBuf]) {
        for path in paths {
            self.share_answered(path);
        }
    }

    /// To be called after the unmount when no Remove will follow. Ends the connections.
    pub(in crate::uvm) fn forget_shares(&mut self, paths: &[PathBuf]) {
        self.shares_answered(paths);
        for path in paths {
            if self.shares.0.remove(path).is_some() {
                self.mounts.end_add(&path.to_string_lossy(), None);
            }
        }
    }

    /// Gives a server its time, if there is one for this path.
    fn expect_answer(&mut self, path: &Path) {
        self.share_answered(path);
        if self.shares.0.contains_key(path) {
            let (label, at) = (format!("answer of the server of {path:?}"), path.to_owned());
            let timer = self.after(SILENCE, label, move |uvm| uvm.shares.overdue(&at));
            if let Some(share) = self.shares.0.get_mut(path) {
                share.answer = Some(timer);
            }
        }
    }

    fn share_answered(&mut self, path: &Path) {
        let share = self.shares.0.get_mut(path);
        if let Some(timer) = share.and_then(|share| share.answer.take()) {
            self.cancel(timer);
        }
    }
}
