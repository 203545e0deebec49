//! Names, kinds, attributes and contents of files.

use tar::EntryType;

use super::*;

#[test]
fn names_and_nodes_of_every_kind_arrive() {
    let names: [&[u8]; 7] = [
        b"Icon\r",
        b"a\nb",
        b"a b\"c\\<5>",
        b"\xff\xfe",
        b"-f",
        &[b'n'; 255],
        b"\x01!",
    ];
    let mut tar = Tar::default();
    for name in names {
        let path = [b"n/", name].concat();
        tar = tar.add(Entry {
            path: &path,
            data: name,
            ..Entry::default()
        });
    }
    let long = [b'l'; 4095];
    let tar = tar
        .add(Entry {
            path: b"dev1",
            kind: EntryType::Char,
            device: (511, 1_048_575),
            ..Entry::default()
        })
        .add(Entry {
            path: b"dev2",
            kind: EntryType::Block,
            device: (4095, 300),
            mode: 0o660,
            ..Entry::default()
        })
        .add(Entry {
            path: b"fifo",
            kind: EntryType::Fifo,
            mode: 0o600,
            ..Entry::default()
        })
        .add(Entry {
            path: b"long",
            kind: EntryType::Symlink,
            link: &long,
            ..Entry::default()
        })
        .file("a/../b", b"b")
        .file("../../c", b"c")
        .file("/etc/absolute", b"inside")
        .add(Entry {
            path: b"su",
            mode: 0o6755,
            owner: (100_000, 2_000_000_000),
            pax: &[("mtime", "-1.5")],
            data: b"setuid",
            ..Entry::default()
        });
    let Some(seen) = merged(&[tar]) else { return };
    for name in names {
        let path = [b"n/", name].concat();
        assert_eq!(seen.get(&path).unwrap().data, name);
    }
    let device = |path: &str| format!("{:?}", seen.get(path).unwrap().kind);
    assert!(
        device("dev1").contains("major: 511, minor: 1048575"),
        "{}",
        device("dev1")
    );
    assert!(
        device("dev2").contains("major: 4095, minor: 300"),
        "{}",
        device("dev2")
    );
    assert_eq!(seen.stat("fifo"), "p 600 0:0");
    assert_eq!(seen.target("long").as_bytes(), long);
    assert_eq!((seen.text("b"), seen.text("c")), ("b".into(), "c".into()));
    assert_eq!(seen.text("etc/absolute"), "inside");
    assert_eq!(seen.stat("su"), "f 6755 100000:2000000000");
    let mtime = seen.get("su").unwrap().meta.mtime;
    assert_eq!((mtime.seconds, mtime.nanos), (-2, 500_000_000));
}

#[test]
fn attributes_arrive_and_those_of_overlayfs_do_not() {
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let large = vec![b'v'; 60_000];
    let many: Vec<_> = (0..40)
        .map(|n| (format!("user.n{n}"), vec![n; 500]))
        .collect();
    let many: Vec<_> = many
        .iter()
        .map(|(name, value)| (&name[..], &value[..]))
        .collect();
    let with = |path, xattrs| Entry {
        path,
        xattrs,
        data: b"d",
        ..Entry::default()
    };
    let odd: [(&str, &[u8]); 7] = [
        ("security.capability", capability),
        ("user.a\nb", b"line\nbreak"),
        ("trusted.overlay.opaque", b"y"),
        ("trusted.overlay.redirect", b"/etc"),
        ("security.selinux", b"label"),
        ("com.apple.quarantine", b"q"),
        ("user.empty", b""),
    ];
    let large = [("user.large", &large[..])];
    let tar = Tar::default()
        .add(with(b"ping", &odd))
        .add(with(b"large", &large))
        .add(with(b"many", &many))
        .add(Entry {
            path: b"dir",
            kind: EntryType::Directory,
            mode: 0o755,
            xattrs: &odd,
            ..Entry::default()
        });
    let Some(seen) = merged(&[tar]) else { return };
    for path in ["ping", "dir"] {
        let names: Vec<_> = seen
            .get(path)
            .unwrap()
            .meta
            .xattrs
            .keys()
            .cloned()
            .collect();
        let names: Vec<_> = names
            .iter()
            .map(|name| String::from_utf8_lossy(name))
            .collect();
        assert_eq!(
            names,
            ["security.capability", "user.a\nb", "user.empty"],
            "{path}"
        );
        assert_eq!(
            seen.xattr(path, "security.capability"),
            Some(&capability[..])
        );
    }
    assert_eq!(
        seen.xattr("large", "user.large").map(<[u8]>::len),
        Some(60_000)
    );
    assert_eq!(seen.get("many").unwrap().meta.xattrs.len(), 40);
    assert_eq!(seen.xattr("many", "user.n39"), Some(&[39; 500][..]));
}

#[test]
fn contents_of_every_length_arrive() {
    let contents = |length: usize| -> Vec<u8> { (0..length).map(|i| (i * 7 / 5) as u8).collect() };
    // Around a block, around what is beside an inode, around the buffer, and zeros.
    let lengths = [
        0, 1, 4031, 4032, 4033, 4095, 4096, 4097, 8191, 300_000, 262_144, 1_000_003,
    ];
    let mut tar = Tar::default().file("zeros", &[0; 700_001]);
    for length in lengths {
        tar = tar.file(&format!("f{length}"), &contents(length));
    }
    for i in 0..3000 {
        tar = tar.file(&format!("many/{}{i}", "x".repeat(100)), b"small");
        tar = tar.hard_link(&format!("links/{}{i}", "y".repeat(200)), "f1");
    }
    let Some(seen) = merged(&[tar]) else { return };
    for length in lengths {
        assert!(
            seen.get(format!("f{length}")).unwrap().data == contents(length),
            "{length}"
        );
    }
    assert_eq!(seen.text("zeros").len(), 700_001);
    let many = |dir: &str| {
        seen.paths()
            .iter()
            .filter(|path| path.starts_with(dir))
            .count()
    };
    assert_eq!((many("many/"), many("links/")), (3000, 3000));
}
