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

use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::host::{Deadline, Host, Key};
use crate::prot::settings::MappedDirectory;
use crate::reactor::TimerKey;
use crate::storage::{clean, directory, Directory, Record, Source};

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
}

impl Host {
    pub(super) fn add_directory(&mut self, ticket: Ticket, settings: MappedDirectory) {
        let path = settings.mount_path;
        let (port, share) = (settings.port, settings.share_name);
        let begun = Directory::new(&path, port, &share, settings.read_only)
            .and_then(|directory| self.mounts.begin_add(&path).map(|()| directory));
        let directory = match begun {
            Ok(directory) => directory,
            Err(failure) => return self.outbox.answer(ticket, Err(failure)),
        };
        self.dial(vec![directory.port], move |host, dialled| {
            let connection = dialled.map(|mut connections| connections.pop());
            match connection {
                Ok(Some(connection)) => {
                    host.mount_directory(ticket, path, directory, connection);
                }
                Ok(None) => unreachable!("a dial of one port gives one connection"),
                Err(failure) => {
                    let failure = Failure::unspecified(failure.to_string())
                        .during(format_args!("mounting a directory on {path:?}"));
                    host.end_add(ticket, &path, Err(failure));
                }
            }
        });
    }

    fn mount_directory(
        &mut self,
        ticket: Ticket,
        path: String,
        directory: Directory,
        connection: OwnedFd,
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
            // Checked by `Directory::new`.
            mount_path: clean(Path::new(&path)).unwrap_or_default(),
            connection: Rc::clone(&connection),
            timer: Some(timer),
        };
        self.shares.insert(key, share);
        let theirs = Rc::clone(&connection);
        self.run_with(
            format!("mounting a directory on {path:?}"),
            LIMIT,
            &[connection.as_fd()],
            move || directory::add(&directory, theirs.as_fd()),
            move |host, added: Result<Record, Failure>| {
                host.share_answered(key);
                if added.is_err() {
                    host.shares.remove(&key);
                }
                host.end_add(ticket, &path, added);
            },
        );
    }

    pub(super) fn remove_directory(&mut self, ticket: Ticket, settings: &MappedDirectory) {
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
            move |host, removed| {
                host.share_answered(key);
                if removed {
                    host.shares.remove(&key);
                }
            },
        );
    }

    /// Before something below the directory is unmounted: gives each server its time.
    pub(in crate::host) fn expect_answers_below(&mut self, directory: &Path) -> Vec<Key> {
        let shares = self.shares.iter();
        let below = shares.filter(|(_, share)| share.mount_path.starts_with(directory));
        let keys: Vec<Key> = below.map(|(key, _)| *key).collect();
        for key in &keys {
            self.expect_answer(*key);
        }
        keys
    }

    /// After it.
    pub(in crate::host) fn shares_answered(&mut self, keys: &[Key]) {
        for key in keys {
            self.share_answered(*key);
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

    pub(in crate::host) fn share_overdue(&mut self, key: Key) {
        if let Some(share) = self.shares.get_mut(&key) {
            share.timer = None;
            let path = &share.mount_path;
            log::error!("{path:?}: no answer from its server for {SILENCE:?}: connection ended");
            // Fails when the server has ended it, which does as well.
            shutdown(share.connection.as_raw_fd(), Shutdown::Both).ok();
        }
    }
}
