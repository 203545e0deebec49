//! A client that says exactly what a test wants, which no kernel would.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use uvm_share::{Access, Share};

pub const NO_FID: u32 = u32::MAX;

/// A request's fields.
#[derive(Default)]
pub struct Fields(Vec<u8>);

impl Fields {
    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn text(self, text: &str) -> Self {
        let mut with = self.u16(text.len() as u16);
        with.0.extend(text.as_bytes());
        with
    }

    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
}

pub fn fields() -> Fields {
    Fields::default()
}

pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// A client that has said hello, and is attached as fid 0 as the user of this number.
    pub fn attached(path: &Path, access: Access, user: u32) -> Self {
        let mut client = Self::new(path, access);
        client
            .call(100, fields().u32(65536).text("9P2000.L"))
            .unwrap();
        let attach = fields().u32(0).u32(NO_FID).text("").text("").u32(user);
        client.call(104, attach).unwrap();
        client
    }

    pub fn new(path: &Path, access: Access) -> Self {
        let (stream, other) = UnixStream::pair().unwrap();
        let share = Share::open(path, access).unwrap();
        std::thread::spawn(move || share.serve(other));
        Self { stream }
    }

    /// The fields of the answer, or an errno.
    pub fn call(&mut self, kind: u8, request: Fields) -> Result<Vec<u8>, i32> {
        let mut frame = (7 + request.0.len() as u32).to_le_bytes().to_vec();
        frame.extend([kind, 1, 0]);
        frame.extend(request.0);
        self.stream.write_all(&frame).unwrap();
        self.answer(kind)
    }

    fn answer(&mut self, kind: u8) -> Result<Vec<u8>, i32> {
        let mut head = [0; 7];
        self.stream.read_exact(&mut head).unwrap();
        let size = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
        let mut body = vec![0; size - 7];
        self.stream.read_exact(&mut body).unwrap();
        assert_eq!(head[5..], [1, 0], "the tag");
        match head[4] {
            7 => Err(i32::from_le_bytes(body.try_into().unwrap())),
            answer => {
                assert_eq!(answer, kind + 1);
                Ok(body)
            }
        }
    }

    /// Sends bytes that may be no frame; whether the server still answers.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        let mut byte = [0];
        self.stream.write_all(bytes).is_ok()
            && self.stream.shutdown(std::net::Shutdown::Write).is_ok()
            && matches!(self.stream.read(&mut byte), Ok(1))
    }

    /// Walks from the root; the number of names that were found.
    pub fn walk(&mut self, to: u32, names: &[&str]) -> Result<usize, i32> {
        self.walk_from(0, to, names)
    }

    pub fn walk_from(&mut self, from: u32, to: u32, names: &[&str]) -> Result<usize, i32> {
        let mut request = fields().u32(from).u32(to).u16(names.len() as u16);
        for name in names {
            request = request.text(name);
        }
        let answer = self.call(110, request)?;
        Ok(u16::from_le_bytes([answer[0], answer[1]]).into())
    }

    pub fn open(&mut self, fid: u32, flags: i32) -> Result<(), i32> {
        self.call(12, fields().u32(fid).u32(flags as u32)).map(drop)
    }

    /// Makes the fid of a directory that of a new file in it.
    pub fn create(&mut self, fid: u32, name: &str, flags: i32, mode: u32) -> Result<(), i32> {
        let request = fields().u32(fid).text(name).u32(flags as u32);
        self.call(14, request.u32(mode).u32(0)).map(drop)
    }

    pub fn read(&mut self, fid: u32, offset: u64, count: u32) -> Result<Vec<u8>, i32> {
        let answer = self.call(116, fields().u32(fid).u64(offset).u32(count))?;
        Ok(answer[4..].to_vec())
    }

    pub fn write(&mut self, fid: u32, offset: u64, data: &[u8]) -> Result<u32, i32> {
        let request = fields().u32(fid).u64(offset).u32(data.len() as u32);
        let answer = self.call(118, request.bytes(data))?;
        Ok(u32::from_le_bytes(answer.try_into().unwrap()))
    }

    pub fn clunk(&mut self, fid: u32) -> Result<(), i32> {
        self.call(120, fields().u32(fid)).map(drop)
    }

    /// Mode, size, and modification time in seconds and nanoseconds.
    pub fn stat(&mut self, fid: u32) -> Result<(u32, u64, u64, u64), i32> {
        let answer = self.call(24, fields().u32(fid).u64(0x7ff))?;
        let u64_at = |at: usize| u64::from_le_bytes(answer[at..at + 8].try_into().unwrap());
        let mode = u32::from_le_bytes(answer[21..25].try_into().unwrap());
        Ok((mode, u64_at(49), u64_at(89), u64_at(97)))
    }

    /// Names in the directory, which must be open.
    pub fn names(&mut self, fid: u32, count: u32) -> Vec<String> {
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let answer = self
                .call(40, fields().u32(fid).u64(offset).u32(count))
                .unwrap();
            let mut rest = &answer[4..];
            if rest.is_empty() {
                return names;
            }
            while !rest.is_empty() {
                offset = u64::from_le_bytes(rest[13..21].try_into().unwrap());
                let length = usize::from(u16::from_le_bytes([rest[22], rest[23]]));
                names.push(String::from_utf8(rest[24..24 + length].to_vec()).unwrap());
                rest = &rest[24 + length..];
            }
        }
    }
}
