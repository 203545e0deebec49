//! A [`Tree`] into an ext4 image, by Debian 12's own e2fsprogs and without root.
//!
//! Why this way: an LCOW host formats its layers as ext4. Debian 12's `mke2fs -d` (1.47.0) takes
//! a directory only, and a directory made without root has wrong owners, no device nodes (a
//! whiteout is one) and no `trusted.*` xattrs; its `mkfs.erofs` (1.5) has the same limits; fakeroot
//! would need an unpacked copy whose host paths come from strangers. `debugfs -w` writes owners,
//! modes, nodes, links and xattrs straight into the image. So: `mke2fs` an empty image of the right
//! size, one `debugfs` script that fills it, `e2fsck -fn` as the proof.
//!
//! debugfs reads commands line by line, so a line break in a name is refused.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::error::{Doing, OciError, Result};
use super::tree::{Kind, Node, NodeId, Tree, ROOT};

const BLOCK: u64 = 4096;
const INODE: u64 = 256;
/// Everything is spelt out, so that the machine's mke2fs.conf does not matter. There is no journal,
/// because the disk is only read.
const FEATURES: &str =
    "none,extent,filetype,flex_bg,sparse_super2,large_file,huge_file,dir_nlink,extra_isize,ext_attr,dir_index";
/// debugfs reads lines into 8 KiB.
const LINE_MAX: usize = 8000;
/// The longest directory entry: 8 bytes and a name of 255, padded.
const ENTRY_MAX: u64 = 264;

/// Writes `tree` to the new file `image`. `staging` takes the script and the xattr values.
pub fn write(what: &str, tree: &Tree, image: &Path, staging: &Path) -> Result<()> {
    let plan = Plan::of(tree);
    let doing = || format!("making a disk of {what}");
    let file = File::create(image).doing(doing)?;
    file.set_len(plan.blocks() * BLOCK).doing(doing)?;
    drop(file);

    let script = staging.join("script");
    let mut writer = Script {
        what,
        tree,
        staging,
        out: BufWriter::new(File::create(&script).doing(doing)?),
        first: HashMap::new(),
        path: Vec::new(),
        values: 0,
    };
    writer.line("rmdir lost+found")?;
    writer.dir(ROOT, &plan)?;
    writer.meta(b"/", ROOT, 1)?;
    writer.out.flush().doing(doing)?;

    let size = BLOCK.to_string();
    let inodes = plan.inodes.to_string();
    let inode = INODE.to_string();
    run(
        "mke2fs",
        what,
        [
            "-q",
            "-F",
            "-t",
            "ext4",
            "-b",
            &size,
            "-I",
            &inode,
            "-N",
            &inodes,
            "-m",
            "0",
            "-O",
            FEATURES,
            "-E",
            "root_owner=0:0,nodiscard,lazy_itable_init=0",
        ]
        .map(OsStr::new)
        .into_iter()
        .chain([image.as_os_str()]),
    )?;
    let options = [OsStr::new("-w"), OsStr::new("-f"), script.as_os_str()];
    run(
        "debugfs",
        what,
        options.into_iter().chain([image.as_os_str()]),
    )?;
    run("e2fsck", what, [OsStr::new("-fn"), image.as_os_str()])?;
    File::open(image).and_then(|f| f.sync_all()).doing(doing)
}

/// How many blocks and inodes a tree takes.
struct Plan {
    data: u64,
    inodes: u64,
    names: HashMap<NodeId, u64>,
}

impl Plan {
    fn of(tree: &Tree) -> Plan {
        let mut plan = Plan {
            data: 0,
            inodes: 16,
            names: HashMap::new(),
        };
        plan.add(tree, ROOT);
        plan
    }

    fn add(&mut self, tree: &Tree, id: NodeId) {
        let names = self.names.entry(id).or_default();
        *names += 1;
        if *names > 1 {
            return;
        }
        let node = tree.node(id);
        self.inodes += 1;
        self.data += match &node.kind {
            // One block more per run of extents that the inode does not hold itself.
            Kind::File { bytes, .. } => bytes.div_ceil(BLOCK) + bytes.div_ceil(BLOCK) / 512,
            Kind::Dir(_) => blocks_of_names(tree.children(id).map(|(name, _)| name)) + 2,
            Kind::Symlink(_) => 1,
            _ => 0,
        };
        self.data += u64::from(!node.meta.xattrs.is_empty());
        for (_, child) in tree.children(id) {
            self.add(tree, child);
        }
    }

    /// Contents, inode tables, the bitmaps and descriptors of each group, and modest slack.
    fn blocks(&self) -> u64 {
        let used = self.data + self.inodes.div_ceil(BLOCK / INODE) + 64;
        let groups = used / (8 * BLOCK) + 1;
        used + used / 64 + groups * 8 + 256
    }
}

/// Blocks for these names, if every block leaves room for the longest one unused.
fn blocks_of_names<'a>(names: impl Iterator<Item = &'a [u8]>) -> u64 {
    let bytes: u64 = names
        .map(|name| 8 + (name.len() as u64).next_multiple_of(4))
        .sum();
    bytes.div_ceil(BLOCK - ENTRY_MAX)
}

struct Script<'a> {
    what: &'a str,
    tree: &'a Tree,
    staging: &'a Path,
    out: BufWriter<File>,
    /// The first name of a file that has several.
    first: HashMap<NodeId, Vec<u8>>,
    /// Where debugfs stands; empty is the root.
    path: Vec<u8>,
    values: u64,
}

impl Script<'_> {
    /// Fills the directory that debugfs stands in.
    fn dir(&mut self, id: NodeId, plan: &Plan) -> Result<()> {
        let mut links = Vec::new();
        let mut dirs = Vec::new();
        let tree = self.tree;
        for (name, child) in tree.children(id) {
            let node = tree.node(child);
            if matches!(node.kind, Kind::Dir(_)) {
                dirs.push((name, child));
            } else if self.first.contains_key(&child) {
                links.push((name, child));
            } else {
                self.make(name, node)?;
                let count = plan.names.get(&child).copied().unwrap_or(1);
                if count > 1 {
                    self.first.insert(child, self.joined(name));
                }
                self.meta(&dotted(name), child, count)?;
            }
        }
        for (name, child) in dirs {
            self.command(&[b"mkdir", name])?;
            self.command(&[b"cd", &dotted(name)])?;
            let here = self.joined(name);
            let parent = std::mem::replace(&mut self.path, here);
            self.dir(child, plan)?;
            self.path = parent;
            self.line("cd ..")?;
            self.meta(&dotted(name), child, 0)?;
        }
        // `ln` alone does not make a directory grow.
        for _ in 0..blocks_of_names(links.iter().map(|(name, _)| *name)) {
            self.line("expand_dir .")?;
        }
        for (name, child) in links {
            let first = self.first[&child].clone();
            self.command(&[b"ln", &first, &dotted(name)])?;
        }
        Ok(())
    }

    fn make(&mut self, name: &[u8], node: &Node) -> Result<()> {
        let device = |kind: &'static [u8], major: u32, minor: u32| {
            if major > 0xffff || minor > 0xffff {
                let why = format!("is device {major}:{minor}, which cannot be made");
                return Err(self.unfit(name, &why));
            }
            Ok([
                kind.to_vec(),
                major.to_string().into_bytes(),
                minor.to_string().into_bytes(),
            ])
        };
        match &node.kind {
            Kind::File { data, .. } => self.command(&[b"write", data.as_os_str().as_bytes(), name]),
            Kind::Symlink(target) if target.is_empty() => {
                Err(self.unfit(name, "is a symlink to nothing"))
            }
            Kind::Symlink(target) => self.command(&[b"symlink", name, target]),
            Kind::Fifo => self.command(&[b"mknod", name, b"p"]),
            Kind::Char { major, minor } => {
                let [kind, major, minor] = device(b"c", *major, *minor)?;
                self.command(&[b"mknod", name, &kind, &major, &minor])
            }
            Kind::Block { major, minor } => {
                let [kind, major, minor] = device(b"b", *major, *minor)?;
                self.command(&[b"mknod", name, &kind, &major, &minor])
            }
            Kind::Dir(_) => unreachable!("directories are made by dir()"),
        }
    }

    /// Mode, owner, time and xattrs of what is at `at`; `links` above 1 is set as link count.
    fn meta(&mut self, at: &[u8], id: NodeId, links: u64) -> Result<()> {
        let Node { meta, kind } = self.tree.node(id);
        let file_type = match kind {
            Kind::Dir(_) => 0o040000,
            Kind::File { .. } => 0o100000,
            Kind::Symlink(_) => 0o120000,
            Kind::Char { .. } => 0o020000,
            Kind::Block { .. } => 0o060000,
            Kind::Fifo => 0o010000,
        };
        for (number, (name, value)) in (self.values..).zip(&meta.xattrs) {
            let file = self.staging.join(format!("xattr{number}"));
            fs::write(&file, value).doing(|| format!("writing {}", file.display()))?;
            self.command(&[b"ea_set", b"-f", file.as_os_str().as_bytes(), at, name])?;
            self.values = number + 1;
        }
        let mut set = |field: &str, value: String| {
            self.command(&[b"sif", at, field.as_bytes(), value.as_bytes()])
        };
        set("mode", format!("0{:o}", file_type | meta.mode))?;
        if meta.uid != 0 {
            set("uid", meta.uid.to_string())?;
        }
        if meta.gid != 0 {
            set("gid", meta.gid.to_string())?;
        }
        if links > 1 && id != ROOT {
            set("links_count", links.to_string())?;
        }
        set("mtime", format!("@{}", meta.mtime))
    }

    fn command(&mut self, words: &[&[u8]]) -> Result<()> {
        let mut line = Vec::new();
        for word in words {
            if !line.is_empty() {
                line.push(b' ');
            }
            quote(word, &mut line);
        }
        if line.contains(&b'\n') {
            return Err(self.unfit(
                &line,
                "has a line break in a name, which debugfs cannot write",
            ));
        }
        if line.len() > LINE_MAX {
            return Err(self.unfit(&line[..64], "has a path that is too long"));
        }
        line.push(b'\n');
        self.out
            .write_all(&line)
            .doing(|| format!("making a disk of {}", self.what))
    }

    fn line(&mut self, line: &str) -> Result<()> {
        writeln!(self.out, "{line}").doing(|| format!("making a disk of {}", self.what))
    }

    fn joined(&self, name: &[u8]) -> Vec<u8> {
        [&self.path[..], b"/", name].concat()
    }

    fn unfit(&self, name: &[u8], why: &str) -> OciError {
        let path = self.joined(name);
        let what = format!("{}, entry {:?}", self.what, String::from_utf8_lossy(&path));
        OciError::unsupported(what, why)
    }
}

/// `<5>` means inode 5 to debugfs, `./<5>` is a name.
fn dotted(name: &[u8]) -> Vec<u8> {
    [b"./", name].concat()
}

/// libss: blanks part words, `"` begins and ends a quotation, `""` within one is a `"`.
fn quote(word: &[u8], line: &mut Vec<u8>) {
    line.push(b'"');
    for &byte in word {
        if byte == b'"' {
            line.push(b'"');
        }
        line.push(byte);
    }
    line.push(b'"');
}

/// Runs a tool of e2fsprogs. Any complaint is a failure: debugfs exits with 0 after errors.
pub fn run<'a>(
    tool: &'static str,
    what: &str,
    args: impl IntoIterator<Item = &'a OsStr>,
) -> Result<()> {
    let failed = |why: String| OciError::Tool {
        tool,
        doing: format!("making a disk of {what}"),
        why,
    };
    let done = Command::new(tool)
        .args(args)
        .env("PATH", tool_path())
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(if tool == "e2fsck" {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stderr(Stdio::piped())
        .output()
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => failed("is not installed (Debian: e2fsprogs)".into()),
            _ => failed(format!("could not be started: {e}")),
        })?;
    let stderr = String::from_utf8_lossy(&done.stderr);
    let complaint = stderr.lines().find(|line| {
        let banner = line.starts_with(tool) && line.ends_with(')');
        !line.trim().is_empty() && !banner
    });
    match (complaint, done.status.success()) {
        (None, true) => Ok(()),
        (Some(complaint), _) => Err(failed(format!("says: {complaint}"))),
        (None, false) => {
            let stdout = String::from_utf8_lossy(&done.stdout);
            let line = stdout
                .lines()
                .find(|line| line.contains("Fix?"))
                .unwrap_or("no reason");
            Err(failed(format!("ended with {}: {line}", done.status)))
        }
    }
}

/// The directories of e2fsprogs, also for users whose PATH lacks `sbin`.
pub fn tool_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}
