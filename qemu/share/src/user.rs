//! Whose rights a request has. Rights belong to a thread, and the server has one of its own.

use nix::unistd::{self, Gid, Uid};
use rustix::io::Errno;

/// Who asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum User {
    /// The one that the server runs as.
    Own,
    /// A user that the server becomes: with their own group, and all their groups.
    Other {
        uid: Uid,
        gid: Gid,
        groups: Vec<Gid>,
    },
}

/// The number of a user, and of a group, that nobody knows.
const NOBODY: u32 = 65534;

impl User {
    /// The user of this number. Only root can become another user.
    pub(crate) fn of(number: u32) -> Self {
        if !unistd::geteuid().is_root() || number == 0 {
            return Self::Own;
        }
        let uid = Uid::from_raw(if number == u32::MAX { NOBODY } else { number });
        let known = unistd::User::from_uid(uid).ok().flatten();
        let (gid, groups) = known.map_or((Gid::from_raw(NOBODY), Vec::new()), |user| {
            let name = std::ffi::CString::new(user.name).unwrap_or_default();
            let groups = unistd::getgrouplist(&name, user.gid).unwrap_or_default();
            (user.gid, groups)
        });
        Self::Other { uid, gid, groups }
    }
}

/// The thread's rights as they are now.
pub(crate) struct Rights {
    now: User,
    /// Whether the thread can have others.
    root: bool,
}

impl Rights {
    /// Of this thread, which belongs to the server from now on. What it makes gets exactly the mode
    /// that it asks for.
    pub(crate) fn of_thread() -> Result<Self, Errno> {
        // The mask of new files is the thread's own then, and not that of the process.
        let alone = nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS);
        alone.map_err(|e| Errno::from_raw_os_error(e as i32))?;
        nix::sys::stat::umask(nix::sys::stat::Mode::empty());
        let root = unistd::geteuid().is_root();
        Ok(Self {
            now: User::Own,
            root,
        })
    }

    /// Gives the thread the rights of this user, and of new files the group `group`, or the user's.
    pub(crate) fn take(&mut self, user: &User, group: Option<u32>) -> Result<(), Errno> {
        if !self.root {
            return Ok(());
        }
        let (uid, gid, groups) = match user {
            User::Own => (Uid::from_raw(0), Gid::from_raw(0), [].as_slice()),
            User::Other { uid, gid, groups } => (*uid, *gid, groups.as_slice()),
        };
        if self.now != *user {
            let raw = |gid: &Gid| rustix::thread::Gid::from_raw(gid.as_raw());
            let groups: Vec<_> = groups.iter().map(raw).collect();
            rustix::thread::set_thread_groups(&groups)?;
            unistd::setfsuid(uid);
            self.now = user.clone();
        }
        unistd::setfsgid(group.map_or(gid, Gid::from_raw));
        Ok(())
    }
}
