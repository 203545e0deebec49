//! Carries out the requests of one connection.

use std::rc::Rc;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::fid::{Fid, Fids, Node, State};
use crate::locks::{LockKind, Range};
use crate::request::{Request, NONE};
use crate::user::{Rights, User};
use crate::wire::{Fields, Name, Reply, HEAD};
use crate::{attributes, directory, locks, xattrs};

/// The largest message in bytes that is agreed on.
const LARGEST: u32 = 1 << 20;
/// The largest before anything is agreed on.
const FIRST: u32 = 8192;
/// Kind, tag and count of an answer to a read.
const READ_HEAD: usize = HEAD + 4;
/// The kind of an answer that is an error (`Rlerror`).
const ERROR: u8 = 7;

/// What the client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    ReadOnly,
    ReadWrite,
}

pub(crate) struct Server {
    rights: Rights,
    root: Node,
    access: Access,
    /// The largest message in bytes.
    largest: u32,
    fids: Fids,
}

impl Server {
    /// One for the calling thread.
    pub(crate) fn new(root: Node, access: Access) -> Result<Self, Errno> {
        Ok(Self {
            rights: Rights::of_thread()?,
            root,
            access,
            largest: FIRST,
            fids: Fids::default(),
        })
    }

    /// The largest message that the client may send, in bytes.
    pub(crate) fn largest(&self) -> u32 {
        self.largest
    }

    /// The answer to a frame without its size, in the memory of an earlier one.
    pub(crate) fn answer(&mut self, frame: &[u8], memory: Vec<u8>) -> Vec<u8> {
        let mut reply = Reply::new(memory);
        let (kind, tag) = (frame[0], u16::from_le_bytes([frame[1], frame[2]]));
        let request = Request::parse(kind, &mut Fields(&frame[3..]));
        let done = request.and_then(|request| self.carry_out(request, &mut reply));
        match done {
            Ok(()) => reply.finish(kind + 1, tag),
            Err(errno) => {
                reply.clear();
                reply.u32(errno.raw_os_error() as u32);
                reply.finish(ERROR, tag)
            }
        }
    }

    fn carry_out(&mut self, request: Request<'_>, reply: &mut Reply) -> Result<(), Errno> {
        if self.access == Access::ReadOnly && request.writes() {
            return Err(Errno::ROFS);
        }
        match request {
            Request::Version { size, version } => self.version(size, version, reply),
            Request::Attach { fid, user } => self.attach(fid, user, reply),
            // All requests before it have been answered.
            Request::Flush => Ok(()),
            Request::Clunk { fid } => self.clunk(fid),
            Request::Remove { fid } => {
                self.clunk(fid)?;
                Err(Errno::OPNOTSUPP)
            }
            Request::Walk { fid, to, names } => self.walk(fid, to, &names, reply),
            Request::Open { fid, flags } => self.open(fid, flags, reply),
            Request::Create {
                fid,
                name,
                flags,
                mode,
                group,
            } => {
                self.take(fid, Some(group))?;
                self.create(fid, &name, flags, mode, reply)
            }
            Request::Read { fid, offset, count } => {
                self.take(fid, None)?;
                let room = self.room(count);
                reply.counted(|reply| self.fids.get(fid)?.read(offset, room, reply))
            }
            Request::Write { fid, offset, data } => {
                self.take(fid, None)?;
                reply.u32(self.fids.get_mut(fid)?.write(offset, data)?);
                Ok(())
            }
            Request::XattrWalk { fid, to, name } => {
                self.take(fid, None)?;
                let fid = self.fids.get(fid)?;
                let value = xattrs::read(fid.node()?, &name)?;
                reply.u64(value.len() as u64);
                let user = fid.user.clone();
                self.fids.add(
                    to,
                    Fid {
                        user,
                        state: State::Value(value),
                    },
                )
            }
            Request::XattrCreate {
                fid,
                name,
                size,
                flags,
            } => {
                self.take(fid, None)?;
                let fid = self.fids.get_mut(fid)?;
                let new = xattrs::begin(fid.node()?.clone(), name, size, flags)?;
                fid.state = State::Attribute(new);
                Ok(())
            }
            other => self.on_node(other, reply),
        }
    }

    /// Requests that leave the fids as they are.
    fn on_node(&mut self, request: Request<'_>, reply: &mut Reply) -> Result<(), Errno> {
        let (fid, group) = request.subject().ok_or(Errno::OPNOTSUPP)?;
        self.take(fid, group)?;
        let fid = self.fids.get(fid)?;
        let node = fid.node()?;
        match request {
            Request::Statfs { .. } => attributes::tell_file_system(node, reply),
            Request::Attributes { .. } => attributes::tell(node, reply),
            Request::SetAttributes { change, .. } => {
                node.changeable()?;
                attributes::change(fid, change)
            }
            Request::Readlink { .. } => {
                let target = fs::readlinkat(node, c"", Vec::new())?;
                reply.text(target.to_bytes());
                Ok(())
            }
            Request::Readdir { offset, count, .. } => {
                let room = self.room(count);
                reply.counted(|reply| directory::read(node, offset, room, reply))
            }
            Request::Fsync {
                data_only: true, ..
            } => fs::fdatasync(node),
            Request::Fsync { .. } => fs::fsync(node),
            Request::Lock { lock, .. } => {
                reply.u8(locks::lock(node, lock)? as u8);
                Ok(())
            }
            Request::GetLock { lock, client, .. } => {
                let found = locks::conflict(node, lock)?;
                let told = found.unwrap_or(Range {
                    kind: LockKind::Unlock,
                    ..lock
                });
                reply.u8(told.kind as u8);
                reply.u64(told.start);
                reply.u64(told.length);
                reply.u32(told.process);
                reply.text(client);
                Ok(())
            }
            other => self.on_entries(node, other, reply),
        }
    }

    /// Requests that change the entries of a directory.
    fn on_entries(
        &self,
        node: &Node,
        request: Request<'_>,
        reply: &mut Reply,
    ) -> Result<(), Errno> {
        match request {
            Request::Symlink { name, target, .. } => {
                fs::symlinkat(target.as_c_str(), node.changeable()?, name.as_c_str())?;
                made(node, &name, reply)
            }
            Request::Node {
                name,
                mode,
                major,
                minor,
                ..
            } => {
                let device = fs::makedev(major, minor);
                let (kind, mode) = (FileType::from_raw_mode(mode), Mode::from_raw_mode(mode));
                fs::mknodat(node.changeable()?, name.as_c_str(), kind, mode, device)?;
                made(node, &name, reply)
            }
            Request::Mkdir { name, mode, .. } => {
                let mode = Mode::from_raw_mode(mode);
                fs::mkdirat(node.changeable()?, name.as_c_str(), mode)?;
                made(node, &name, reply)
            }
            Request::Link { fid, name, .. } => {
                let (file, flags) = (self.fids.get(fid)?.node()?, AtFlags::SYMLINK_FOLLOW);
                let directory = node.changeable()?;
                fs::linkat(fs::CWD, file.path(), directory, name.as_c_str(), flags)
            }
            Request::Rename {
                from: (_, from),
                to: (directory, to),
            } => {
                let directory = self.fids.get(directory)?.node()?.changeable()?;
                fs::renameat(
                    node.changeable()?,
                    from.as_c_str(),
                    directory,
                    to.as_c_str(),
                )
            }
            Request::Unlink { name, flags, .. } => {
                let directory = AtFlags::from_bits_retain(flags) & AtFlags::REMOVEDIR;
                fs::unlinkat(node.changeable()?, name.as_c_str(), directory)
            }
            _ => Err(Errno::OPNOTSUPP),
        }
    }

    fn version(&mut self, size: u32, version: &[u8], reply: &mut Reply) -> Result<(), Errno> {
        // A message must hold the head of a read, and something.
        if size < 4096 {
            return Err(Errno::INVAL);
        }
        self.fids.clear();
        self.largest = size.min(LARGEST);
        reply.u32(self.largest);
        let known = version == b"9P2000.L";
        reply.text(if known { b"9P2000.L" } else { b"unknown" });
        Ok(())
    }

    fn attach(&mut self, fid: u32, user: u32, reply: &mut Reply) -> Result<(), Errno> {
        reply.qid(self.root.qid()?);
        let (user, state) = (Rc::new(User::of(user)), State::Walked(self.root.clone()));
        self.fids.add(fid, Fid { user, state })
    }

    /// Gives the thread the rights of the fid's user, and new files the group.
    fn take(&mut self, fid: u32, group: Option<u32>) -> Result<(), Errno> {
        let user = self.fids.get(fid)?.user.clone();
        self.rights
            .take(&user, group.filter(|group| *group != NONE))
    }

    /// How many of `count` bytes an answer holds.
    fn room(&self, count: u32) -> usize {
        (count as usize).min(self.largest as usize - READ_HEAD)
    }

    /// Follows the names one by one. When not the first of them fails, what was found is told, and
    /// nothing else happens.
    fn walk(
        &mut self,
        from: u32,
        to: u32,
        names: &[&[u8]],
        reply: &mut Reply,
    ) -> Result<(), Errno> {
        self.take(from, None)?;
        let fid = self.fids.get(from)?;
        let (mut node, user) = (fid.node()?.clone(), fid.user.clone());
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            let next = Name::new(name).and_then(|name| node.entry(&name));
            match next.and_then(|next| Ok((next.qid()?, next))) {
                Ok((qid, next)) => {
                    found.push(qid);
                    node = next;
                }
                Err(errno) if found.is_empty() => return Err(errno),
                Err(_) => break,
            }
        }
        reply.u16(found.len() as u16);
        found.iter().for_each(|qid| reply.qid(*qid));
        if found.len() < names.len() {
            return Ok(());
        }
        let state = State::Walked(node);
        if from == to {
            self.fids.replace(to, Fid { user, state });
            return Ok(());
        }
        self.fids.add(to, Fid { user, state })
    }

    fn open(&mut self, number: u32, flags: u32, reply: &mut Reply) -> Result<(), Errno> {
        self.take(number, None)?;
        let fid = self.fids.get_mut(number)?;
        let State::Walked(node) = &fid.state else {
            return Err(Errno::BADF);
        };
        let flags = open_flags(flags);
        let opened = node.open(flags)?;
        let only = node.only.as_deref().cloned();
        opened_fid(fid, Node::new(opened, only), flags, reply)
    }

    /// The fid of the directory becomes that of the new file.
    fn create(
        &mut self,
        number: u32,
        name: &Name,
        flags: u32,
        mode: u32,
        reply: &mut Reply,
    ) -> Result<(), Errno> {
        let exclusive = flags & OFlags::EXCL.bits() != 0;
        let fid = self.fids.get_mut(number)?;
        let State::Walked(directory) = &fid.state else {
            return Err(Errno::BADF);
        };
        let flags = open_flags(flags);
        let opened = match directory.create(name, flags, Mode::from_raw_mode(mode & 0o7777)) {
            // Somebody was faster. What is there is opened as anything else is.
            Err(Errno::EXIST) if !exclusive => directory.entry(name)?.open(flags)?,
            opened => opened?,
        };
        opened_fid(fid, Node::new(opened, None), flags, reply)
    }

    /// Ends the fid, whatever else it says.
    fn clunk(&mut self, number: u32) -> Result<(), Errno> {
        let taken = self.take(number, None);
        let fid = self.fids.remove(number)?;
        match fid.state {
            State::Attribute(new) => taken.and_then(|()| xattrs::finish(&new)),
            _ => Ok(()),
        }
    }
}

/// Flags of the client that the server opens with; 9P2000.L has Linux's numbers.
fn open_flags(flags: u32) -> OFlags {
    let served = OFlags::RDWR
        | OFlags::WRONLY
        | OFlags::TRUNC
        | OFlags::APPEND
        | OFlags::DIRECTORY
        | OFlags::DSYNC
        | OFlags::SYNC;
    OFlags::from_bits_retain(flags) & served
}

fn opened_fid(fid: &mut Fid, node: Node, flags: OFlags, reply: &mut Reply) -> Result<(), Errno> {
    reply.qid(node.qid()?);
    // The client chooses the size of its messages.
    reply.u32(0);
    fid.state = State::Open(node, flags);
    Ok(())
}

fn made(directory: &Node, name: &Name, reply: &mut Reply) -> Result<(), Errno> {
    reply.qid(directory.entry(name)?.qid()?);
    Ok(())
}
