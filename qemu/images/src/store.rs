//! Where the files of an image lie: a directory, or an uncompressed tar that was indexed once.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::blob::{decompress, Compression, Slice};
use super::error::{Doing, OciError, Result};

pub enum Store {
    Dir(PathBuf),
    Tar(Rc<File>, HashMap<String, Member>),
}

/// An entry of the archive.
pub enum Member {
    File {
        offset: u64,
        bytes: u64,
    },
    /// Old `docker save` links a layer that occurs twice.
    Link(String),
}

/// Documents (indexes, manifests, configs) are read into memory; this is far above any real one.
const DOCUMENT_MAX: u64 = 16 << 20;

impl Store {
    /// Indexes an archive. A compressed one is unpacked first, into an unnamed file in `temp`.
    pub fn archive(path: &Path, temp: &Path) -> Result<Store> {
        let what = path.display().to_string();
        let doing = || format!("reading {what}");
        let mut file = File::open(path).doing(doing)?;
        let mut head = [0; 6];
        let n = read_up_to(&mut file, &mut head).doing(doing)?;
        file.rewind().doing(doing)?;
        if Compression::sniff(&head[..n]) != Compression::None {
            let mut plain = tempfile::tempfile_in(temp).doing(doing)?;
            io::copy(&mut decompress(&what, file)?.1, &mut plain)
                .map_err(|e| OciError::corrupt(&what, e.to_string()))?;
            plain.rewind().doing(doing)?;
            file = plain;
        }
        let broken = |e: io::Error| OciError::Unknown {
            image: path.to_path_buf(),
            why: format!("neither a directory nor a whole tar archive ({e})"),
        };
        let mut places = HashMap::new();
        let mut archive = tar::Archive::new(BufReader::new(&file));
        for entry in archive.entries_with_seek().map_err(broken)? {
            let entry = entry.map_err(broken)?;
            let name = clean(&String::from_utf8_lossy(&entry.path_bytes()));
            let link = entry
                .link_name_bytes()
                .map(|l| String::from_utf8_lossy(&l).into_owned());
            let place = match (entry.header().entry_type(), link) {
                (tar::EntryType::Symlink, Some(link)) => {
                    let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
                    Member::Link(clean(&format!("{parent}/{link}")))
                }
                (tar::EntryType::Link, Some(link)) => Member::Link(clean(&link)),
                _ => Member::File {
                    offset: entry.raw_file_position(),
                    bytes: entry.size(),
                },
            };
            places.insert(name, place);
        }
        if places.is_empty() {
            return Err(OciError::Unknown {
                image: path.to_path_buf(),
                why: "an archive with nothing in it".into(),
            });
        }
        drop(archive);
        Ok(Store::Tar(Rc::new(file), places))
    }

    pub fn has(&self, name: &str) -> bool {
        match self {
            Store::Dir(dir) => dir.join(name).is_file(),
            Store::Tar(_, places) => places.contains_key(name),
        }
    }

    /// Opens the file `name`; `None` when the image has none. Names come from [`super::blob::Digest`]s,
    /// or are looked up in an archive's index, so they cannot leave the image.
    pub fn open(&self, name: &str) -> Result<Option<Slice>> {
        match self {
            Store::Dir(dir) => {
                let path = dir.join(name);
                let doing = || format!("reading {}", path.display());
                match File::open(&path) {
                    Ok(file) => {
                        let bytes = file.metadata().doing(doing)?.len();
                        Ok(Some(Slice::new(Rc::new(file), 0, bytes)))
                    }
                    Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(e) => Err(e).doing(doing),
                }
            }
            Store::Tar(file, places) => {
                let mut name = clean(name);
                for _hop in 0..8 {
                    match places.get(&name) {
                        Some(Member::File { offset, bytes }) => {
                            return Ok(Some(Slice::new(Rc::clone(file), *offset, *bytes)));
                        }
                        Some(Member::Link(target)) => name.clone_from(target),
                        None => return Ok(None),
                    }
                }
                Err(OciError::corrupt(
                    format!("archive entry {name:?}"),
                    "links in a circle",
                ))
            }
        }
    }

    /// The whole of a small file.
    pub fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(slice) = self.open(name)? else {
            return Ok(None);
        };
        if slice.len() > DOCUMENT_MAX {
            let why = format!("is {} bytes long, too long for a document", slice.len());
            return Err(OciError::corrupt(name, why));
        }
        let mut bytes = Vec::new();
        { slice }
            .read_to_end(&mut bytes)
            .doing(|| format!("reading {name}"))?;
        Ok(Some(bytes))
    }
}

/// `./a//b/../c` → `a/c`; cannot climb above the root.
fn clean(path: &str) -> String {
    let mut names = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            _ => names.push(name),
        }
    }
    names.join("/")
}

fn read_up_to(file: &mut File, buf: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buf.len() {
        match file.read(&mut buf[n..])? {
            0 => break,
            more => n += more,
        }
    }
    Ok(n)
}
