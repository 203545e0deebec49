//! A directory of this machine as a layer, and the key under which its disk is cached.
//!
//! There is no digest of a directory, so the key is made from the metadata of every entry (as make
//! and rsync do): path, kind, mode, owner, size, times, inode, link target, xattrs. Mount points
//! below the directory are kept as empty directories; sockets are left out.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::error::{Doing, OciError, Result};
use super::layer::{Body, Builder, Fault};
use super::meta::{Device, Meta, Special, Time};

/// Hex digits that change when an entry does; `None` for an empty directory.
pub fn fingerprint(root: &Path) -> Result<Option<String>> {
    let mut hash = Sha256::new();
    let mut entries = 0;
    walk(root, |entry| {
        entries += 1;
        entry.note(&mut hash);
        Ok(())
    })?;
    Ok((entries > 1).then(|| hex::encode(hash.finalize())))
}

/// Adds all that is below `root`, which must still be what `key` was made of.
pub fn fill(what: &str, root: &Path, key: &str, layer: &mut Builder) -> Result<()> {
    let mut hash = Sha256::new();
    // Inode of a file with several names → its first name.
    let mut links = HashMap::new();
    walk(root, |entry| {
        entry.note(&mut hash);
        entry.add(&mut links, layer)
    })?;
    if hex::encode(hash.finalize()) != key {
        let why = "it changed while it was read; try again when nothing writes to it";
        return Err(OciError::corrupt(what, why));
    }
    Ok(())
}

struct RootfsEntry {
    /// Below the root.
    path: PathBuf,
    source: PathBuf,
    about: Metadata,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Of a symbolic link.
    target: OsString,
}

/// Visits `root` and all below it, in the order of names.
fn walk(root: &Path, mut visit: impl FnMut(&RootfsEntry) -> Result<()>) -> Result<()> {
    let top = RootfsEntry::read(PathBuf::new(), root.to_path_buf())?;
    let device = top.about.dev();
    visit(&top)?;
    // The names that are left in each directory on the way, the next one last.
    let mut way = vec![(PathBuf::new(), children(root)?)];
    while let Some((dir, names)) = way.last_mut() {
        let Some(name) = names.pop() else {
            way.pop();
            continue;
        };
        let path = dir.join(name);
        let entry = RootfsEntry::read(path, root.to_path_buf())?;
        visit(&entry)?;
        if entry.about.is_dir() && entry.about.dev() == device {
            let names = children(&entry.source)?;
            way.push((entry.path, names));
        }
    }
    Ok(())
}

/// The names in a directory, the first one last.
fn children(source: &Path) -> Result<Vec<OsString>> {
    let names = fs::read_dir(source).and_then(|dir| {
        dir.map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<Vec<_>>>()
    });
    let mut names = names.doing(|| format!("reading {}", source.display()))?;
    names.sort_by(|a, b| b.cmp(a));
    Ok(names)
}

impl RootfsEntry {
    fn read(path: PathBuf, root: PathBuf) -> Result<RootfsEntry> {
        let source = if path.as_os_str().is_empty() {
            root
        } else {
            root.join(&path)
        };
        let doing = || format!("reading {}", source.display());
        let about = fs::symlink_metadata(&source).doing(doing)?;
        let xattrs = xattrs(&source).doing(doing)?;
        let target = if about.is_symlink() {
            fs::read_link(&source).doing(doing)?.into_os_string()
        } else {
            OsString::new()
        };
        Ok(RootfsEntry {
            path,
            source,
            about,
            xattrs,
            target,
        })
    }

    fn add(&self, links: &mut HashMap<u64, Vec<u8>>, layer: &mut Builder) -> Result<()> {
        let path = self.path.as_os_str().as_bytes();
        self.put(path, links, layer).map_err(|fault| {
            let name = self.source.display().to_string();
            match fault {
                Fault::Entry(why) => OciError::unsupported(name, why),
                Fault::Source(error) => OciError::Io {
                    doing: format!("reading {name}"),
                    error,
                },
                Fault::Disk(error) => OciError::disk(&name, error),
                Fault::Other(error) => error,
            }
        })
    }

    fn put(
        &self,
        path: &[u8],
        links: &mut HashMap<u64, Vec<u8>>,
        layer: &mut Builder,
    ) -> Result<(), Fault> {
        let RootfsEntry { about, .. } = self;
        let meta = Meta {
            mode: about.mode() & 0o7777,
            uid: about.uid(),
            gid: about.gid(),
            mtime: Time {
                seconds: about.mtime(),
                nanos: about.mtime_nsec() as u32,
            },
            xattrs: self.xattrs.clone(),
        };
        let kind = about.file_type();
        if kind.is_dir() {
            return layer.dir(path, meta);
        }
        if kind.is_socket() {
            return Ok(());
        }
        if about.nlink() > 1 {
            if let Some(first) = links.get(&about.ino()) {
                return layer.link(path, first);
            }
            links.insert(about.ino(), path.to_vec());
        }
        if kind.is_file() {
            let mut file = File::open(&self.source).map_err(Fault::Source)?;
            return layer.leaf(path, &meta, Body::File(&mut file, about.len()));
        }
        let device = || {
            let number = about.rdev();
            Device::new(libc::major(number).into(), libc::minor(number).into())
        };
        let body = if kind.is_symlink() {
            Body::Symlink(self.target.as_bytes())
        } else if kind.is_char_device() {
            Body::Special(Special::Char(device()?))
        } else if kind.is_block_device() {
            Body::Special(Special::Block(device()?))
        } else {
            Body::Special(Special::Fifo)
        };
        layer.leaf(path, &meta, body)
    }

    fn note(&self, hash: &mut Sha256) {
        let RootfsEntry { about, xattrs, .. } = self;
        let path = self.path.as_os_str().as_bytes();
        for part in [path, self.target.as_bytes()] {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        let numbers = [
            u64::from(about.mode()),
            u64::from(about.uid()),
            u64::from(about.gid()),
            about.len(),
            about.mtime().cast_unsigned(),
            about.mtime_nsec().cast_unsigned(),
            about.ctime().cast_unsigned(),
            about.ctime_nsec().cast_unsigned(),
            about.ino(),
            about.rdev(),
            xattrs.len() as u64,
        ];
        for number in numbers {
            hash.update(number.to_le_bytes());
        }
        for part in xattrs.iter().flat_map(|(k, v)| [k, v]) {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
    }
}

/// Those that mean the same in a container; SELinux labels and the like are this machine's.
fn xattrs(source: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let kept = |name: &OsStr| {
        let name = name.as_bytes();
        name == b"security.capability"
            || name.starts_with(b"user.")
            || name.starts_with(b"system.posix_acl_")
    };
    let mut all = BTreeMap::new();
    let names = match xattr::list(source) {
        Ok(names) => names,
        Err(e) if e.raw_os_error() == Some(libc::ENOTSUP) => return Ok(all),
        Err(e) => return Err(e),
    };
    for name in names.filter(|name| kept(name)) {
        if let Some(value) = xattr::get(source, &name)? {
            all.insert(name.into_encoded_bytes(), value);
        }
    }
    Ok(all)
}
