//! One 512-byte header: v7, ustar, GNU and star share its first 257 bytes.

use std::ops::Range;

use super::BLOCK;
use crate::meta::Why;

pub struct Header([u8; BLOCK]);

const NAME: Range<usize> = 0..100;
const CHECKSUM: Range<usize> = 148..156;
const TYPE: usize = 156;
const LINK: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..265;
const PREFIX: Range<usize> = 345..500;
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_TRAILER: Range<usize> = 508..512;

/// A number in the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    Mode,
    Uid,
    Gid,
    Size,
    Mtime,
    Major,
    Minor,
}

impl Number {
    fn place(self) -> (&'static str, Range<usize>) {
        match self {
            Number::Mode => ("mode", 100..108),
            Number::Uid => ("uid", 108..116),
            Number::Gid => ("gid", 116..124),
            Number::Size => ("size", 124..136),
            Number::Mtime => ("mtime", 136..148),
            Number::Major => ("device major", 329..337),
            Number::Minor => ("device minor", 337..345),
        }
    }
}

impl Header {
    /// `None` if the checksum is not right, as a sum of unsigned or (old tars) of signed bytes.
    pub fn new(block: [u8; BLOCK]) -> Option<Header> {
        let stored = number(&block[CHECKSUM])?;
        let sums = block
            .iter()
            .enumerate()
            .fold((0i64, 0i64), |sums, (at, byte)| {
                let byte = if CHECKSUM.contains(&at) { b' ' } else { *byte };
                (
                    sums.0 + i64::from(byte),
                    sums.1 + i64::from(byte.cast_signed()),
                )
            });
        (stored == sums.0 || stored == sums.1).then_some(Header(block))
    }

    pub fn bytes(&self) -> &[u8; BLOCK] {
        &self.0
    }

    pub fn type_flag(&self) -> u8 {
        self.0[TYPE]
    }

    pub fn name(&self) -> Vec<u8> {
        let name = text(&self.0[NAME]);
        let prefix = if !self.0[MAGIC].starts_with(b"ustar\0") {
            &[]
        } else if self.0[STAR_TRAILER] == *b"tar\0" {
            text(&self.0[STAR_PREFIX])
        } else {
            text(&self.0[PREFIX])
        };
        if prefix.is_empty() {
            name.to_vec()
        } else {
            [prefix, b"/", name].concat()
        }
    }

    pub fn link(&self) -> Vec<u8> {
        text(&self.0[LINK]).to_vec()
    }

    pub fn number(&self, field: Number) -> Result<i64, Why> {
        let known = matches!(field, Number::Major | Number::Minor);
        if known && !self.0[MAGIC].starts_with(b"ustar") {
            return Ok(0);
        }
        let (name, place) = field.place();
        number(&self.0[place]).ok_or_else(|| format!("has an unreadable {name}"))
    }
}

/// Up to the first NUL.
pub fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal digits among blanks and NULs (none: 0), or with the first bit set a two's complement
/// number of the remaining bits, which GNU tar and star write for what is too long or negative.
pub fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // Bit 6 is the sign.
        let top = i128::from(first.cast_signed() << 1) >> 1;
        return rest
            .iter()
            .try_fold(top, |sum, byte| {
                let sum = sum.checked_mul(256)? + i128::from(*byte);
                i64::try_from(sum).is_ok().then_some(sum)
            })
            .and_then(|sum| i64::try_from(sum).ok());
    }
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field
        .iter()
        .position(|byte| !blank(byte))
        .unwrap_or(field.len());
    let digits = text(&field[start..]).trim_ascii_end();
    digits.iter().try_fold(0i64, |sum, byte| match byte {
        b'0'..=b'7' => sum.checked_mul(8)?.checked_add(i64::from(byte - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_octal_and_in_base_256() {
        let cases: [(&[u8], Option<i64>); 14] = [
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"644 \0\0\0\0", Some(0o644)),
            (b"77777777", Some(0o77777777)),
            (b"        ", Some(0)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"0000648\0", None),
            (b"-000001\0", None),
            (b"\x80\0\0\0\0\x20\0\0", Some(0x20_0000)),
            (b"\x80\0\0\0\0\0\0\x01", Some(1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (
                b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0",
                Some(-256),
            ),
            (
                b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
                Some(i64::MAX),
            ),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
        ];
        for (field, expected) in cases {
            assert_eq!(number(field), expected, "{field:02x?}");
        }
    }
}
