//! Bytes that are read: digests, compression, and where in a file a blob lies.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use sha2::{Digest as _, Sha256};

use super::error::{OciError, Result};

/// A SHA-256 digest, the only algorithm in use (`sha256:<64 hex digits>`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn parse(text: &str) -> Result<Digest> {
        let unsupported = |why: &str| OciError::unsupported(format!("digest {text:?}"), why);
        let Some((algorithm, digits)) = text.split_once(':') else {
            return Err(unsupported("is not of the form sha256:<64 hex digits>"));
        };
        if algorithm != "sha256" {
            return Err(unsupported("only sha256 is understood"));
        }
        Self::parse_hex(digits)
            .ok_or_else(|| unsupported("is not of the form sha256:<64 hex digits>"))
    }

    pub fn parse_hex(digits: &str) -> Option<Digest> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).ok()?;
        Some(Digest(bytes))
    }

    /// Of a layer and the chain below it (image-spec, "Layer ChainID").
    pub fn of_chain(below: &str, layer: &Digest) -> Digest {
        Digest::of(format!("sha256:{below} {layer}").as_bytes())
    }

    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

/// Hashes and counts what is read through it.
pub struct Hashing<R> {
    inner: R,
    hash: Sha256,
    bytes: u64,
}

impl<R: Read> Hashing<R> {
    pub fn new(inner: R) -> Self {
        Hashing {
            inner,
            hash: Sha256::new(),
            bytes: 0,
        }
    }

    /// Reads the rest; the digest and length of everything.
    pub fn finish(mut self) -> io::Result<(Digest, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((Digest(self.hash.finalize().into()), self.bytes))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hash.update(&buf[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}

/// A range of a file, read without moving the file's own offset.
#[derive(Debug, Clone)]
pub struct Slice {
    file: Rc<File>,
    at: u64,
    end: u64,
}

impl Slice {
    pub fn new(file: Rc<File>, offset: u64, bytes: u64) -> Self {
        Slice {
            file,
            at: offset,
            end: offset.saturating_add(bytes),
        }
    }

    pub fn len(&self) -> u64 {
        self.end - self.at
    }
}

impl Read for Slice {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.len())
            .unwrap_or(usize::MAX)
            .min(buf.len());
        let n = self.file.read_at(&mut buf[..want], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// What the first bytes say; the media type is only a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
    /// xz or bzip2: known, not understood.
    Other(&'static str),
}

impl Compression {
    pub fn sniff(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            // a zstd skippable frame
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', ..] => Compression::Other("xz"),
            [b'B', b'Z', b'h', ..] => Compression::Other("bzip2"),
            _ => Compression::None,
        }
    }
}

/// `read`, decompressed by what its first bytes say.
pub fn decompress<'a>(
    what: &str,
    read: impl Read + 'a,
) -> Result<(Compression, Box<dyn Read + 'a>)> {
    let mut read = BufReader::with_capacity(128 * 1024, read);
    let head = match read.fill_buf() {
        Ok(head) => Compression::sniff(head),
        Err(error) => {
            return Err(OciError::Io {
                doing: format!("reading {what}"),
                error,
            })
        }
    };
    let plain: Box<dyn Read + 'a> = match head {
        Compression::None => Box::new(read),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(read)),
        Compression::Zstd => match zstd::Decoder::with_buffer(read) {
            Ok(decoder) => Box::new(decoder),
            Err(e) => return Err(OciError::corrupt(what, e.to_string())),
        },
        Compression::Other(name) => {
            let why = format!("is compressed with {name}; gzip, zstd and none are understood");
            return Err(OciError::unsupported(what, why));
        }
    };
    Ok((head, plain))
}
