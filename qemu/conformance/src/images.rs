//! The initrd under test with tools in it, or as the disk of a root file system.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::{Path, PathBuf};

use image::tree::{Kind, Node, Tree};
use image::{archive, pack};

use uvm_images::{Cache, Platform};

use super::check::{Checked, Expected};

/// Where [`with_tools`] puts busybox.
pub const BUSYBOX: &str = "/lab/busybox";

/// Writes the initrd with a static busybox at [`BUSYBOX`], and perhaps as `/bin/sh`: an archive
/// of its own in front, which the kernel unpacks too.
pub fn with_tools(initrd: &Path, shell: bool, to: &Path) -> Checked {
    let mut tree = Tree::default();
    let mut add = |path: &str, kind| {
        let added = tree.add(path, Node { kind, mode: 0o755 });
        added.map_err(io::Error::other)
    };
    add("/lab", Kind::Directory)?;
    add(BUSYBOX, Kind::File(fs::read(uvm_images::busybox()?)?))?;
    if shell {
        add("/bin", Kind::Directory)?;
        add("/bin/sh", Kind::Same(BUSYBOX.into()))?;
    }
    let mut bytes = archive::write(&tree, 0)?;
    // The next archive begins at a multiple of four.
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes.extend(fs::read(initrd)?);
    Ok(fs::write(to, bytes)?)
}

/// Makes an ext4 disk of what is in the initrd, without its device nodes; gives its file.
pub fn root_disk(initrd: &Path, dir: &Path) -> Checked<PathBuf> {
    let root = dir.join("root");
    fs::create_dir(&root)?;
    let members = archive::read(&pack::unpack(&fs::read(initrd)?)?)?;
    // Names of one file stay one file, by which a guest recognises its own programs.
    let mut files: HashMap<u32, PathBuf> = HashMap::new();
    for member in &members {
        let name = member.path.trim_start_matches(['/', '.']);
        if name.is_empty() || name.split('/').any(|part| part == "..") {
            continue;
        }
        let at = root.join(name);
        match member.mode & libc::S_IFMT {
            libc::S_IFDIR => fs::create_dir_all(&at)?,
            libc::S_IFREG => {
                match files.get(&member.inode) {
                    Some(first) => fs::hard_link(first, &at)?,
                    None => drop(files.insert(member.inode, at.clone())),
                }
                // The last of the names carries the content.
                let mut file = fs::OpenOptions::new().append(true).create(true).open(&at)?;
                file.write_all(&member.body)?;
            }
            libc::S_IFLNK => symlink(String::from_utf8_lossy(&member.body).as_ref(), &at)?,
            // Devices: devtmpfs has them.
            _ => continue,
        }
        if member.mode & libc::S_IFMT != libc::S_IFLNK {
            fs::set_permissions(&at, fs::Permissions::from_mode(member.mode & 0o7777))?;
        }
    }
    let made = uvm_images::load(&root, &Platform::of_machine(), &Cache::open(Some(dir))?)?;
    let layer = made.layers.last().expected("a disk of the initrd")?;
    Ok(layer.path.clone())
}
