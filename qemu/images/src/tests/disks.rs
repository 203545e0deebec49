//! One layer into one disk.

use std::os::unix::fs::MetadataExt;

use tar::EntryType;

use super::super::error::OciError;
use super::super::{load, tarball};
use super::*;

fn layer(bench: &Bench, tar: Vec<u8>) -> LayerDisk {
    let key = Digest::of(&tar).hex();
    let read =
        |staging: &Path| tarball::read("a layer", &tar[..], staging, tarball::Markers::Whiteouts);
    bench.cache.layer("a layer", &key, read).unwrap()
}

fn refusal(tar: Vec<u8>) -> String {
    let bench = Bench::new();
    let key = Digest::of(&tar).hex();
    let read =
        |staging: &Path| tarball::read("a layer", &tar[..], staging, tarball::Markers::Whiteouts);
    let error = bench.cache.layer("a layer", &key, read).unwrap_err();
    let left: Vec<_> = sibling_names(bench.cache.dir());
    assert!(
        left.iter().all(|name| name.ends_with(".lock")),
        "left behind: {left:?}"
    );
    error.to_string()
}

#[test]
fn metadata_of_every_kind_arrives() {
    if !have_tools() {
        return;
    }
    let deep = format!("deep/{}/{}", "d".repeat(200), "n".repeat(255));
    let entry = Entry::default;
    let tar = Tar::default()
        .add(Entry {
            path: b"./",
            kind: EntryType::Directory,
            mode: 0o750,
            owner: (5, 6),
            ..entry()
        })
        .add(Entry {
            path: b"bin/su",
            mode: 0o4755,
            owner: (0, 42),
            data: b"setuid",
            ..entry()
        })
        .add(Entry {
            path: b"bin/ping",
            data: b"p",
            xattrs: &[("security.capability", b"\x01\x00\n\x00\x02\x20=")],
            ..entry()
        })
        .add(Entry {
            path: b"tmp",
            kind: EntryType::Directory,
            mode: 0o1777,
            xattrs: &[("user.note", b"two words")],
            ..entry()
        })
        .add(Entry {
            path: b"home/me",
            kind: EntryType::Directory,
            mode: 0o2700,
            owner: (100_000, 2_000_000_000),
            ..entry()
        })
        .add(Entry {
            path: b"home/me/a b\"c\\<5>",
            data: b"odd name",
            owner: (100_000, 7),
            ..entry()
        })
        .add(Entry {
            path: b"<7>",
            kind: EntryType::Directory,
            mode: 0o755,
            ..entry()
        })
        .add(Entry {
            path: b"<7>/-f",
            data: b"dash",
            ..entry()
        })
        .add(Entry {
            path: b"zz",
            kind: EntryType::Link,
            link: b"/bin/su",
            ..entry()
        })
        .add(Entry {
            path: b"aa",
            kind: EntryType::Link,
            link: b"bin/su",
            ..entry()
        })
        .add(Entry {
            path: b"lib",
            kind: EntryType::Symlink,
            link: b"../usr lib/x",
            mode: 0o777,
            ..entry()
        })
        .add(Entry {
            path: b"long",
            kind: EntryType::Symlink,
            link: &[b'l'; 300],
            ..entry()
        })
        .add(Entry {
            path: b"dev/null",
            kind: EntryType::Char,
            device: (1, 3),
            mode: 0o666,
            ..entry()
        })
        .add(Entry {
            path: b"dev/sda",
            kind: EntryType::Block,
            device: (8, 300),
            mode: 0o660,
            ..entry()
        })
        .add(Entry {
            path: b"run/fifo",
            kind: EntryType::Fifo,
            mode: 0o600,
            ..entry()
        })
        .add(Entry {
            path: deep.as_bytes(),
            data: b"long name",
            ..entry()
        })
        .add(Entry {
            path: b"/etc/absolute",
            data: b"inside",
            ..entry()
        });
    let bench = Bench::new();
    let disk = layer(&bench, tar.end());

    let expected = [
        ("/", "directory 0750 5:6 10"),
        ("/bin/su", "regular 04755 0:42 3"),
        ("/zz", "regular 04755 0:42 3"),
        ("/aa", "regular 04755 0:42 3"),
        ("/tmp", "directory 01777 0:0 2"),
        ("/home/me", "directory 02700 100000:2000000000 2"),
        ("/home/me/a b\"\"c\\<5>", "regular 0644 100000:7 1"),
        ("/lib", "symlink 0777 0:0 1"),
        ("/dev/null", "character 0666 0:0 1"),
        ("/dev/sda", "block 0660 0:0 1"),
        ("/run/fifo", "FIFO 0600 0:0 1"),
        ("/bin", "directory 0755 0:0 2"),
        ("/lost+found", ""),
    ];
    for (path, about) in expected {
        assert_eq!(stat(&disk, path), about, "{path}");
    }
    assert_eq!(cat(&disk, "/bin/su"), "setuid");
    assert_eq!(cat(&disk, "/<7>/-f"), "dash");
    assert_eq!(cat(&disk, &format!("/{deep}")), "long name");
    assert_eq!(cat(&disk, "/etc/absolute"), "inside");
    assert_eq!(cat(&disk, "/home/me/a b\"\"c\\<5>"), "odd name");
    assert!(debugfs(&disk, "stat /dev/null").contains("Device major/minor number: 01:03"));
    assert!(
        debugfs(&disk, "stat /dev/sda").contains("(hex 08:12c)"),
        "{}",
        debugfs(&disk, "stat /dev/sda")
    );
    assert!(debugfs(&disk, "stat /lib").contains("\"../usr lib/x\""));
    assert_eq!(cat(&disk, "/long"), "l".repeat(300));
    assert!(debugfs(&disk, "stat /bin/su").contains("mtime: 0x5f5e1000"));
    assert_eq!(
        xattr(&disk, "/bin/ping", "security.capability").trim(),
        "security.capability (7) = \"\\001\\000\\n\\000\\002 =\""
    );
    assert!(debugfs(&disk, "ea_list /tmp").contains("user.note (9) = \"two words\""));
}

#[test]
fn whiteouts_become_what_overlayfs_reads() {
    if !have_tools() {
        return;
    }
    let dir = |path| Entry {
        path,
        kind: EntryType::Directory,
        mode: 0o755,
        ..Entry::default()
    };
    let tar = Tar::default()
        .file("etc/.wh.passwd", b"")
        .file("new/.wh..wh..opq", b"")
        .file("new/kept", b"k")
        .file(".wh.replaced", b"")
        .file("replaced", b"a file of this layer")
        .add(dir(b"again"))
        .file("again/inside", b"i")
        .file(".wh.again", b"")
        .file(".wh..wh.plnk/1.2", b"");
    let bench = Bench::new();
    let disk = layer(&bench, tar.end());
    assert_eq!(stat(&disk, "/etc/passwd"), "character 0000 0:0 1");
    assert!(debugfs(&disk, "stat /etc/passwd").contains("Device major/minor number: 00:00"));
    let opaque = "trusted.overlay.opaque (1) = \"y\"";
    assert!(debugfs(&disk, "ea_list /new").contains(opaque));
    assert!(debugfs(&disk, "ea_list /again").contains(opaque));
    assert!(!debugfs(&disk, "ea_list /etc").contains("opaque"));
    assert_eq!(cat(&disk, "/replaced"), "a file of this layer");
    assert_eq!(cat(&disk, "/again/inside"), "i");
    assert_eq!(cat(&disk, "/new/kept"), "k");
    assert!(
        !debugfs(&disk, "ls -p /").contains(".wh."),
        "{}",
        debugfs(&disk, "ls -p /")
    );
}

#[test]
fn sizes_follow_the_contents() {
    if !have_tools() {
        return;
    }
    let big: Vec<u8> = (0..20_000_000u32).map(|i| (i / 251) as u8).collect();
    let mut tar = Tar::default().file("big", &big);
    for i in 0..3000 {
        let name = format!("many/{}{i}", "x".repeat(100));
        tar = tar.file(&name, b"small");
        let link = format!("links/{}{i}", "y".repeat(200));
        let entry = Entry {
            path: link.as_bytes(),
            kind: EntryType::Link,
            link: b"big",
            ..Entry::default()
        };
        tar = tar.add(entry);
    }
    let bench = Bench::new();
    let disk = layer(&bench, tar.end());
    assert_eq!(stat(&disk, "/big"), "regular 0644 0:0 3001");
    let done = Command::new("debugfs")
        .args(["-R", "cat /big"])
        .arg(&disk.path)
        .env("PATH", super::super::ext4::tool_path())
        .output()
        .unwrap();
    assert_eq!(Digest::of(&done.stdout), Digest::of(&big));
    let content = 20_000_000 + 3000 * 4096;
    assert!(
        disk.bytes < content + content / 8,
        "{} bytes for {content}",
        disk.bytes
    );
    let used = std::fs::metadata(&disk.path).unwrap().blocks() * 512;
    assert!(used <= disk.bytes, "{used} of {}", disk.bytes);
}

#[test]
fn what_cannot_be_carried_over_is_refused_by_name() {
    if !have_tools() {
        return;
    }
    let long = vec![b'n'; 256];
    let cases: [(Vec<u8>, &[&str]); 9] = [
        (
            Tar::default().file("a/../../x", b"").end(),
            &["a layer", "a/../../x", "leaves the layer"],
        ),
        (
            Tar::default().file("../x", b"").end(),
            &["../x", "leaves the layer"],
        ),
        (
            Tar::default().file("a\nb", b"").end(),
            &["a\\nb", "line break"],
        ),
        (
            Tar::default()
                .add(Entry {
                    path: &long,
                    ..Entry::default()
                })
                .end(),
            &["256 bytes", "255"],
        ),
        (
            Tar::default().file("f", b"").file("f/g", b"").end(),
            &["f/g", "not a directory"],
        ),
        (
            Tar::default()
                .add(Entry {
                    path: b"l",
                    kind: EntryType::Link,
                    link: b"gone",
                    ..Entry::default()
                })
                .end(),
            &["\"l\"", "hard link", "\"gone\""],
        ),
        (
            Tar::default().file("f", &[1; 5000]).end()[..3000].to_vec(),
            &["a layer", "corrupt"],
        ),
        (vec![7; 4096], &["a layer", "is corrupt"]),
        (
            Tar::default()
                .add(Entry {
                    path: b"d",
                    kind: EntryType::Char,
                    device: (1, 70_000),
                    ..Entry::default()
                })
                .end(),
            &["\"/d\"", "1:70000"],
        ),
    ];
    for (tar, parts) in cases {
        let error = refusal(tar);
        for part in parts {
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
    }
}

#[test]
fn a_symlink_of_the_layer_leads_nowhere_on_the_host() {
    if !have_tools() {
        return;
    }
    let bench = Bench::new();
    let target = bench.path("outside");
    std::fs::create_dir(&target).unwrap();
    let link = target.as_os_str().as_encoded_bytes();
    let tar = Tar::default()
        .add(Entry {
            path: b"way",
            kind: EntryType::Symlink,
            link,
            ..Entry::default()
        })
        .file("way/out", b"escaped");
    let path = bench.put("rootfs.tar", &tar.end());
    let error = load(&path, &bench.cache).unwrap_err();
    assert!(matches!(error, OciError::Corrupt { .. }), "{error}");
    assert_eq!(sibling_names(&target), Vec::<String>::new());
}

#[test]
fn one_layer_is_made_once_by_many_at_the_same_time() {
    if !have_tools() {
        return;
    }
    let bench = Bench::new();
    let tar = Tar::default().file("f", b"x").end();
    let made = std::sync::atomic::AtomicUsize::new(0);
    let disks: Vec<_> = std::thread::scope(|scope| {
        let make = || {
            bench.cache.layer("a layer", "abc", |staging| {
                made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                tarball::read("a layer", &tar[..], staging, tarball::Markers::Plain)
            })
        };
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(make)).collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap().unwrap())
            .collect()
    });
    assert_eq!(made.into_inner(), 1);
    assert!(disks.iter().all(|d| *d == disks[0]));
    assert_eq!(
        sibling_names(bench.cache.dir()),
        ["abc.v1.ext4", "abc.v1.ext4.lock"]
    );
}

#[test]
fn what_a_killed_maker_left_is_swept() {
    if !have_tools() {
        return;
    }
    let bench = Bench::new();
    let stale = bench.cache.dir().join("abc.v1.ext4.making");
    std::fs::create_dir(&stale).unwrap();
    std::fs::write(stale.join("disk"), b"half a disk").unwrap();
    let tar = Tar::default().file("f", b"whole").end();
    let read =
        |staging: &Path| tarball::read("a layer", &tar[..], staging, tarball::Markers::Plain);
    let disk = bench.cache.layer("a layer", "abc", read).unwrap();
    assert_eq!(cat(&disk, "/f"), "whole");
    assert!(!stale.exists());
}

#[test]
fn a_scratch_disk_is_formatted_sparse_and_its_own() {
    if !have_tools() {
        return;
    }
    let bench = Bench::new();
    let (one, two) = (bench.path("one"), bench.path("two"));
    bench.cache.scratch(crate::SCRATCH_BYTES, &one).unwrap();
    std::fs::write(&one, b"spoilt").unwrap();
    bench.cache.scratch(crate::SCRATCH_BYTES, &two).unwrap();
    let about = std::fs::metadata(&two).unwrap();
    assert_eq!(about.len(), 1 << 30);
    assert!(about.blocks() * 512 < 64 << 20, "{} blocks", about.blocks());
    let disk = LayerDisk {
        path: two,
        digest: String::new(),
        bytes: 0,
    };
    let about = debugfs(&disk, "show_super_stats -h");
    let features = about
        .lines()
        .find(|l| l.starts_with("Filesystem features"))
        .unwrap();
    assert!(features.contains("sparse_super2"), "{features}");
    assert!(
        !features.contains("has_journal") && !features.contains("resize_inode"),
        "{features}"
    );
}
