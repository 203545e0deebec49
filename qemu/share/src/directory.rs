//! The entries of a directory.

use std::mem::MaybeUninit;

use rustix::fs::{self, FileType, RawDir, SeekFrom};
use rustix::io::Errno;

use crate::fid::{file_number, Node};
use crate::wire::{Qid, QidKind, Reply};

/// Bytes of an entry without its name: qid, offset, type, length of the name.
const ENTRY: usize = 13 + 8 + 1 + 2;

/// Writes the entries from `offset` on, whole ones in at most `room` bytes. An offset is 0 or that
/// of an entry that was told.
pub(crate) fn read(node: &Node, offset: u64, room: usize, reply: &mut Reply) -> Result<(), Errno> {
    fs::seek(node, SeekFrom::Start(offset))?;
    let mut memory = [MaybeUninit::uninit(); 16 << 10];
    let mut entries = RawDir::new(node, &mut memory);
    let (device, begin) = (node.stat()?.st_dev, reply.len());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !is_told(node, name) {
            continue;
        }
        if reply.len() - begin + ENTRY + name.len() > room {
            break;
        }
        let (kind, number) = kind(entry.file_type());
        let path = file_number(device, entry.ino());
        reply.qid(Qid { kind, path });
        reply.u64(entry.next_entry_cookie());
        reply.u8(number);
        reply.text(name);
    }
    Ok(())
}

/// The kind of the qid, and the number of the type (`DT_DIR`).
fn kind(file: FileType) -> (QidKind, u8) {
    match file {
        FileType::Directory => (QidKind::Directory, 4),
        FileType::Symlink => (QidKind::Symlink, 10),
        FileType::RegularFile => (QidKind::File, 8),
        FileType::Fifo => (QidKind::File, 1),
        FileType::CharacterDevice => (QidKind::File, 2),
        FileType::BlockDevice => (QidKind::File, 6),
        FileType::Socket => (QidKind::File, 12),
        FileType::Unknown => (QidKind::File, 0),
    }
}

fn is_told(node: &Node, name: &[u8]) -> bool {
    match &node.only {
        Some(only) => name == b"." || name == b".." || only.as_c_str().to_bytes() == name,
        None => true,
    }
}
