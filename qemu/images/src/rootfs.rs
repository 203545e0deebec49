//! A directory of the host as a [`Tree`], and the key under which its disk is cached.
//!
//! There is no digest of a directory, so the key is made from the metadata of every entry (as make
//! and rsync do): path, kind, mode, owner, size, times, inode, link target, xattrs. Mount points
//! below the directory are kept as empty directories; sockets are left out.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::error::{Doing, OciError, Result};
use super::tree::{Kind, Meta, Tree};

pub struct Walked {
    pub tree: Tree,
    /// Hex digits that change when an entry does.
    pub key: String,
}

/// Reads the metadata of all entries below `root`.
pub fn walk(root: &Path) -> Result<Walked> {
    let about = fs::metadata(root).doing(|| format!("reading {}", root.display()))?;
    let mut walk = Walk {
        root,
        device: about.dev(),
        tree: Tree::default(),
        links: HashMap::new(),
        hash: Sha256::new(),
    };
    walk.hash.update(root.as_os_str().as_bytes());
    walk.entry(Path::new(""), root, &about)?;
    Ok(Walked {
        tree: walk.tree,
        key: hex::encode(walk.hash.finalize()),
    })
}

struct Walk<'a> {
    root: &'a Path,
    device: u64,
    tree: Tree,
    /// Inode of a file with several names → its first name.
    links: HashMap<u64, PathBuf>,
    hash: Sha256,
}

impl Walk<'_> {
    fn entry(&mut self, path: &Path, host: &Path, about: &Metadata) -> Result<()> {
        let kind = about.file_type();
        let xattrs = xattrs(host).doing(|| format!("reading the xattrs of {}", host.display()))?;
        self.note(path, about, &xattrs);
        let meta = Meta {
            mode: about.mode() & 0o7777,
            uid: about.uid(),
            gid: about.gid(),
            mtime: about.mtime(),
            xattrs,
        };
        let name = path.as_os_str().as_bytes();
        if kind.is_dir() {
            self.insert(path, meta, Kind::dir())?;
            if about.dev() == self.device {
                return self.children(path, host);
            }
            return Ok(());
        }
        if about.nlink() > 1 {
            if let Some(first) = self.links.get(&about.ino()) {
                let first = first.as_os_str().as_bytes();
                return self.tree.link(name, first).map_err(|why| unfit(host, why));
            }
            self.links.insert(about.ino(), path.to_path_buf());
        }
        let (major, minor) = numbers(about.rdev());
        let kind = if kind.is_file() {
            Kind::File {
                data: host.to_path_buf(),
                bytes: about.len(),
            }
        } else if kind.is_symlink() {
            let target = fs::read_link(host).doing(|| format!("reading {}", host.display()))?;
            self.hash.update(target.as_os_str().as_bytes());
            Kind::Symlink(target.into_os_string().into_encoded_bytes())
        } else if kind.is_char_device() {
            Kind::Char { major, minor }
        } else if kind.is_block_device() {
            Kind::Block { major, minor }
        } else if kind.is_fifo() {
            Kind::Fifo
        } else {
            return Ok(());
        };
        self.insert(path, meta, kind)
    }

    fn insert(&mut self, path: &Path, meta: Meta, kind: Kind) -> Result<()> {
        match self.tree.insert(path.as_os_str().as_bytes(), meta, kind) {
            Ok(_) => Ok(()),
            Err(why) => Err(unfit(&self.root.join(path), why)),
        }
    }

    fn children(&mut self, path: &Path, host: &Path) -> Result<()> {
        let doing = || format!("reading {}", host.display());
        let mut names = fs::read_dir(host)
            .and_then(|dir| {
                dir.map(|e| e.map(|e| e.file_name()))
                    .collect::<io::Result<Vec<_>>>()
            })
            .doing(doing)?;
        names.sort();
        for name in names {
            let host = host.join(&name);
            let about =
                fs::symlink_metadata(&host).doing(|| format!("reading {}", host.display()))?;
            self.entry(&path.join(&name), &host, &about)?;
        }
        Ok(())
    }

    fn note(&mut self, path: &Path, about: &Metadata, xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) {
        let path = path.as_os_str().as_bytes();
        self.hash.update(path.len().to_le_bytes());
        self.hash.update(path);
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
            self.hash.update(number.to_le_bytes());
        }
        for part in xattrs.iter().flat_map(|(k, v)| [k, v]) {
            self.hash.update(part.len().to_le_bytes());
            self.hash.update(part);
        }
    }
}

fn unfit(host: &Path, why: String) -> OciError {
    OciError::unsupported(host.display().to_string(), why)
}

/// Those that mean the same in a container; SELinux labels and the like are the host's.
fn xattrs(host: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let kept = |name: &OsStr| {
        let name = name.as_bytes();
        name == b"security.capability"
            || name.starts_with(b"user.")
            || name.starts_with(b"system.posix_acl_")
    };
    let mut all = BTreeMap::new();
    let names = match xattr::list(host) {
        Ok(names) => names,
        Err(e) if e.raw_os_error() == Some(libc::ENOTSUP) => return Ok(all),
        Err(e) => return Err(e),
    };
    for name in names.filter(|name| kept(name)) {
        if let Some(value) = xattr::get(host, &name)? {
            all.insert(name.into_encoded_bytes(), value);
        }
    }
    Ok(all)
}

fn numbers(device: u64) -> (u32, u32) {
    (libc::major(device), libc::minor(device))
}
