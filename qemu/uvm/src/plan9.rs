//! A 9P2000.L server as small as it can be: a directory with one file, and a note of what the
//! client asked for. It answers exactly what the protocol says, so that what a guest sends can be
//! judged byte by byte, and it can fall silent or hang up. Real directories are shared by
//! [`crate::volume`].

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

/// The file and what it says.
pub const NAME: &str = "hello";
pub const CONTENT: &[u8] = b"from the host\n";

/// What the client said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Of Tversion.
    pub message_size: u32,
    pub version: String,
    /// Of Tattach.
    pub name: Option<String>,
    /// Treads that were answered.
    pub reads: u64,
    /// The connection is at its end.
    pub closed: bool,
}

/// How the server behaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Friendly,
    /// Reads, and answers nothing.
    Silent,
    /// Hangs up at the next request.
    Gone,
}

/// A server that waits for its client.
#[derive(Debug, Clone, Default)]
pub struct Server {
    state: Arc<Mutex<(Seen, Mood)>>,
    /// The number of zeros in the file; without it the content is [`CONTENT`].
    zeros: Option<u64>,
}

impl Server {
    /// One whose file is as large as this, in bytes.
    pub fn of_zeros(length: u64) -> Self {
        Self {
            zeros: Some(length),
            ..Self::default()
        }
    }

    fn length(&self) -> u64 {
        self.zeros.unwrap_or(CONTENT.len() as u64)
    }

    pub fn seen(&self) -> Seen {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .clone()
    }

    fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).0);
    }

    /// From the next request on.
    pub fn turn(&self, mood: Mood) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = mood;
    }

    fn mood(&self) -> Mood {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// Serves the connection on a thread of its own, to its end.
    pub fn serve(&self, stream: UnixStream) {
        let server = self.clone();
        std::thread::spawn(move || {
            // What counts is that it has ended.
            drop(server.answer_all(stream));
            server.note(|seen| seen.closed = true);
        });
    }

    fn answer_all(&self, mut stream: UnixStream) -> io::Result<()> {
        let mut files = HashMap::new();
        loop {
            let mut head = [0; 7];
            stream.read_exact(&mut head)?;
            let size = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
            let mut body = vec![0; size.saturating_sub(7).min(1 << 20)];
            stream.read_exact(&mut body)?;
            match self.mood() {
                Mood::Friendly => {}
                Mood::Silent => continue,
                Mood::Gone => return Ok(()),
            }
            let mut answer = Message::default();
            let kind = self.answer(head[4], Fields(&body), &mut files, &mut answer);
            let kind = kind.unwrap_or_else(|errno| {
                answer = Message::default();
                answer.u32(errno);
                7
            });
            let mut frame = Message::default();
            frame.u32(7 + answer.0.len() as u32);
            frame.0.extend([kind, head[5], head[6]]);
            frame.0.extend(answer.0);
            stream.write_all(&frame.0)?;
        }
    }

    /// The kind of the answer, or an errno. `files` tells of each fid whether it is the file.
    fn answer(
        &self,
        kind: u8,
        mut fields: Fields<'_>,
        files: &mut HashMap<u32, bool>,
        answer: &mut Message,
    ) -> Result<u8, u32> {
        const ENOENT: u32 = 2;
        const EBADF: u32 = 9;
        const EOPNOTSUPP: u32 = 95;
        if kind == 100 {
            let (size, version) = (fields.u32(), fields.text());
            answer.u32(size);
            answer.text("9P2000.L");
            self.note(|seen| (seen.message_size, seen.version) = (size, version));
            return Ok(101);
        }
        let fid = fields.u32();
        let file = files.get(&fid).copied();
        match kind {
            // Tattach: afid, uname, aname
            104 => {
                fields.u32();
                fields.text();
                let name = fields.text();
                self.note(|seen| seen.name = Some(name));
                files.insert(fid, false);
                answer.qid(false);
            }
            // Twalk
            110 => {
                let file = file.ok_or(EBADF)?;
                let to = fields.u32();
                let names: Vec<String> = (0..fields.u16()).map(|_| fields.text()).collect();
                match names.as_slice() {
                    [] => drop(files.insert(to, file)),
                    [name] if name == NAME && !file => drop(files.insert(to, true)),
                    _ => return Err(ENOENT),
                }
                answer.u16(names.len() as u16);
                names.iter().for_each(|_| answer.qid(true));
            }
            // Tgetattr
            24 => {
                answer.attributes(file.ok_or(EBADF)?, self.length());
            }
            // Tlopen
            12 => {
                answer.qid(file.ok_or(EBADF)?);
                answer.u32(0);
            }
            // Tread: offset, count
            116 => {
                self.note(|seen| seen.reads += 1);
                self.read(fields.u64(), fields.u32(), answer);
            }
            // Treaddir: at its end
            40 => answer.u32(0),
            // Tclunk
            120 => drop(files.remove(&fid)),
            _ => return Err(EOPNOTSUPP),
        }
        Ok(kind + 1)
    }
}

impl Server {
    /// Bytes of the file from `offset` on, at most `count`.
    fn read(&self, offset: u64, count: u32, answer: &mut Message) {
        let rest = self.length().saturating_sub(offset);
        // Not more than the client has asked for.
        let count = rest.min(u64::from(count)) as u32;
        answer.u32(count);
        match self.zeros {
            Some(_) => answer.0.resize(answer.0.len() + count as usize, 0),
            None => {
                let data = CONTENT.get(offset as usize..).unwrap_or_default();
                answer.0.extend(&data[..count as usize]);
            }
        }
    }
}

/// What is left of a request; past its end all is zero.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take(&mut self, length: usize) -> &[u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn number(&mut self, length: usize) -> u64 {
        let bytes = self.take(length).iter().rev();
        bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn u16(&mut self) -> u16 {
        self.number(2) as u16
    }

    fn u32(&mut self) -> u32 {
        self.number(4) as u32
    }

    fn u64(&mut self) -> u64 {
        self.number(8)
    }

    fn text(&mut self) -> String {
        let length = self.u16().into();
        String::from_utf8_lossy(self.take(length)).into_owned()
    }
}

#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn u16(&mut self, value: u16) {
        self.0.extend(value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.u16(text.len() as u16);
        self.0.extend(text.as_bytes());
    }

    /// Of Rgetattr: the file is `length` bytes long.
    fn attributes(&mut self, file: bool, length: u64) {
        self.u64(0x7ff);
        self.qid(file);
        self.u32(if file { 0o100_644 } else { 0o040_755 });
        self.u64(0); // owner, group
        let size = if file { length } else { 4096 };
        for value in [1, 0, size, 4096, 8] {
            self.u64(value); // links, device, size, block size, blocks
        }
        (0..10).for_each(|_| self.u64(0)); // times, generation, version
    }

    fn qid(&mut self, file: bool) {
        self.0.push(if file { 0 } else { 0x80 });
        self.u32(0);
        self.u64(if file { 2 } else { 1 });
    }
}
