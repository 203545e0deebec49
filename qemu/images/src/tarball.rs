//! A layer's tar stream into a [`Tree`]; file contents go to numbered files of a staging directory.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use tar::EntryType;

use super::entries::{Entries, Entry};
use super::error::{Doing, OciError, Result};
use super::tree::{Kind, Meta, NodeId, Tree, Why};
use super::whiteout::Whiteouts;

/// Whether `.wh.` names are markers (a layer of an image) or plain files (a root file system).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Markers {
    Whiteouts,
    Plain,
}

/// Reads the whole archive; `what` names it in errors.
pub fn read(what: &str, tar: impl Read, staging: &Path, markers: Markers) -> Result<Tree> {
    let corrupt = |why: Why| OciError::corrupt(what, why);
    let mut entries = Entries::new(tar);
    let mut tree = Tree::default();
    let mut whiteouts = Whiteouts::default();
    let mut staged = 0u64;
    while let Some(entry) = entries.next().map_err(corrupt)? {
        let named = |why: Why| {
            let path = String::from_utf8_lossy(&entry.path);
            OciError::corrupt(format!("{what}, entry {path:?}"), why)
        };
        if markers == Markers::Whiteouts && whiteouts.take(&entry.path).map_err(named)? {
            continue;
        }
        let meta = meta(&entry).map_err(named)?;
        let kind = match form(&entry).map_err(named)? {
            Form::Ready(kind) => kind,
            Form::Link(target) => {
                tree.link(&entry.path, target).map_err(named)?;
                continue;
            }
            Form::Contents => {
                let data = staging.join(staged.to_string());
                staged += 1;
                let doing = || format!("unpacking {what}");
                let mut file = File::create(&data).doing(doing)?;
                let bytes = entries.copy_to(&mut file).map_err(|e| match e.kind() {
                    // the archive's fault, not the disk's
                    std::io::ErrorKind::UnexpectedEof
                    | std::io::ErrorKind::InvalidInput
                    | std::io::ErrorKind::InvalidData => named(e.to_string()),
                    _ => OciError::Io {
                        doing: doing(),
                        error: e,
                    },
                })?;
                Kind::File { data, bytes }
            }
        };
        let _: NodeId = tree.insert(&entry.path, meta, kind).map_err(named)?;
    }
    whiteouts.apply(&mut tree).map_err(corrupt)?;
    Ok(tree)
}

enum Form<'a> {
    Ready(Kind),
    /// A hard link to this path.
    Link(&'a [u8]),
    /// A file, whose contents follow.
    Contents,
}

fn form(entry: &Entry) -> Result<Form<'_>, Why> {
    let header = &entry.header;
    let target = || {
        entry
            .link
            .as_deref()
            .ok_or_else(|| Why::from("is a link to nothing"))
    };
    let device = || -> std::io::Result<(u32, u32)> {
        Ok((
            header.device_major()?.unwrap_or(0),
            header.device_minor()?.unwrap_or(0),
        ))
    };
    let device = || device().map_err(|e| e.to_string());
    Ok(match header.entry_type() {
        EntryType::Link => Form::Link(target()?),
        EntryType::Directory => Form::Ready(Kind::dir()),
        EntryType::Symlink => Form::Ready(Kind::Symlink(target()?.to_vec())),
        EntryType::Fifo => Form::Ready(Kind::Fifo),
        EntryType::Char => {
            let (major, minor) = device()?;
            Form::Ready(Kind::Char { major, minor })
        }
        EntryType::Block => {
            let (major, minor) = device()?;
            Form::Ready(Kind::Block { major, minor })
        }
        // V7 tar packs directories as files whose names end in a slash.
        EntryType::Regular if entry.path.ends_with(b"/") => Form::Ready(Kind::dir()),
        _ if entry.header.entry_type().is_gnu_sparse()
            || entry.pax.iter().any(|(k, _)| k.starts_with(b"GNU.sparse.")) =>
        {
            return Err("is a sparse file; pack the archive without --sparse".into());
        }
        EntryType::Regular | EntryType::Continuous => Form::Contents,
        other => return Err(format!("is of the unknown type {:#x}", other.as_byte())),
    })
}

fn meta(entry: &Entry) -> Result<Meta, Why> {
    let header = &entry.header;
    let id = |n: u64| u32::try_from(n).map_err(|_| Why::from("has an owner above 2^32"));
    let xattr = |(key, value): &(Vec<u8>, Vec<u8>)| {
        let name = key.strip_prefix(b"SCHILY.xattr.")?;
        Some((name.to_vec(), value.clone()))
    };
    // `seconds[.fraction]`, perhaps negative
    let mtime = entry.pax("mtime").and_then(|value| {
        let seconds = std::str::from_utf8(value).ok()?.split('.').next()?;
        seconds.parse().ok()
    });
    Ok(Meta {
        mode: header.mode().map_err(|e| e.to_string())? & 0o7777,
        uid: id(entry.number("uid", header.uid())?)?,
        gid: id(entry.number("gid", header.gid())?)?,
        mtime: mtime.unwrap_or_else(|| {
            header
                .mtime()
                .ok()
                .and_then(|t| t.try_into().ok())
                .unwrap_or(0)
        }),
        xattrs: entry.pax.iter().filter_map(xattr).collect(),
    })
}
