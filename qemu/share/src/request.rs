//! Requests as the client sends them, parsed into types. Linux's `include/net/9p/9p.h` has the
//! numbers of 9P2000.L, and its `net/9p/client.c` shows the fields.

use std::ffi::CString;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::attributes::Change;
use crate::locks::{LockKind, Range};
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
            52 => Self::lock(f)?,
            54 => Self::get_lock(f)?,
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
            _ => return Self::of_an_entry(kind, f),
        })
    }

    /// A request that names an entry of a directory.
    fn of_an_entry(kind: u8, f: &mut Fields<'a>) -> Result<Self, Errno> {
        Ok(match kind {
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
            _ => return Err(Errno::OPNOTSUPP),
        })
    }

    fn lock(f: &mut Fields<'a>) -> Result<Self, Errno> {
        let (fid, kind) = (f.u32()?, LockKind::parse(f.u8()?)?);
        // Whether the client waits, which it does by itself.
        f.u32()?;
        let lock = Range::parse(kind, f)?;
        Ok(Self::Lock { fid, lock })
    }

    fn get_lock(f: &mut Fields<'a>) -> Result<Self, Errno> {
        let (fid, kind) = (f.u32()?, LockKind::parse(f.u8()?)?);
        let lock = Range::parse(kind, f)?;
        Ok(Self::GetLock {
            fid,
            lock,
            client: f.text()?,
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

impl Request<'_> {
    /// Whether it changes something, or asks for the right to.
    pub(crate) fn writes(&self) -> bool {
        match self {
            Self::Open { flags, .. } => {
                let writing = OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC;
                OFlags::from_bits_retain(*flags).intersects(writing)
            }
            Self::Create { .. }
            | Self::Symlink { .. }
            | Self::Node { .. }
            | Self::SetAttributes { .. }
            | Self::XattrCreate { .. }
            | Self::Link { .. }
            | Self::Mkdir { .. }
            | Self::Rename { .. }
            | Self::Unlink { .. }
            | Self::Write { .. } => true,
            _ => false,
        }
    }

    /// The fid whose user's rights it has, and the group of what it makes.
    pub(crate) fn subject(&self) -> Option<(u32, Option<u32>)> {
        Some(match self {
            Self::Statfs { fid }
            | Self::Attributes { fid }
            | Self::Readlink { fid }
            | Self::SetAttributes { fid, .. }
            | Self::Readdir { fid, .. }
            | Self::Fsync { fid, .. }
            | Self::Lock { fid, .. }
            | Self::GetLock { fid, .. }
            | Self::Unlink { fid, .. }
            | Self::Link { directory: fid, .. }
            | Self::Rename { from: (fid, _), .. } => (*fid, None),
            Self::Symlink { fid, group, .. }
            | Self::Node { fid, group, .. }
            | Self::Mkdir { fid, group, .. } => (*fid, Some(*group)),
            _ => return None,
        })
    }
}
