use std::collections::BTreeMap;
use std::io::{self, Read};

use super::header::{text, Header, Number};
use super::pax::Records;
use super::sparse::{self, Form, Map};
use super::BLOCK;
use crate::meta::{Device, Meta, Special, Time, Why};

/// Names and attributes; the kernel's own limit for one attribute is 64 KiB.
const RECORDS_MAX: u64 = 8 << 20;
const XATTR: &[u8] = b"SCHILY.xattr.";

pub struct Entries<R> {
    read: R,
    /// Contents of the current entry that have not been read, and the padding after them.
    left: u64,
    padding: u64,
}

#[derive(Debug)]
pub struct Entry {
    pub path: Vec<u8>,
    pub meta: Meta,
    pub kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    Dir,
    /// Its contents are what [`Entries::contents`] gives next.
    File {
        bytes: u64,
    },
    Sparse(Map),
    Symlink(Vec<u8>),
    /// A hard link to this path.
    Link(Vec<u8>),
    Special(Special),
}

/// What the records before a header say of it.
#[derive(Default)]
struct Ahead {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Records,
}

impl<R: Read> Entries<R> {
    pub fn new(read: R) -> Self {
        Entries {
            read,
            left: 0,
            padding: 0,
        }
    }

    /// The next entry, `None` at the end of the archive, marked or not; what is left of the current
    /// one is skipped. An error comes with the entry's path as far as it is known.
    pub fn next(&mut self) -> Result<Option<Entry>, (Vec<u8>, Why)> {
        let nameless = |why| (Vec::new(), why);
        let mut ahead = Ahead::default();
        loop {
            self.skip().map_err(nameless)?;
            let Some(header) = self.header().map_err(nameless)? else {
                return Ok(None);
            };
            let size = header.number(Number::Size).map_err(nameless)?;
            let size = u64::try_from(size).map_err(|_| nameless("has a negative size".into()))?;
            let kind = header.type_flag();
            match kind {
                b'L' | b'K' | b'x' | b'X' | b'g' | b'V' => {
                    self.expect(size);
                    self.note(kind, &mut ahead).map_err(nameless)?;
                }
                _ => {
                    let path = path(&header, &ahead);
                    return match self.entry(&path, &header, &ahead, size) {
                        Ok((meta, kind)) => Ok(Some(Entry { path, meta, kind })),
                        Err(why) => Err((path, why)),
                    };
                }
            }
        }
    }

    /// The contents of the current file, holes left out. An archive that ends before they do is an
    /// error of the kind [`io::ErrorKind::UnexpectedEof`].
    pub fn contents(&mut self) -> Contents<'_, R> {
        Contents(self)
    }

    fn note(&mut self, kind: u8, ahead: &mut Ahead) -> Result<(), Why> {
        match kind {
            b'L' => ahead.path = Some(text(&self.record()?).to_vec()),
            b'K' => ahead.link = Some(text(&self.record()?).to_vec()),
            b'x' | b'X' => ahead.pax = Records::parse(&self.record()?)?,
            // Global records: no engine that unpacks images applies them. `V`: a label.
            _ => {}
        }
        Ok(())
    }

    fn entry(
        &mut self,
        path: &[u8],
        header: &Header,
        ahead: &Ahead,
        size: u64,
    ) -> Result<(Meta, Kind), Why> {
        let pax = &ahead.pax;
        let size = pax.number("size")?.unwrap_or(size);
        if size > i64::MAX as u64 {
            return Err("has an impossible size".into());
        }
        let meta = meta(header, pax)?;
        let target = || {
            let long = pax.get("linkpath").or(ahead.link.as_deref());
            let target = long.map_or_else(|| header.link(), <[u8]>::to_vec);
            if target.is_empty() {
                return Err(Why::from("is a link to nothing"));
            }
            Ok(target)
        };
        // What has no contents has no size either, whatever its header says.
        let kind = match header.type_flag() {
            b'1' => Kind::Link(target()?),
            b'2' => Kind::Symlink(target()?),
            b'3' => Kind::Special(Special::Char(device(header)?)),
            b'4' => Kind::Special(Special::Block(device(header)?)),
            b'5' => Kind::Dir,
            b'6' => Kind::Special(Special::Fifo),
            // V7 tar packs directories as files whose names end in a slash.
            b'0' | 0 if path.ends_with(b"/") => {
                self.expect(size);
                Kind::Dir
            }
            b'0' | 0 | b'7' => {
                self.expect(size);
                self.file(pax)?
            }
            b'S' => {
                let map = sparse::of_header(header, size, || self.block_of("map of holes"))?;
                self.expect(size);
                Kind::Sparse(map)
            }
            other => return Err(format!("is of the unknown type {:?}", char::from(other))),
        };
        Ok((meta, kind))
    }

    fn file(&mut self, pax: &Records) -> Result<Kind, Why> {
        let bytes = self.left;
        Ok(match sparse::of_records(pax, bytes)? {
            None => Kind::File { bytes },
            Some(Form::Map(map)) => Kind::Sparse(map),
            Some(Form::InFront(size)) => {
                let (map, taken) = sparse::in_front(size, bytes, || self.block_of("map of holes"))?;
                self.left -= taken;
                Kind::Sparse(map)
            }
        })
    }

    fn expect(&mut self, bytes: u64) {
        self.left = bytes;
        self.padding = bytes.next_multiple_of(BLOCK as u64) - bytes;
    }

    /// To the next header. The padding of the last entry may be missing (Go writes and reads such).
    fn skip(&mut self) -> Result<(), Why> {
        io::copy(&mut self.contents(), &mut io::sink()).map_err(|e| e.to_string())?;
        let padding = std::mem::take(&mut self.padding);
        io::copy(&mut self.read.by_ref().take(padding), &mut io::sink())
            .map_err(|e| e.to_string())?;
        Ok(())
    }

    fn header(&mut self) -> Result<Option<Header>, Why> {
        let Some(block) = self.block()? else {
            return Ok(None);
        };
        if block.iter().any(|byte| *byte != 0) {
            let header = Header::new(block);
            return header
                .map(Some)
                .ok_or_else(|| "a header's checksum does not match".into());
        }
        // One empty block may be the last; after a pair of them anything may follow.
        match self.block()? {
            Some(next) if next.iter().any(|byte| *byte != 0) => {
                Err("it has an empty block between two entries".into())
            }
            _ => Ok(None),
        }
    }

    /// The next 512 bytes; `None` at the end.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Why> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.read.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err("it ends within a header".into()),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.to_string()),
            }
        }
        Ok(Some(block))
    }

    fn block_of(&mut self, what: &str) -> Result<[u8; BLOCK], Why> {
        self.block()?
            .ok_or_else(|| format!("it ends within a {what}"))
    }

    fn record(&mut self) -> Result<Vec<u8>, Why> {
        if self.left > RECORDS_MAX {
            return Err(format!("it has a record of {} bytes", self.left));
        }
        let mut bytes = Vec::new();
        self.contents()
            .read_to_end(&mut bytes)
            .map_err(|e| e.to_string())?;
        Ok(bytes)
    }
}

pub struct Contents<'a, R>(&'a mut Entries<R>);

impl<R: Read> Read for Contents<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.0.left;
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        if want == 0 {
            return Ok(0);
        }
        let n = self.0.read.read(&mut buf[..want])?;
        if n == 0 {
            let why = format!("it ends {left} bytes before the end of a file");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        self.0.left -= n as u64;
        Ok(n)
    }
}

fn path(header: &Header, ahead: &Ahead) -> Vec<u8> {
    let pax = ahead
        .pax
        .get(sparse::NAME)
        .or_else(|| ahead.pax.get("path"));
    let long = pax.or(ahead.path.as_deref());
    long.map_or_else(|| header.name(), <[u8]>::to_vec)
}

fn meta(header: &Header, pax: &Records) -> Result<Meta, Why> {
    let owner = |key: &str, field: Number| {
        let number = match pax.number(key)? {
            Some(number) => Some(number),
            None => u64::try_from(header.number(field)?).ok(),
        };
        let owner = number.and_then(|number| u32::try_from(number).ok());
        owner.ok_or_else(|| format!("has a {key} that is not within 0 and 2^32"))
    };
    let mtime = match pax.time("mtime")? {
        Some(time) => time,
        None => Time {
            seconds: header.number(Number::Mtime)?,
            nanos: 0,
        },
    };
    let xattrs: BTreeMap<_, _> = pax
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(XATTR)?.to_vec(), value.to_vec())))
        .collect();
    Ok(Meta {
        mode: (header.number(Number::Mode)? & 0o7777) as u32,
        uid: owner("uid", Number::Uid)?,
        gid: owner("gid", Number::Gid)?,
        mtime,
        xattrs,
    })
}

fn device(header: &Header) -> Result<Device, Why> {
    let number = |field: Number| {
        let number = u64::try_from(header.number(field)?);
        number.map_err(|_| Why::from("has a negative device number"))
    };
    Device::new(number(Number::Major)?, number(Number::Minor)?)
}
