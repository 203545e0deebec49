//! The `newc` form of a tree, as the kernel unpacks it (`init/initramfs.c`).
//!
//! Names of one file share an inode; the last of them carries the content, which is what both the
//! kernel and GNU cpio expect.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use cpio::newc::{trailer, Builder, ModeFileType, Reader};

use crate::tree::{Kind, Node, Tree};
use crate::Error;

/// Serializes the tree; every time in it is `epoch`, in seconds.
///
/// # Errors
/// A file of 4 GiB or more does not fit the format.
pub fn write(tree: &Tree, epoch: u32) -> Result<Vec<u8>, Error> {
    // Path of the file → all its names in order.
    let mut names: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (path, node) in tree.iter() {
        match &node.kind {
            Kind::File(_) => names.entry(path).or_default().push(path),
            Kind::Same(target) => names.entry(target).or_default().push(path),
            _ => {}
        }
    }
    let mut inodes: BTreeMap<&str, u32> = BTreeMap::new();
    let mut next = 1;
    let mut archive = Vec::new();
    for (path, node) in tree.iter() {
        let file = match &node.kind {
            Kind::Same(target) => target.as_str(),
            _ => path,
        };
        let inode = *inodes.entry(file).or_insert_with(|| {
            next += 1;
            next - 1
        });
        let group = names.get(file).map_or(&[][..], Vec::as_slice);
        let links = match node.kind {
            Kind::Directory => 2,
            _ => group.len().max(1) as u32,
        };
        let builder = Builder::new(path.trim_start_matches('/'))
            .ino(inode)
            .nlink(links)
            .mtime(epoch)
            .mode(node.mode);
        let (builder, body) = typed(builder, tree, node);
        let body = if group.last().is_none_or(|last| *last == path) {
            body
        } else {
            &[]
        };
        let too_large = || Error::Archive(format!("{path} does not fit into a cpio archive"));
        let size = u32::try_from(body.len()).map_err(|_| too_large())?;
        let mut writer = builder.write(archive, size);
        writer.write_all(body).map_err(|_| too_large())?;
        archive = writer.finish().map_err(|_| too_large())?;
    }
    trailer(archive).map_err(|error| Error::Archive(format!("the archive cannot end: {error}")))
}

fn typed<'a>(builder: Builder, tree: &'a Tree, node: &'a Node) -> (Builder, &'a [u8]) {
    match &node.kind {
        Kind::Directory => (builder.set_mode_file_type(ModeFileType::Directory), &[]),
        Kind::File(_) | Kind::Same(_) => (
            builder.set_mode_file_type(ModeFileType::Regular),
            tree.content(node).unwrap_or_default(),
        ),
        Kind::Symlink(target) => (
            builder.set_mode_file_type(ModeFileType::Symlink),
            target.as_bytes(),
        ),
        Kind::Char(major, minor) => {
            let builder = builder.set_mode_file_type(ModeFileType::Char);
            (builder.rdev_major(*major).rdev_minor(*minor), &[])
        }
        Kind::Block(major, minor) => {
            let builder = builder.set_mode_file_type(ModeFileType::Block);
            (builder.rdev_major(*major).rdev_minor(*minor), &[])
        }
    }
}

/// One member of an archive that was read back.
#[derive(Debug, PartialEq, Eq)]
pub struct Member {
    pub path: String,
    /// File type and permission bits, as `st_mode`.
    pub mode: u32,
    pub inode: u32,
    pub mtime: u32,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    pub body: Vec<u8>,
}

/// Reads an unpacked archive back, in its order.
///
/// # Errors
/// The archive is broken or cut short.
pub fn read(archive: &[u8]) -> Result<Vec<Member>, Error> {
    let broken = |error: std::io::Error| Error::Archive(format!("broken cpio archive: {error}"));
    let mut members = Vec::new();
    let mut rest = archive;
    loop {
        let mut reader = Reader::new(rest).map_err(broken)?;
        if reader.entry().is_trailer() {
            return Ok(members);
        }
        let mut body = Vec::new();
        reader.read_to_end(&mut body).map_err(broken)?;
        let entry = reader.entry();
        members.push(Member {
            path: format!("/{}", entry.name()),
            mode: entry.mode(),
            inode: entry.ino(),
            mtime: entry.mtime(),
            device: (entry.rdev_major(), entry.rdev_minor()),
            body,
        });
        rest = reader.finish().map_err(broken)?;
    }
}

/// The tree that an archive unpacks to.
///
/// # Errors
/// A member is of a kind that an image cannot have, or lies in no directory.
pub fn tree(members: Vec<Member>) -> Result<Tree, Error> {
    // Inode → the path that carries the content: the last one.
    let mut carriers: BTreeMap<u32, String> = BTreeMap::new();
    for member in members.iter().filter(|m| m.mode & TYPE == REGULAR) {
        carriers.insert(member.inode, member.path.clone());
    }
    let mut tree = Tree::default();
    for member in members {
        let wrong = |problem: String| Error::Archive(format!("{}: {problem}", member.path));
        let kind = match member.mode & TYPE {
            0o040_000 => Kind::Directory,
            REGULAR => match carriers.get(&member.inode) {
                Some(carrier) if *carrier != member.path => Kind::Same(carrier.clone()),
                _ => Kind::File(member.body),
            },
            0o120_000 => Kind::Symlink(
                String::from_utf8(member.body).map_err(|e| wrong(format!("its target: {e}")))?,
            ),
            0o020_000 => Kind::Char(member.device.0, member.device.1),
            0o060_000 => Kind::Block(member.device.0, member.device.1),
            other => return Err(wrong(format!("is of the kind {other:o}"))),
        };
        let mode = member.mode & 0o7777;
        tree.add(&member.path, Node { kind, mode }).map_err(wrong)?;
    }
    tree.check()
        .map_err(|(path, problem)| Error::Archive(format!("{path}: {problem}")))?;
    Ok(tree)
}

/// Of `st_mode`: the bits of the file type, and the regular one.
const TYPE: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
