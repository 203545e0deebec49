//! What Linux shows of disks: they are mounted by the kernel's own EROFS (and overlayfs) in a mount
//! namespace that ends with the command, and packed by GNU tar.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use crate::archive::{Entries, Kind};
use crate::meta::{Meta, Special};
use crate::LayerDisk;

/// A tree: paths without `./`, the root is "".
pub struct Seen(BTreeMap<Vec<u8>, Fact>);

#[derive(Debug, PartialEq, Eq)]
pub struct Fact {
    pub meta: Meta,
    pub kind: Kind,
    pub data: Vec<u8>,
}

/// Whether this machine can show disks; says loudly when not.
pub fn can_see() -> bool {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let lacks = if !nix::unistd::geteuid().is_root() {
        "not root"
    } else if !Path::new("/dev/loop-control").exists() {
        "no loop devices"
    } else if !known.contains("\terofs") && !modprobe("erofs") {
        "this kernel has no EROFS"
    } else if !known.contains("\toverlay") && !modprobe("overlay") {
        "this kernel has no overlayfs"
    } else {
        return true;
    };
    eprintln!("SKIPPED: what Linux shows of the layer disks ({lacks})");
    false
}

fn modprobe(name: &str) -> bool {
    let mut command = Command::new("modprobe");
    command.arg(name).env("PATH", crate::tool_path());
    command.status().is_ok_and(|status| status.success())
}

/// Arguments: a directory for mount points, then the disks from the bottom up.
const MOUNT: &str = r#"set -e
work=$1; shift; number=0; stack=
for disk; do
    where=$work/layer$number; mkdir "$where"; number=$((number + 1))
    mount -t erofs -o loop,ro "$disk" "$where"
    stack=$where${stack:+:$stack}
done
if [ $number = 1 ]; then top=$where; else
    top=$work/merged; mkdir "$top"; mount -t overlay -o "ro,lowerdir=$stack" overlay "$top"
fi
cd "$top"
"#;

/// All that there is to a tree, as a tar that two equal trees share.
const PACK: &str = "exec tar --sort=name --format=pax --numeric-owner \
    --pax-option=delete=atime,delete=ctime,exthdr.name=x --xattrs --xattrs-include='*' -cf - .";

impl Seen {
    /// The merged tree of `disks`, from the bottom up; of one disk, what is on it.
    pub fn of(disks: &[LayerDisk]) -> Seen {
        let disks: Vec<_> = disks.iter().map(|disk| disk.path.as_path()).collect();
        Seen::read(&packed(&disks))
    }

    pub fn read(tar: &[u8]) -> Seen {
        let mut all = BTreeMap::new();
        let mut entries = Entries::new(tar);
        while let Some(entry) = entries.next().expect("GNU tar writes tars") {
            let mut data = Vec::new();
            entries.contents().read_to_end(&mut data).unwrap();
            let (meta, kind) = (entry.meta, entry.kind);
            all.insert(bare(&entry.path), Fact { meta, kind, data });
        }
        Seen(all)
    }

    pub fn paths(&self) -> Vec<String> {
        let paths = self.0.keys().map(|path| String::from_utf8_lossy(path));
        paths.map(|path| path.into_owned()).collect()
    }

    pub fn get(&self, path: impl AsRef<[u8]>) -> Option<&Fact> {
        self.0.get(path.as_ref())
    }

    /// Contents, also those of a file whose first name is another one.
    pub fn text(&self, path: &str) -> String {
        let fact = self
            .get(path)
            .unwrap_or_else(|| panic!("{path:?} is not there"));
        match &fact.kind {
            Kind::Link(first) => self.text(&String::from_utf8(bare(first)).unwrap()),
            _ => String::from_utf8_lossy(&fact.data).into_owned(),
        }
    }

    /// `d 1777 0:0`; empty when it is not there.
    pub fn stat(&self, path: impl AsRef<[u8]>) -> String {
        let Some(Fact { meta, kind, .. }) = self.get(path) else {
            return String::new();
        };
        let kind = match kind {
            Kind::Dir => 'd',
            Kind::File { .. } | Kind::Sparse(_) => 'f',
            Kind::Symlink(_) => 'l',
            Kind::Link(_) => 'h',
            Kind::Special(Special::Char(_)) => 'c',
            Kind::Special(Special::Block(_)) => 'b',
            Kind::Special(Special::Fifo) => 'p',
        };
        format!("{kind} {:o} {}:{}", meta.mode, meta.uid, meta.gid)
    }

    pub fn target(&self, path: &str) -> String {
        match self.get(path).map(|fact| &fact.kind) {
            Some(Kind::Symlink(target)) => String::from_utf8_lossy(target).into_owned(),
            other => panic!("{path:?} is {other:?}"),
        }
    }

    pub fn xattr(&self, path: &str, name: &str) -> Option<&[u8]> {
        let value = self.get(path)?.meta.xattrs.get(name.as_bytes())?;
        Some(value)
    }

    /// Whether both are the same; says where they differ.
    pub fn assert_same(&self, expected: &Seen) {
        let paths = self.0.keys().chain(expected.0.keys());
        for path in paths {
            let (found, expected) = (self.0.get(path), expected.0.get(path));
            let same = found == expected;
            let brief = |fact: Option<&Fact>| {
                fact.map(|fact| {
                    let data = crate::Digest::of(&fact.data);
                    format!("{:?} {:?} {data}", fact.kind, fact.meta)
                })
            };
            let name = String::from_utf8_lossy(path);
            assert!(
                same,
                "{name:?}\n found    {:?}\n expected {:?}",
                brief(found),
                brief(expected)
            );
        }
    }
}

fn bare(path: &[u8]) -> Vec<u8> {
    let path = path.strip_prefix(b"./").unwrap_or(path);
    let path = path.strip_suffix(b"/").unwrap_or(path);
    if path == b"." {
        Vec::new()
    } else {
        path.to_vec()
    }
}

fn packed(disks: &[&Path]) -> Vec<u8> {
    let work = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    let script = format!("{MOUNT}{PACK}");
    command.args(["--mount", "sh", "-c", &script, "sh"]);
    output(command.arg(work.path()).args(disks))
}

/// A directory of this machine as a tar.
pub fn packed_directory(root: &Path) -> Vec<u8> {
    output(Command::new("sh").args(["-c", PACK]).current_dir(root))
}

pub fn output(command: &mut Command) -> Vec<u8> {
    command.env("PATH", crate::tool_path()).env("LC_ALL", "C");
    let done = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success(),
        "{command:?}: {}: {stderr}",
        done.status
    );
    done.stdout
}
