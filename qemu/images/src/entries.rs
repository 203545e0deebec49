//! The entries of a tar stream, with the GNU and PAX records that speak of the next one applied.
//!
//! Not the tar crate's own iterator: that one splits PAX records at line breaks, and the value of
//! an xattr (a capability, say) may hold one. It then drops the path and the size too, silently.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use super::tree::Why;

const BLOCK: u64 = 512;
/// Names and attributes; the kernel's own limit for one xattr is 64 KiB.
const RECORDS_MAX: u64 = 8 << 20;

pub struct Entries<R> {
    read: R,
    /// Contents of the current entry that have not been read, and the padding after them.
    left: u64,
    padding: u64,
}

/// PAX records: keys and values, in order.
type Records = Vec<(Vec<u8>, Vec<u8>)>;

#[derive(Debug)]
pub struct Entry {
    pub header: Header,
    pub path: Vec<u8>,
    pub link: Option<Vec<u8>>,
    pub pax: Records,
}

impl Entry {
    pub fn pax(&self, key: &str) -> Option<&[u8]> {
        let found = self.pax.iter().rev().find(|(k, _)| k == key.as_bytes());
        found.map(|(_, value)| &value[..])
    }

    /// A number that PAX may give where the header's field is too narrow.
    pub fn number(&self, key: &str, field: io::Result<u64>) -> Result<u64, Why> {
        match self.pax(key) {
            Some(value) => {
                let number = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
                number.ok_or_else(|| format!("has an unreadable {key}"))
            }
            None => field.map_err(|e| e.to_string()),
        }
    }
}

impl<R: Read> Entries<R> {
    pub fn new(read: R) -> Self {
        Entries {
            read,
            left: 0,
            padding: 0,
        }
    }

    /// The next entry; what is left of the current one is skipped.
    pub fn next(&mut self) -> Result<Option<Entry>, Why> {
        let (mut path, mut link, mut pax) = (None, None, Vec::new());
        loop {
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            self.expect(header.entry_size().map_err(|e| e.to_string())?);
            match header.entry_type() {
                EntryType::GNULongName => path = Some(self.text()?),
                EntryType::GNULongLink => link = Some(self.text()?),
                EntryType::XHeader => pax = records(&self.record()?)?,
                EntryType::XGlobalHeader => {}
                _ => {
                    let mut entry = Entry {
                        path: path.unwrap_or_else(|| header.path_bytes().into_owned()),
                        link: link.or_else(|| header.link_name_bytes().map(|l| l.into_owned())),
                        header,
                        pax,
                    };
                    if let Some(path) = entry.pax("path") {
                        entry.path = path.to_vec();
                    }
                    if let Some(link) = entry.pax("linkpath") {
                        entry.link = Some(link.to_vec());
                    }
                    self.expect(entry.number("size", entry.header.entry_size())?);
                    return Ok(Some(entry));
                }
            }
        }
    }

    /// Copies the contents of the current entry; an archive that ends before is an error.
    pub fn copy_to(&mut self, to: &mut impl Write) -> io::Result<u64> {
        let copied = io::copy(&mut self.read.by_ref().take(self.left), to)?;
        self.left -= copied;
        if self.left > 0 {
            let why = format!("it ends {} bytes before the end of a file", self.left);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        Ok(copied)
    }

    fn expect(&mut self, bytes: u64) {
        self.left = bytes;
        self.padding = bytes.next_multiple_of(BLOCK) - bytes;
    }

    /// The next header; `None` at the end of the archive, marked or not.
    fn header(&mut self) -> Result<Option<Header>, Why> {
        self.copy_to(&mut io::sink()).map_err(|e| e.to_string())?;
        self.left = std::mem::take(&mut self.padding);
        self.copy_to(&mut io::sink()).map_err(|e| e.to_string())?;

        let mut block = Vec::with_capacity(BLOCK as usize);
        let read = self.read.by_ref().take(BLOCK).read_to_end(&mut block);
        match read.map_err(|e| e.to_string())? {
            0 => return Ok(None),
            512 => {}
            _ => return Err("it ends within a header".into()),
        }
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(&block);
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        match header.cksum() {
            Ok(found) if found == sum => Ok(Some(header)),
            _ => Err("a header's checksum does not match".into()),
        }
    }

    fn record(&mut self) -> Result<Vec<u8>, Why> {
        if self.left > RECORDS_MAX {
            return Err(format!("it has a record of {} bytes", self.left));
        }
        let mut bytes = Vec::new();
        self.copy_to(&mut bytes).map_err(|e| e.to_string())?;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<Vec<u8>, Why> {
        let mut text = self.record()?;
        while text.last() == Some(&0) {
            text.pop();
        }
        Ok(text)
    }
}

/// `<length> <key>=<value>\n`, the length counting itself (pax(1)).
fn records(mut bytes: &[u8]) -> Result<Records, Why> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let one = || {
            let blank = bytes.iter().position(|b| *b == b' ')?;
            let length: usize = std::str::from_utf8(&bytes[..blank]).ok()?.parse().ok()?;
            let record = bytes.get(blank + 1..length)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|b| *b == b'=')?;
            Some((
                length,
                record[..equals].to_vec(),
                record[equals + 1..].to_vec(),
            ))
        };
        let (length, key, value) = one().ok_or("it has a malformed PAX record")?;
        all.push((key, value));
        bytes = &bytes[length..];
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_end_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            let mut entries = Entries::new(&bytes[..]);
            while let Ok(Some(_)) = entries.next() {}
            let _outcome = records(&bytes);
        }

        #[test]
        fn records_hold_any_value(value in prop::collection::vec(any::<u8>(), 0..300)) {
            let rest = " k=\n".len() + value.len();
            // The length counts its own digits.
            let length = (1..400).find(|n: &usize| n.to_string().len() + rest == *n).unwrap_or(0);
            prop_assume!(length > 0);
            let mut record = format!("{length} k=").into_bytes();
            record.extend_from_slice(&value);
            record.push(b'\n');
            let twice = [&record[..], &record[..]].concat();
            prop_assert_eq!(records(&twice), Ok(vec![(b"k".to_vec(), value); 2]));
        }
    }
}
