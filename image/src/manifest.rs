//! The manifest beside an image: what is in it, with hashes, for those who must tell two images
//! apart or prove what runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::archive::{self, Member};
use crate::pack::{self, Format};
use crate::tree::{Kind, Tree};
use crate::{sha256, Error};

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub profile: String,
    pub format: Format,
    /// Bytes of the image file.
    pub size: u64,
    pub sha256: String,
    /// Bytes of the archive before compression.
    pub unpacked: u64,
    /// Seconds since 1970: the time of every entry.
    pub epoch: u32,
    /// What `/etc/build-info` and `/info` were filled with.
    pub values: BTreeMap<String, String>,
    pub entries: Vec<Entry>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub path: String,
    /// Octal, permission bits only.
    pub mode: String,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum What {
    Directory,
    File {
        size: u64,
        sha256: String,
        /// The path with which this one shares its inode.
        #[serde(skip_serializing_if = "Option::is_none")]
        same: Option<String>,
    },
    Symlink {
        target: String,
    },
    Char {
        major: u32,
        minor: u32,
    },
    Block {
        major: u32,
        minor: u32,
    },
}

impl Manifest {
    pub fn new(
        profile: String,
        tree: &Tree,
        format: Format,
        epoch: u32,
        values: BTreeMap<String, String>,
        archive: &[u8],
        image: &[u8],
    ) -> Self {
        let file = |node| {
            let bytes = tree.content(node).unwrap_or_default();
            (bytes.len() as u64, sha256(bytes))
        };
        let entries = tree.iter().map(|(path, node)| {
            let what = match &node.kind {
                Kind::Directory => What::Directory,
                Kind::File(_) => {
                    let (size, sha256) = file(node);
                    What::File {
                        size,
                        sha256,
                        same: None,
                    }
                }
                Kind::Same(target) => {
                    let (size, sha256) = file(node);
                    What::File {
                        size,
                        sha256,
                        same: Some(target.clone()),
                    }
                }
                Kind::Symlink(target) => What::Symlink {
                    target: target.clone(),
                },
                Kind::Char(major, minor) => What::Char {
                    major: *major,
                    minor: *minor,
                },
                Kind::Block(major, minor) => What::Block {
                    major: *major,
                    minor: *minor,
                },
            };
            Entry {
                path: path.into(),
                mode: format!("{:04o}", node.mode),
                what,
            }
        });
        Self {
            profile,
            format,
            size: image.len() as u64,
            sha256: sha256(image),
            unpacked: archive.len() as u64,
            epoch,
            values,
            entries: entries.collect(),
        }
    }

    /// Compares an image file with this manifest, entry by entry.
    ///
    /// # Errors
    /// [`Error::Mismatch`] names the first difference; the image may be broken too.
    pub fn verify(&self, image: &[u8]) -> Result<(), Error> {
        let members = archive::read(&pack::unpack(image)?)?;
        let differ = |what: String| Err(Error::Mismatch(what));
        for entry in &self.entries {
            let Some(member) = members.iter().find(|member| member.path == entry.path) else {
                return differ(format!("{} is missing", entry.path));
            };
            let mode = format!("{:04o}", member.mode & 0o7777);
            if mode != entry.mode {
                return differ(format!(
                    "{} has mode {mode}, not {}",
                    entry.path, entry.mode
                ));
            }
            if kind_bits(&entry.what) != member.mode & 0o170_000 {
                return differ(format!("{} is of another type", entry.path));
            }
            match &entry.what {
                What::File { sha256: hash, .. } if sha256(body(&members, member)) != *hash => {
                    return differ(format!("{} has other content", entry.path));
                }
                What::Symlink { target } if target.as_bytes() != member.body => {
                    return differ(format!("{} points elsewhere", entry.path));
                }
                _ => {}
            }
        }
        if let Some(extra) = members
            .iter()
            .find(|member| self.entries.iter().all(|entry| entry.path != member.path))
        {
            return differ(format!("{} is in the image only", extra.path));
        }
        if sha256(image) != self.sha256 {
            return differ("the same files are packed differently".into());
        }
        Ok(())
    }
}

/// The content of a member, which the last name of its inode carries.
fn body<'a>(members: &'a [Member], member: &Member) -> &'a [u8] {
    members
        .iter()
        .rfind(|other| other.inode == member.inode)
        .map_or(&[][..], |last| last.body.as_slice())
}

fn kind_bits(what: &What) -> u32 {
    match what {
        What::Directory => 0o040_000,
        What::File { .. } => 0o100_000,
        What::Symlink { .. } => 0o120_000,
        What::Char { .. } => 0o020_000,
        What::Block { .. } => 0o060_000,
    }
}
