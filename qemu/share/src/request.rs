//! Requests as the client sends them, parsed into types. Linux's `include/net/9p/9p.h` has the
//! numbers of 9P2000.L, and its `net/9p/client.c` shows the fields.

use std::ffi::CString;

use rustix::io::Errno;

use crate::wire::{Fields, Name};

/// "No fid", and "no user number".
pub(crate) const NONE: u32 = u32::MAX;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    Version {
        size: u32,
        version: &'a [u8],
    },
    Attach {
        fid: u32,
        user: u32,
    },
    Flush,
    Walk {
        fid: u32,
        to: u32,
        names: Vec<&'a [u8]>,
    },
    Statfs {
        fid: u32,
    },
    Open {
        fid: u32,
        flags: u32,
    },
    Create {
        fid: u32,
        name: Name,
        flags: u32,
        mode: u32,
        group: u32,
    },
    Symlink {
        fid: u32,
        name: Name,
        target: CString,
        group: u32,
    },
    Node {
        fid: u32,
        name: Name,
        mode: u32,
        major: u32,
        minor: u32,
        group: u32,
    },
    Readlink {
        fid: u32,
    },
    Attributes {
        fid: u32,
    },
    SetAttributes {
        fid: u32,
        change: Change,
    },
    /// The value of an extended attribute, or their names, becomes readable as a fid.
    XattrWalk {
        fid: u32,
        to: u32,
        name: CString,
    },
    /// What is written to the fid from now on becomes an extended attribute.
    XattrCreate {
        fid: u32,
        name: CString,
        size: u64,
        flags: u32,
    },
    Readdir {
        fid: u32,
        offset: u64,
        count: u32,
    },
    Fsync {
        fid: u32,
        data_only: bool,
    },
    Lock {
        fid: u32,
        lock: Range,
    },
    GetLock {
        fid: u32,
        lock: Range,
        client: &'a [u8],
    },
    /// Another name of what `fid` is.
    Link {
        directory: u32,
        fid: u32,
        name: Name,
    },
    Mkdir {
        fid: u32,
        name: Name,
        mode: u32,
        group: u32,
    },
    Rename {
        from: (u32, Name),
        to: (u32, Name),
    },
    Unlink {
        fid: u32,
        name: Name,
        flags: u32,
    },
    Read {
        fid: u32,
        offset: u64,
        count: u32,
    },
    Write {
        fid: u32,
        offset: u64,
        data: &'a [u8],
    },
    Clunk {
        fid: u32,
    },
    /// The old way to delete. It ends its fid even when it is refused.
    Remove {
        fid: u32,
    },
}

/// New attributes of a file; what is absent stays.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) mode: Option<u32>,
    pub(crate) user: Option<u32>,
    pub(crate) group: Option<u32>,
    /// In bytes.
    pub(crate) size: Option<u64>,
    pub(crate) accessed: Option<Time>,
    pub(crate) modified: Option<Time>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Time {
    Now,
    At { seconds: u64, nanoseconds: u64 },
}

/// A lock of bytes; a length of 0 reaches to the end of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) kind: LockKind,
    pub(crate) start: u64,
    pub(crate) length: u64,
    /// Of the guest.
    pub(crate) process: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockKind {
    Read = 0,
    Write = 1,
    Unlock = 2,
}

/// Most names that one request walks (`P9_MAXWELEM`).
const MOST_NAMES: u16 = 16;

impl<'a> Request<'a> {
    /// The request of this kind. What this server does not speak is EOPNOTSUPP.
    pub(crate) fn parse(kind: u8, f: &mut Fields<'a>) -> Result<Self, Errno> {
        Ok(match kind {
            8 => Self::Statfs { fid: f.u32()? },
            12 => Self::Open {
                fid: f.u32()?,
                flags: f.u32()?,
            },
            14 => Self::Create {
                fid: f.u32()?,
                name: f.name()?,
                flags: f.u32()?,
                mode: f.u32()?,
                group: f.u32()?,
            },
            16 => Self::Symlink {
                fid: f.u32()?,
                name: f.name()?,
                target: f.c_text()?,
                group: f.u32()?,
            },
            18 => Self::Node {
                fid: f.u32()?,
                name: f.name()?,
                mode: f.u32()?,
                major: f.u32()?,
                minor: f.u32()?,
                group: f.u32()?,
            },
            22 => Self::Readlink { fid: f.u32()? },
            24 => Self::Attributes { fid: f.u32()? },
            26 => Self::SetAttributes {
                fid: f.u32()?,
                change: Change::parse(f)?,
            },
            30 => Self::XattrWalk {
                fid: f.u32()?,
                to: f.u32()?,
                name: f.c_text()?,
            },
            32 => Self::XattrCreate {
                fid: f.u32()?,
                name: f.c_text()?,
                size: f.u64()?,
                flags: f.u32()?,
            },
            40 => Self::Readdir {
                fid: f.u32()?,
                offset: f.u64()?,
                count: f.u32()?,
            },
            50 => Self::Fsync {
                fid: f.u32()?,
                data_only: f.u32().unwrap_or(0) != 0,
            },
            52 => {
                let (fid, kind) = (f.u32()?, LockKind::parse(f.u8()?)?);
                // Whether the client waits, which it does by itself.
                f.u32()?;
                Self::Lock {
                    fid,
                    lock: Range::parse(kind, f)?,
                }
            }
            54 => {
                let (fid, kind) = (f.u32()?, LockKind::parse(f.u8()?)?);
                Self::GetLock {
                    fid,
                    lock: Range::parse(kind, f)?,
                    client: f.text()?,
                }
            }
            70 => Self::Link {
                directory: f.u32()?,
                fid: f.u32()?,
                name: f.name()?,
            },
            72 => Self::Mkdir {
                fid: f.u32()?,
                name: f.name()?,
                mode: f.u32()?,
                group: f.u32()?,
            },
            74 => Self::Rename {
                from: (f.u32()?, f.name()?),
                to: (f.u32()?, f.name()?),
            },
            76 => Self::Unlink {
                fid: f.u32()?,
                name: f.name()?,
                flags: f.u32()?,
            },
            100 => Self::Version {
                size: f.u32()?,
                version: f.text()?,
            },
            104 => Self::attach(f)?,
            108 => Self::Flush,
            110 => Self::walk(f)?,
            116 => Self::Read {
                fid: f.u32()?,
                offset: f.u64()?,
                count: f.u32()?,
            },
            118 => {
                let (fid, offset, count) = (f.u32()?, f.u64()?, f.u32()?);
                Self::Write {
                    fid,
                    offset,
                    data: f.bytes(count as usize)?,
                }
            }
            120 => Self::Clunk { fid: f.u32()? },
            122 => Self::Remove { fid: f.u32()? },
            _ => return Err(Errno::OPNOTSUPP),
        })
    }

    fn attach(f: &mut Fields<'a>) -> Result<Self, Errno> {
        let (fid, authentication) = (f.u32()?, f.u32()?);
        let (_name, _share) = (f.text()?, f.text()?);
        match authentication {
            NONE => Ok(Self::Attach {
                fid,
                user: f.u32()?,
            }),
            _ => Err(Errno::OPNOTSUPP),
        }
    }

    fn walk(f: &mut Fields<'a>) -> Result<Self, Errno> {
        let (fid, to, count) = (f.u32()?, f.u32()?, f.u16()?);
        if count > MOST_NAMES {
            return Err(Errno::INVAL);
        }
        let names: Result<Vec<_>, _> = (0..count).map(|_| f.text()).collect();
        Ok(Self::Walk {
            fid,
            to,
            names: names?,
        })
    }
}

impl Change {
    fn parse(f: &mut Fields<'_>) -> Result<Self, Errno> {
        let valid = f.u32()?;
        let (mode, user, group, size) = (f.u32()?, f.u32()?, f.u32()?, f.u64()?);
        let mut time = |set: u32, given: u32| -> Result<Option<Time>, Errno> {
            let (seconds, nanoseconds) = (f.u64()?, f.u64()?);
            Ok(match (valid & set != 0, valid & given != 0) {
                (false, _) => None,
                (true, false) => Some(Time::Now),
                (true, true) => Some(Time::At {
                    seconds,
                    nanoseconds,
                }),
            })
        };
        Ok(Self {
            mode: (valid & 1 != 0).then_some(mode),
            user: (valid & 2 != 0).then_some(user),
            group: (valid & 4 != 0).then_some(group),
            size: (valid & 8 != 0).then_some(size),
            accessed: time(0x10, 0x80)?,
            modified: time(0x20, 0x100)?,
        })
    }
}

impl LockKind {
    fn parse(kind: u8) -> Result<Self, Errno> {
        match kind {
            0 => Ok(Self::Read),
            1 => Ok(Self::Write),
            2 => Ok(Self::Unlock),
            _ => Err(Errno::INVAL),
        }
    }
}

impl Range {
    fn parse(kind: LockKind, f: &mut Fields<'_>) -> Result<Self, Errno> {
        Ok(Self {
            kind,
            start: f.u64()?,
            length: f.u64()?,
            process: f.u32()?,
        })
    }

    pub(crate) fn is_whole_file(self) -> bool {
        (self.start, self.length) == (0, 0)
    }
}
