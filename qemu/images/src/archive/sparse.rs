//! Files with holes, in the four forms that GNU tar and its followers write.
//!
//! | form | where the map is |
//! |---|---|
//! | old GNU (type `S`) | in the header, continued in blocks after it |
//! | PAX 0.0 | `GNU.sparse.offset` and `.numbytes`, repeated |
//! | PAX 0.1 | `GNU.sparse.map`, numbers with commas |
//! | PAX 1.0 | in front of the contents, a number a line, padded to 512 bytes |
//!
//! Source: the GNU tar manual, appendix "Storing sparse files".

use super::header::{number, Header};
use super::pax::{decimal, Records};
use super::BLOCK;
use crate::meta::Why;

/// A piece of a file that has contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub offset: u64,
    pub bytes: u64,
}

/// Which parts of a file of `bytes` bytes have contents; the rest is holes. Extents are in order
/// and do not overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    pub extents: Vec<Extent>,
    pub bytes: u64,
}

/// More pieces than any real file has; a map is kept in memory.
pub const EXTENTS_MAX: usize = 1 << 20;
/// The name that a sparse entry's PAX records give it.
pub const NAME: &str = "GNU.sparse.name";

/// How the records of an entry say that it is sparse.
#[derive(Debug, PartialEq, Eq)]
pub enum Form {
    Map(Map),
    /// The map stands in front of the contents (1.0); the file's length is known already.
    InFront(u64),
}

impl Map {
    /// `stored`: bytes that the archive holds.
    pub fn new(extents: Vec<Extent>, bytes: u64, stored: u64) -> Result<Map, Why> {
        let mut end = 0;
        let mut sum = 0;
        for extent in &extents {
            let next = extent.offset.checked_add(extent.bytes);
            match next.filter(|next| extent.offset >= end && *next <= bytes) {
                Some(next) => end = next,
                None => return Err("has a map of holes that contradicts itself".into()),
            }
            sum += extent.bytes;
        }
        if sum > stored {
            return Err(format!(
                "has {stored} bytes of contents, and its map of holes {sum}"
            ));
        }
        Ok(Map { extents, bytes })
    }

    /// Bytes with contents.
    pub fn stored(&self) -> u64 {
        self.extents.iter().map(|extent| extent.bytes).sum()
    }

    /// Pairs of offset and length.
    fn of_numbers(numbers: &[u64], bytes: u64, stored: u64) -> Result<Map, Why> {
        let pairs = numbers.chunks_exact(2);
        if !pairs.remainder().is_empty() || pairs.len() > EXTENTS_MAX {
            return Err(malformed());
        }
        let extents = pairs
            .map(|pair| Extent {
                offset: pair[0],
                bytes: pair[1],
            })
            .collect();
        Map::new(extents, bytes, stored)
    }
}

/// What PAX records say; `None` for an ordinary file.
pub fn of_records(pax: &Records, stored: u64) -> Result<Option<Form>, Why> {
    let size = || match pax.number("GNU.sparse.realsize")? {
        Some(size) => Ok(size),
        None => pax.number("GNU.sparse.size")?.ok_or_else(malformed),
    };
    if let Some(major) = pax.number("GNU.sparse.major")? {
        return match (major, pax.number("GNU.sparse.minor")?) {
            (1, Some(0)) => Ok(Some(Form::InFront(size()?))),
            // 0.0 and 0.1 have these two since they were given numbers
            (0, _) => of_old_records(pax, size()?, stored),
            (major, minor) => Err(format!(
                "is a sparse file of the unknown format {major}.{}",
                minor.unwrap_or(0)
            )),
        };
    }
    if pax.get("GNU.sparse.map").is_none() && pax.get("GNU.sparse.numblocks").is_none() {
        return Ok(None);
    }
    of_old_records(pax, size()?, stored)
}

fn of_old_records(pax: &Records, size: u64, stored: u64) -> Result<Option<Form>, Why> {
    let numbers: Option<Vec<u64>> = match pax.get("GNU.sparse.map") {
        Some(map) => map.split(|byte| *byte == b',').map(decimal).collect(),
        None => pax
            .iter()
            .filter(|(key, _)| matches!(*key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes"))
            .map(|(_, value)| decimal(value))
            .collect(),
    };
    let numbers = numbers.ok_or_else(malformed)?;
    Ok(Some(Form::Map(Map::of_numbers(&numbers, size, stored)?)))
}

/// Reads a map in front of the contents from `block`s; `stored` counts the blocks too. Returns the
/// map and how many bytes it took.
pub fn in_front(
    size: u64,
    stored: u64,
    mut block: impl FnMut() -> Result<[u8; BLOCK], Why>,
) -> Result<(Map, u64), Why> {
    let mut numbers = Vec::new();
    let mut line = Vec::new();
    let mut taken = 0;
    loop {
        if stored < taken + BLOCK as u64 {
            return Err(malformed());
        }
        taken += BLOCK as u64;
        for byte in block()? {
            if byte != b'\n' {
                line.push(byte);
                continue;
            }
            numbers.push(decimal(&line).ok_or_else(malformed)?);
            line.clear();
            let count = numbers[0];
            if count > EXTENTS_MAX as u64 {
                return Err(malformed());
            }
            if numbers.len() as u64 == 1 + 2 * count {
                let map = Map::of_numbers(&numbers[1..], size, stored - taken)?;
                return Ok((map, taken));
            }
        }
        if line.len() > 20 {
            return Err(malformed());
        }
    }
}

/// Of a header of type `S` and the blocks that follow it.
pub fn of_header(
    header: &Header,
    stored: u64,
    mut block: impl FnMut() -> Result<[u8; BLOCK], Why>,
) -> Result<Map, Why> {
    let bytes = header.bytes();
    let size = unsigned(&bytes[483..495])?;
    let mut extents = Vec::new();
    let mut more = entries(&bytes[386..482], &mut extents)? && bytes[482] != 0;
    while more {
        let block = block()?;
        more = entries(&block[..504], &mut extents)? && block[504] != 0;
        if extents.len() > EXTENTS_MAX {
            return Err(malformed());
        }
    }
    Map::new(extents, size, stored)
}

/// Pairs of 12-byte numbers; whether all places were in use.
fn entries(bytes: &[u8], extents: &mut Vec<Extent>) -> Result<bool, Why> {
    for pair in bytes.chunks_exact(24) {
        if pair[0] == 0 || pair[12] == 0 {
            return Ok(false);
        }
        extents.push(Extent {
            offset: unsigned(&pair[..12])?,
            bytes: unsigned(&pair[12..])?,
        });
    }
    Ok(true)
}

fn unsigned(field: &[u8]) -> Result<u64, Why> {
    let value = number(field).and_then(|value| u64::try_from(value).ok());
    value.ok_or_else(malformed)
}

fn malformed() -> Why {
    "has an unreadable map of holes".into()
}
