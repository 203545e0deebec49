//! A layer's tar stream, entry by entry into a [`Builder`].

use std::io::{self, Read};

use crate::archive::{Entries, Entry, Kind};
use crate::error::{OciError, Result};
use crate::layer::{shown, Body, Builder, Fault, Marker};

/// Whether `.wh.` names are markers (a layer of an image) or plain files (a root file system).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Markers {
    Whiteouts,
    Plain,
}

/// Reads the whole archive; `what` names it in errors.
pub fn read(what: &str, tar: impl Read, markers: Markers, layer: &mut Builder) -> Result<()> {
    let mut entries = Entries::new(tar);
    loop {
        match entries.next() {
            Ok(Some(entry)) => {
                let added = add(&entry, &mut entries, markers, layer);
                added.map_err(|fault| failed(what, Some(&entry.path), fault))?;
            }
            Ok(None) => return Ok(()),
            Err((path, why)) => {
                let path = Some(&path[..]).filter(|path| !path.is_empty());
                return Err(failed(what, path, Fault::Entry(why)));
            }
        }
    }
}

/// The disk's end; its length in bytes.
pub fn finish(what: &str, layer: Builder) -> Result<u64> {
    layer.finish().map_err(|fault| failed(what, None, fault))
}

fn add<R: Read>(
    entry: &Entry,
    entries: &mut Entries<R>,
    markers: Markers,
    layer: &mut Builder,
) -> Result<(), Fault> {
    let Entry { path, meta, kind } = entry;
    let marker = match markers {
        Markers::Whiteouts => Marker::of(path)?,
        Markers::Plain => None,
    };
    let mut contents = entries.contents();
    let body = match kind {
        Kind::Dir | Kind::Link(_) => None,
        Kind::File { bytes } => Some(Body::File(&mut contents, *bytes)),
        Kind::Sparse(map) => Some(Body::Sparse(&mut contents, map)),
        Kind::Symlink(target) => Some(Body::Symlink(target)),
        Kind::Special(special) => Some(Body::Special(*special)),
    };
    match (marker, kind, body) {
        (Some(Marker::Opaque(path)), _, _) => layer.make_opaque(&path),
        (Some(Marker::Hidden(path)), _, _) => layer.hide(&path),
        (Some(Marker::Kept(key)), _, Some(body)) => layer.keep(&key, meta, body),
        (Some(Marker::Kept(_) | Marker::Reserved), _, _) => Ok(()),
        (None, Kind::Link(target), _) => match (markers, Marker::of(target)?) {
            (Markers::Whiteouts, Some(Marker::Kept(key))) => layer.link_kept(path, &key),
            _ => layer.link(path, target),
        },
        (None, _, Some(body)) => layer.leaf(path, meta, body),
        (None, _, None) => layer.dir(path, meta.clone()),
    }
}

/// Whose fault it is: the archive's, or this machine's.
fn failed(what: &str, path: Option<&[u8]>, fault: Fault) -> OciError {
    let entry = match path {
        Some(path) => format!("{what}, entry {}", shown(path)),
        None => what.to_string(),
    };
    match fault {
        Fault::Entry(why) => OciError::corrupt(entry, why),
        Fault::Source(error) => match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::InvalidData => OciError::corrupt(entry, error.to_string()),
            _ => OciError::Io {
                doing: format!("reading {what}"),
                error,
            },
        },
        Fault::Disk(error) => OciError::disk(what, error),
        Fault::Other(error) => error,
    }
}
