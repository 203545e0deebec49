//! A tree as an ext4 file system that is only read, by Debian's e2fsprogs and without root.
//!
//! `mke2fs` makes an empty one with a UUID that is given, `debugfs` fills it from a script, and
//! `e2fsck` proves it. Both take the time from `E2FSPROGS_FAKE_TIME`, so the same tree, time and
//! release of e2fsprogs give the same bytes on any machine. There is no journal, because nobody
//! writes to the file system.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::tree::{Kind, Tree};
use crate::Error;

const BLOCK: usize = 4096;
const INODES_PER_BLOCK: usize = 16;
/// The configuration that replaces the machine's. It spells everything out.
const CONFIG: &str = "mke2fs.conf";
const TYPES: &str = "[defaults]\nblocksize = 4096\n[fs_types]\next4 = {\nblocksize = 4096\n}\nrootfs = {\nblocksize = 4096\n}\n";
const FEATURES: &str =
    "none,extent,filetype,sparse_super2,large_file,huge_file,extra_isize,ext_attr,dir_index";

/// The file system's bytes, whole blocks. `work` takes the files on the way.
///
/// # Errors
/// e2fsprogs are missing or fail, or a name has a line break.
pub fn write(tree: &Tree, epoch: u32, id: &str, work: &Path) -> Result<Vec<u8>, Error> {
    let image = work.join("rootfs.ext4");
    let script = work.join("script");
    std::fs::write(&script, fill(tree, work)?).map_err(Error::io("cannot write", &script))?;
    // Inodes 1 to 10 are the file system's own.
    let inodes = (tree.iter().count() + 16).next_multiple_of(INODES_PER_BLOCK);
    let blocks = blocks(tree) + inodes / INODES_PER_BLOCK;
    std::fs::write(work.join(CONFIG), TYPES).map_err(Error::io("cannot write", work))?;
    let file = std::fs::File::create(&image).map_err(Error::io("cannot create", &image))?;
    file.set_len((blocks * BLOCK) as u64)
        .map_err(Error::io("cannot extend", &image))?;
    let (path, inodes) = (image.as_os_str(), inodes.to_string());
    // `None` is not set and means the clock.
    let epoch = epoch.max(1).to_string();
    let extended = format!("hash_seed={id},root_owner=0:0,nodiscard,lazy_itable_init=0");
    let make = [
        "-q", "-F", "-t", "ext4", "-T", "rootfs", "-b", "4096", "-I", "256", "-m", "0", "-N",
        &inodes, "-U", id, "-O", FEATURES, "-E", &extended,
    ];
    let make: Vec<&OsStr> = make.iter().map(OsStr::new).chain([path]).collect();
    run("mke2fs", work, &epoch, &make)?;
    let fill = [OsStr::new("-w"), OsStr::new("-f"), script.as_os_str(), path];
    run("debugfs", work, &epoch, &fill)?;
    run("e2fsck", work, &epoch, &[OsStr::new("-fn"), path])?;
    std::fs::read(&image).map_err(Error::io("cannot read", &image))
}

/// For the contents, and what the file system needs itself.
fn blocks(tree: &Tree) -> usize {
    let content = tree.iter().map(|(_, node)| match &node.kind {
        Kind::File(bytes) => bytes.len().div_ceil(BLOCK),
        Kind::Directory | Kind::Symlink(_) => 1,
        Kind::Same(_) | Kind::Char(..) | Kind::Block(..) => 0,
    });
    let content: usize = content.sum();
    // A group of 32,768 blocks has bitmaps, descriptors and perhaps a superblock.
    let groups = content / 32_000 + 1;
    // Directories of many names have more blocks than one: a name has 264 bytes at most.
    content + tree.iter().count() / 16 + groups * 16 + 16
}

/// The script that fills an empty file system.
fn fill(tree: &Tree, work: &Path) -> Result<String, Error> {
    let mut script = String::from("rmdir lost+found\nsif / mode 040755\n");
    let mut links = String::new();
    for (number, (path, node)) in tree.iter().enumerate() {
        let target = match &node.kind {
            Kind::Symlink(target) => target,
            _ => "",
        };
        if path.contains(['\n', '"']) || target.contains(['\n', '"']) {
            let problem = "names with a quote or a line break cannot be written by debugfs";
            return Err(Error::Archive(format!("{path:?}: {problem}")));
        }
        // debugfs makes things in the directory it stands in.
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let (make, kind) = match &node.kind {
            Kind::Directory => (format!("mkdir \"{name}\""), 0o040_000),
            Kind::File(bytes) => {
                let file = work.join(number.to_string());
                std::fs::write(&file, bytes).map_err(Error::io("cannot write", &file))?;
                let make = format!("write \"{}\" \"{name}\"", file.display());
                (make, 0o100_000)
            }
            Kind::Same(same) => {
                // Links come after all files, because the tool does not count names.
                links += &format!("cd \"{parent}/\"\nln \"{same}\" \"{name}\"\n");
                continue;
            }
            Kind::Symlink(target) => (format!("symlink \"{name}\" \"{target}\""), 0o120_000),
            Kind::Char(major, minor) => (format!("mknod \"{name}\" c {major} {minor}"), 0o020_000),
            Kind::Block(major, minor) => (format!("mknod \"{name}\" b {major} {minor}"), 0o060_000),
        };
        let mode = kind | node.mode;
        script += &format!("cd \"{parent}/\"\n{make}\nsif \"{path}\" mode 0{mode:o}\n");
        let names = tree.iter().filter(|(_, other)| match &other.kind {
            Kind::Same(same) => same == path,
            _ => false,
        });
        let names = names.count();
        if names > 0 {
            links += &format!("sif \"{path}\" links_count {}\n", names + 1);
        }
    }
    Ok(script + &links)
}

/// Runs a tool of e2fsprogs. Any complaint is a failure: debugfs ends with 0 after errors.
fn run(tool: &'static str, work: &Path, epoch: &str, arguments: &[&OsStr]) -> Result<(), Error> {
    let failed = |why: String| Error::Tool { tool, why };
    // The tools are found even when PATH lacks `sbin`.
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    let done = Command::new(tool)
        .args(arguments)
        .env("PATH", path)
        .env("LC_ALL", "C")
        .env("E2FSPROGS_FAKE_TIME", epoch)
        .env("SOURCE_DATE_EPOCH", epoch)
        .env("MKE2FS_CONFIG", work.join(CONFIG))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => failed("is not installed (Debian: e2fsprogs)".into()),
            _ => failed(format!("could not be started: {error}")),
        })?;
    let complaint = String::from_utf8_lossy(&done.stderr);
    let complaint = complaint.lines().find(|line| {
        let banner = line.starts_with(tool) && line.ends_with(')');
        !line.trim().is_empty() && !banner
    });
    match complaint {
        None if done.status.success() => Ok(()),
        Some(line) => Err(failed(format!("says: {line}"))),
        None => Err(failed(format!(
            "ended with {}: {}",
            done.status,
            String::from_utf8_lossy(&done.stdout).trim()
        ))),
    }
}
