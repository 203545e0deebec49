//! What the client's numbers stand for.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::user::User;
use crate::wire::{Name, Qid, QidKind, Reply};

/// Most fids of one client. Each has a descriptor at most.
const MOST: usize = 1 << 18;

/// Nothing is followed, and nothing leads out.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// A file or directory, as a descriptor that stays on it whatever becomes of its name.
#[derive(Clone)]
pub(crate) struct Node {
    handle: Rc<OwnedFd>,
    /// In the root of a share of one file there is that name only, and it cannot be changed.
    pub(crate) only: Option<Rc<Name>>,
}

impl Node {
    pub(crate) fn new(handle: OwnedFd, only: Option<Name>) -> Self {
        let (handle, only) = (Rc::new(handle), only.map(Rc::new));
        Self { handle, only }
    }

    /// The entry of this name, without following it.
    pub(crate) fn entry(&self, name: &Name) -> Result<Self, Errno> {
        if self.only.as_deref().is_some_and(|only| only != name) {
            return Err(Errno::NOENT);
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = fs::openat2(
            &*self.handle,
            name.as_c_str(),
            flags,
            Mode::empty(),
            BENEATH,
        )?;
        Ok(Self::new(opened, None))
    }

    /// Makes a file of this name that was not there, and opens it.
    pub(crate) fn create(&self, name: &Name, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat2(self.changeable()?, name.as_c_str(), flags, mode, BENEATH)
    }

    /// Opens what this is, again.
    pub(crate) fn open(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        // A device acts when it is opened, and a pipe waits.
        match self.kind()? {
            FileType::RegularFile | FileType::Directory => {}
            _ => return Err(Errno::OPNOTSUPP),
        }
        let flags = flags | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        fs::open(self.path(), flags, Mode::empty())
    }

    /// The directory, to change its entries.
    pub(crate) fn changeable(&self) -> Result<BorrowedFd<'_>, Errno> {
        match self.only {
            Some(_) => Err(Errno::ACCESS),
            None => Ok(self.handle.as_fd()),
        }
    }

    pub(crate) fn kind(&self) -> Result<FileType, Errno> {
        Ok(FileType::from_raw_mode(self.stat()?.st_mode))
    }

    pub(crate) fn stat(&self) -> Result<fs::Stat, Errno> {
        fs::fstat(&*self.handle)
    }

    pub(crate) fn qid(&self) -> Result<Qid, Errno> {
        Ok(qid(&self.stat()?))
    }

    /// What the kernel takes for exactly this file where it wants a path. It is a symbolic link's
    /// own too.
    pub(crate) fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.handle.as_raw_fd())
    }
}

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

pub(crate) fn qid(stat: &fs::Stat) -> Qid {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => QidKind::Directory,
        FileType::Symlink => QidKind::Symlink,
        _ => QidKind::File,
    };
    let path = file_number(stat.st_dev, stat.st_ino);
    Qid { kind, path }
}

/// The number of an inode, different for each file system that is mounted in the tree.
pub(crate) fn file_number(device: u64, inode: u64) -> u64 {
    inode ^ device.rotate_right(16)
}

/// How a fid is used.
pub(crate) enum State {
    /// A place in the tree.
    Walked(Node),
    /// Open; the node is that of the open file.
    Open(Node, OFlags),
    /// The value of an extended attribute, or a list of them, to be read.
    Value(Vec<u8>),
    /// An extended attribute that is set when the fid ends.
    Attribute(NewXattr),
}

/// An extended attribute while its value comes.
pub(crate) struct NewXattr {
    pub(crate) node: Node,
    pub(crate) name: CString,
    /// The announced size in bytes; 0 removes the attribute.
    pub(crate) size: usize,
    pub(crate) flags: u32,
    pub(crate) value: Vec<u8>,
}

impl NewXattr {
    /// Takes a piece of the value, from front to back.
    fn push(&mut self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        if offset != self.value.len() as u64 || self.value.len() + data.len() > self.size {
            return Err(Errno::INVAL);
        }
        self.value.extend(data);
        Ok(())
    }
}

pub(crate) struct Fid {
    pub(crate) user: Rc<User>,
    pub(crate) state: State,
}

impl Fid {
    pub(crate) fn node(&self) -> Result<&Node, Errno> {
        match &self.state {
            State::Walked(node) | State::Open(node, _) => Ok(node),
            State::Value(_) | State::Attribute(_) => Err(Errno::BADF),
        }
    }

    /// At most `room` bytes from `offset` on.
    pub(crate) fn read(&self, offset: u64, room: usize, reply: &mut Reply) -> Result<(), Errno> {
        match &self.state {
            State::Open(node, _) => reply.fill(room, |data| rustix::io::pread(node, data, offset)),
            State::Value(value) => {
                let begin = usize::try_from(offset)
                    .unwrap_or(usize::MAX)
                    .min(value.len());
                let rest = &value[begin..];
                reply.fill(room.min(rest.len()), |data| {
                    data.copy_from_slice(&rest[..data.len()]);
                    Ok(data.len())
                })
            }
            State::Walked(_) | State::Attribute(_) => Err(Errno::BADF),
        }
    }

    /// How many bytes were written at `offset`.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        match &mut self.state {
            State::Open(node, _) => Ok(rustix::io::pwrite(&*node, data, offset)? as u32),
            State::Attribute(new) => {
                new.push(offset, data)?;
                Ok(data.len() as u32)
            }
            State::Walked(_) | State::Value(_) => Err(Errno::BADF),
        }
    }
}

/// All fids of a client.
#[derive(Default)]
pub(crate) struct Fids(HashMap<u32, Fid>);

impl Fids {
    pub(crate) fn get(&self, number: u32) -> Result<&Fid, Errno> {
        self.0.get(&number).ok_or(Errno::BADF)
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> Result<&mut Fid, Errno> {
        self.0.get_mut(&number).ok_or(Errno::BADF)
    }

    /// A number that is in use is refused, and so is one too many.
    pub(crate) fn add(&mut self, number: u32, fid: Fid) -> Result<(), Errno> {
        if self.0.len() >= MOST {
            return Err(Errno::MFILE);
        }
        if self.0.contains_key(&number) {
            return Err(Errno::BADF);
        }
        self.0.insert(number, fid);
        Ok(())
    }

    /// Puts another place of the tree at a number that is in use.
    pub(crate) fn replace(&mut self, number: u32, fid: Fid) {
        self.0.insert(number, fid);
    }

    pub(crate) fn remove(&mut self, number: u32) -> Result<Fid, Errno> {
        self.0.remove(&number).ok_or(Errno::BADF)
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}
