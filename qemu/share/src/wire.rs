//! Fields of 9P messages, which are little-endian, and names in them.

use std::ffi::{CStr, CString};

use rustix::io::Errno;

/// The fields of a request that were not read yet. What is cut short is EBADMSG.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn bytes(&mut self, length: usize) -> Result<&'a [u8], Errno> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Errno::BADMSG)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        let bytes = self.bytes(N)?;
        bytes.try_into().map_err(|_| Errno::BADMSG)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Errno> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Errno> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Errno> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Errno> {
        self.array().map(u64::from_le_bytes)
    }

    /// A string: its length, and bytes in no particular encoding.
    pub(crate) fn text(&mut self) -> Result<&'a [u8], Errno> {
        let length = self.u16()?;
        self.bytes(length.into())
    }

    /// A string without a zero byte.
    pub(crate) fn c_text(&mut self) -> Result<CString, Errno> {
        CString::new(self.text()?).map_err(|_| Errno::INVAL)
    }

    pub(crate) fn name(&mut self) -> Result<Name, Errno> {
        Name::new(self.text()?)
    }
}

/// The name of an entry of a directory: neither a path, nor the directory itself or its parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name(CString);

impl Name {
    pub(crate) fn new(bytes: &[u8]) -> Result<Self, Errno> {
        match bytes {
            b"" | b"." | b".." => Err(Errno::INVAL),
            _ if bytes.contains(&b'/') => Err(Errno::INVAL),
            _ => CString::new(bytes).map(Self).map_err(|_| Errno::INVAL),
        }
    }

    pub(crate) fn as_c_str(&self) -> &CStr {
        &self.0
    }
}

/// What of a file tells it from all others, as the protocol has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Qid {
    pub(crate) kind: QidKind,
    pub(crate) path: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QidKind {
    Directory = 0x80,
    Symlink = 0x02,
    File = 0,
}

/// An answer while it is written: a frame whose size is not known yet.
pub(crate) struct Reply(Vec<u8>);

/// Size, kind and tag of a frame, in bytes.
pub(crate) const HEAD: usize = 7;

impl Reply {
    /// An empty one in the memory of an earlier one.
    pub(crate) fn new(mut memory: Vec<u8>) -> Self {
        memory.clear();
        memory.resize(HEAD, 0);
        Self(memory)
    }

    /// Forgets the fields.
    pub(crate) fn clear(&mut self) {
        self.0.truncate(HEAD);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.0.extend(value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    /// A string, which is at most 64 KiB long here: a name or the text of a link.
    pub(crate) fn text(&mut self, bytes: &[u8]) {
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.u16(length);
        self.0.extend(&bytes[..length.into()]);
    }

    /// With version 0: the client must not take what it has cached for what is there.
    pub(crate) fn qid(&mut self, qid: Qid) {
        self.u8(qid.kind as u8);
        self.u32(0);
        self.u64(qid.path);
    }

    /// The length in bytes of what `write` writes, and that.
    pub(crate) fn counted(
        &mut self,
        write: impl FnOnce(&mut Self) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let count = self.0.len();
        self.u32(0);
        let begin = self.0.len();
        write(self)?;
        let length = (self.0.len() - begin) as u32;
        self.0[count..begin].copy_from_slice(&length.to_le_bytes());
        Ok(())
    }

    /// At most `room` bytes, as many as `fill` writes.
    pub(crate) fn fill(
        &mut self,
        room: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, Errno>,
    ) -> Result<(), Errno> {
        let begin = self.0.len();
        self.0.resize(begin + room, 0);
        let length = fill(&mut self.0[begin..])?.min(room);
        self.0.truncate(begin + length);
        Ok(())
    }

    /// The whole frame.
    pub(crate) fn finish(mut self, kind: u8, tag: u16) -> Vec<u8> {
        let size = self.0.len() as u32;
        self.0[..4].copy_from_slice(&size.to_le_bytes());
        self.0[4] = kind;
        self.0[5..HEAD].copy_from_slice(&tag.to_le_bytes());
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_component() {
        for name in ["a", "...", " ", "a\nb", "\u{e9}"] {
            assert!(Name::new(name.as_bytes()).is_ok(), "{name:?}");
        }
        assert!(Name::new(b"\xff\xfe").is_ok());
        for wrong in ["", ".", "..", "/", "a/b", "a/", "../a", "a\0b"] {
            assert_eq!(Name::new(wrong.as_bytes()), Err(Errno::INVAL), "{wrong:?}");
        }
    }

    #[test]
    fn fields_end_with_the_frame() {
        let mut fields = Fields(&[2, 0, b'a', b'b', 7]);
        assert_eq!(fields.text(), Ok(&b"ab"[..]));
        assert_eq!(fields.u16(), Err(Errno::BADMSG));
        assert_eq!(fields.u8(), Ok(7));
        assert_eq!(Fields(&[3, 0, b'a']).text(), Err(Errno::BADMSG));
    }
}
