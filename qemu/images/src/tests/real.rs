//! Real images by Debian's own tools: the tree that Linux shows of our disks is the one that `umoci
//! unpack` makes of the same image.

use std::ffi::OsStr;

use super::seen::{output, packed_directory};
use super::*;

/// Whether these programs are there and may do their work; says loudly when not.
fn have(programs: &[&str]) -> bool {
    let found = |name: &&&str| {
        std::env::split_paths(&crate::tool_path()).any(|dir| dir.join(name).is_file())
    };
    match programs.iter().find(|name| !found(name)) {
        Some(name) => {
            eprintln!("SKIPPED: real images compared with umoci ({name} is not installed)");
            false
        }
        None => can_see(),
    }
}

struct Builder<'a> {
    bench: &'a Bench,
    layout: PathBuf,
}

impl<'a> Builder<'a> {
    /// An image without layers.
    fn new(bench: &'a Bench) -> Self {
        let layout = bench.path("layout");
        let builder = Builder { bench, layout };
        builder.umoci(&[
            "init".as_ref(),
            "--layout".as_ref(),
            builder.layout.as_os_str(),
        ]);
        builder.umoci(&["new".as_ref(), "--image".as_ref(), &builder.tag()]);
        builder
    }

    fn tag(&self) -> std::ffi::OsString {
        let mut tag = self.layout.clone().into_os_string();
        tag.push(":test");
        tag
    }

    fn umoci(&self, args: &[&OsStr]) {
        output(Command::new("umoci").args(args));
    }

    fn layer(&self, tar: &[u8]) {
        let tar = self.bench.put("layer.tar", tar);
        self.umoci(&[
            "raw".as_ref(),
            "add-layer".as_ref(),
            "--image".as_ref(),
            &self.tag(),
            tar.as_os_str(),
        ]);
    }

    /// Compares what Linux shows of our disks with what umoci unpacks.
    fn compare(&self) {
        let bundle = self.bench.path("bundle");
        self.umoci(&[
            "unpack".as_ref(),
            "--image".as_ref(),
            &self.tag(),
            bundle.as_os_str(),
        ]);
        let expected = Seen::read(&packed_directory(&bundle.join("rootfs")));
        let image = self.bench.load(&self.layout).unwrap();
        Seen::of(&image.layers).assert_same(&expected);
    }
}

#[test]
fn layers_of_every_kind_are_what_umoci_unpacks() {
    if !have(&["umoci"]) {
        return;
    }
    let bench = Bench::new();
    let image = Builder::new(&bench);
    let note: [(&str, &[u8]); 2] = [
        ("user.note", b"n"),
        (
            "security.capability",
            b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        ),
    ];
    let bottom = Tar::default()
        .dir(".", 0o755, (0, 0))
        .dir("tmp", 0o1777, (0, 0))
        .dir("data", 0o700, (1000, 1000))
        .file("data/a", b"a")
        .file("data/gone", b"a")
        .dir("usr", 0o755, (0, 0))
        .dir("usr/lib", 0o755, (0, 0))
        .file("usr/lib/libc.so", &[3; 70_000])
        .symlink("lib", "usr/lib")
        .dir("dev", 0o755, (0, 0))
        .add(Entry {
            path: b"dev/x",
            kind: tar::EntryType::Char,
            device: (511, 1_048_575),
            ..Entry::default()
        })
        .add(Entry {
            path: b"ping",
            xattrs: &note,
            data: b"p",
            mode: 0o4755,
            pax: &[("mtime", "1600000000.123456789")],
            ..Entry::default()
        })
        .dir("old", 0o755, (0, 0))
        .dir("old/sub", 0o755, (0, 0))
        .file("old/sub/x", b"x");
    let middle = Tar::default()
        .file("tmp/x", b"x")
        .file("data/b", b"b")
        .file("data/.wh.gone", b"")
        .file("lib/new.so", b"new")
        .hard_link("hard", "data/a")
        .hard_link("lib/hard.so", "lib/libc.so")
        .file("old/sub/.wh.x", b"")
        .file(".wh.old", b"")
        .file("Icon\r", b"1")
        .file("a\nb", b"2")
        .file("q/../b", b"b");
    let top = Tar::default()
        .file("data/.wh..wh..opq", b"")
        .file("data/new", b"new")
        .dir("tmp", 0o1770, (0, 5))
        .file("usr/lib/libc.so", b"replaced")
        .symlink("dev/null", "../ping");
    for tar in [bottom, middle, top] {
        image.layer(&tar.end());
    }
    image.compare();
}

/// Of this machine: small files, programs, links, owners.
const DEBIAN: &str = "etc usr/sbin";

#[test]
fn a_layer_of_this_debian_is_what_umoci_unpacks() {
    if !have(&["umoci", "dpkg"]) {
        return;
    }
    let bench = Bench::new();
    let image = Builder::new(&bench);
    // With the directories on the way, whose times umoci makes up otherwise.
    let way = "--no-recursion . usr --recursion";
    // 1: something changed meanwhile, which makes no difference to the archive.
    let pack = format!(
        "tar --format=pax --xattrs --numeric-owner -C / -cf - {way} {DEBIAN}; test $? -le 1"
    );
    image.layer(&output(Command::new("sh").args(["-c", &pack])));
    let upper = Tar::default()
        .file("usr/sbin/added", b"added")
        .file("etc/.wh.passwd", b"")
        .file("etc/alternatives/.wh..wh..opq", b"")
        .hard_link("usr/sbin/hard", "etc/hostname");
    image.layer(&upper.end());
    image.compare();
}
