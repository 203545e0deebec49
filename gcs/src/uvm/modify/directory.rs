//! MappedDirectory (protocol section 7.3): the loop dials, a task mounts.
//!
//! The kernel asks the server and waits for its answers, a child in that wait cannot be killed,
//! and a server that is silent may stay so. So the connection stays open here as well: when a
//! mount or an unmount takes too long it is shut down, which ends every wait with an error.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, shutdown, sockopt, Shutdown};

use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::log::Scope;
use crate::prot::settings::MappedDirectory;
use crate::reactor::TimerKey;
use crate::storage::{clean, directory, Directory, Journal, Source};
use crate::uvm::{Deadline, Key, Uvm};

/// How long the server may be silent while the directory is mounted or unmounted.
const SILENCE: Duration = Duration::from_secs(20);
/// Over that; the wait ends by itself then.
const LIMIT: Duration = Duration::from_secs(40);
/// Of the socket, each way (protocol section 7.3).
const BUFFER: usize = 65_536;

/// The connection to the server of a directory that is mounted, or about to be.
pub struct Share {
    mount_path: PathBuf,
    connection: Rc<OwnedFd>,
    timer: Option<TimerKey>,
    /// The request that it is mounted for.
    scope: Scope,
}

/// What follows when a directory is mounted or has turned out not to be.
pub type Attached = Box<dyn FnOnce(&mut Uvm, Result<(), Failure>)>;

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

    /// Dials its server and mounts it, or leaves nothing behind.
    pub(in crate::uvm) fn attach_directory(&mut self, directory: Directory, then: Attached) {
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
        then: Attached,
    ) {
        for result in [
            setsockopt(&connection, sockopt::RcvBuf, &BUFFER),
            setsockopt(&connection, sockopt::SndBuf, &BUFFER),
        ] {
            if let Err(errno) = result {
                log::warn!("{path:?}: the size of the socket buffers: {errno}");
            }
        }
        let connection = Rc::new(connection);
        let key = self.key();
        let timer = self
            .timers
            .add(Instant::now() + SILENCE, Deadline::Share(key));
        let share = Share {
            mount_path: directory.mount_path.clone(),
            connection: Rc::clone(&connection),
            timer: Some(timer),
            scope: Scope::current(),
        };
        self.shares.insert(key, share);
        let theirs = Rc::clone(&connection);
        let doing = format!("mounting a directory on {path:?}");
        let job = move |journal: &Journal| directory::add(&directory, theirs.as_fd(), journal);
        let then = move |uvm: &mut Self, done: Result<(), Failure>| {
            uvm.share_answered(key);
            if done.is_err() {
                uvm.shares.remove(&key);
            }
            then(uvm, done);
        };
        self.mount_at(path, doing, LIMIT, &[connection.as_fd()], job, then);
    }

    pub(in crate::uvm) fn remove_directory(&mut self, ticket: Ticket, settings: &MappedDirectory) {
        let path = &settings.mount_path;
        let cleaned = clean(Path::new(path)).ok();
        let mut shares = self.shares.iter();
        let key = shares.find(|(_, share)| Some(&share.mount_path) == cleaned.as_ref());
        let Some(key) = key.map(|(key, _)| *key) else {
            return self.remove_mount(ticket, path, Source::Directory, LIMIT, |_, _| {});
        };
        self.expect_answer(key);
        self.remove_mount(
            ticket,
            path,
            Source::Directory,
            LIMIT,
            move |uvm, removed| {
                uvm.share_answered(key);
                if removed {
                    uvm.shares.remove(&key);
                }
            },
        );
    }

    /// Before what is at these paths is unmounted: gives each server its time.
    pub(in crate::uvm) fn expect_answers(&mut self, at: impl Fn(&Path) -> bool) -> Vec<Key> {
        let shares = self.shares.iter();
        let there = shares.filter(|(_, share)| at(&share.mount_path));
        let keys: Vec<Key> = there.map(|(key, _)| *key).collect();
        for key in &keys {
            self.expect_answer(*key);
        }
        keys
    }

    /// After it.
    pub(in crate::uvm) fn shares_answered(&mut self, keys: &[Key]) {
        for key in keys {
            self.share_answered(*key);
        }
    }

    /// After it, when there is no later Remove for them: their connections end.
    pub(in crate::uvm) fn forget_shares(&mut self, keys: &[Key]) {
        self.shares_answered(keys);
        for share in keys.iter().filter_map(|key| self.shares.remove(key)) {
            let path = share.mount_path.to_string_lossy();
            self.mounts.end_add(&path, None);
        }
    }

    fn expect_answer(&mut self, key: Key) {
        let timer = self
            .timers
            .add(Instant::now() + SILENCE, Deadline::Share(key));
        if let Some(share) = self.shares.get_mut(&key) {
            if let Some(earlier) = share.timer.replace(timer) {
                self.timers.cancel(earlier);
            }
        }
    }

    fn share_answered(&mut self, key: Key) {
        let timer = self
            .shares
            .get_mut(&key)
            .and_then(|share| share.timer.take());
        if let Some(timer) = timer {
            self.timers.cancel(timer);
        }
    }

    pub(in crate::uvm) fn share_overdue(&mut self, key: Key) {
        if let Some(share) = self.shares.get_mut(&key) {
            share.timer = None;
            let _about = share.scope.enter();
            let path = &share.mount_path;
            log::error!("{path:?}: no answer from its server for {SILENCE:?}: connection ended");
            // Fails when the server has ended it, which does as well.
            shutdown(share.connection.as_raw_fd(), Shutdown::Both).ok();
        }
    }
}
