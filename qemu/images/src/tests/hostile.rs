//! Images from strangers: bounded in time, memory and disk, and refused by name.

use tar::EntryType;

use super::*;

#[test]
fn what_cannot_be_carried_over_is_refused_by_name() {
    let long = vec![b'n'; 256];
    let deep = b"a/".repeat(100_000);
    let entry = |path| Entry {
        path,
        ..Entry::default()
    };
    let value = vec![b'v'; 65_536];
    let large = [("user.large", &value[..])];
    let cases: Vec<(Tar, &[&str])> = vec![
        (Tar::default().add(entry(&long)), &["256 bytes", "255"]),
        (Tar::default().add(entry(&deep)), &["200000 bytes", "4095"]),
        (
            Tar::default().file("f", b"").file("f/g", b""),
            &["f/g", "\"f\"", "not a directory"],
        ),
        (
            Tar::default().hard_link("l", "gone"),
            &["\"l\"", "hard link", "\"gone\""],
        ),
        (
            Tar::default().dir("d", 0o755, (0, 0)).hard_link("l", "d"),
            &["\"l\"", "hard link to a directory"],
        ),
        (
            Tar::default()
                .symlink("a", "b")
                .symlink("b", "a")
                .file("a/f", b""),
            &["a/f", "symbolic links"],
        ),
        (
            Tar::default().file("a/..", b""),
            &["the root, which must be a directory"],
        ),
        (
            Tar::default().add(Entry {
                path: b"d",
                kind: EntryType::Char,
                device: (5000, 1),
                ..Entry::default()
            }),
            &["\"d\"", "5000:1"],
        ),
        (
            Tar::default().add(Entry {
                path: b"x",
                xattrs: &large,
                ..Entry::default()
            }),
            &["\"x\"", "user.large", "65536 bytes"],
        ),
        (
            Tar::default().add(Entry {
                path: b"l",
                kind: EntryType::Symlink,
                link: &[b'l'; 4096],
                ..Entry::default()
            }),
            &["\"l\"", "4096 bytes"],
        ),
        (
            Tar::default()
                .add(Entry {
                    path: b"q",
                    kind: EntryType::XGlobalHeader,
                    ..Entry::default()
                })
                .add(Entry {
                    path: b"\x1b[2Jcleared",
                    kind: EntryType::new(b'M'),
                    ..Entry::default()
                }),
            &["\\u{1b}[2Jcleared", "unknown type 'M'"],
        ),
        (
            Tar::default().add(Entry {
                path: b"s",
                pax: &[("GNU.sparse.map", "0,5,3,5"), ("GNU.sparse.size", "100")],
                data: &[1; 10],
                ..Entry::default()
            }),
            &["\"s\"", "contradicts itself"],
        ),
        (
            Tar::default().add(Entry {
                path: b"s",
                pax: &[
                    ("GNU.sparse.map", ""),
                    ("GNU.sparse.numblocks", "0"),
                    ("GNU.sparse.size", "9000000000000000000"),
                ],
                ..Entry::default()
            }),
            &["\"s\"", "16 TiB"],
        ),
    ];
    for (tar, parts) in cases {
        let error = Bench::refusal(&[tar.end()]);
        for part in parts {
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
        assert!(
            error.len() < 500 && !error.contains(['\n', '\x1b']),
            "{error:?}"
        );
    }
}

#[test]
fn broken_archives_are_refused() {
    let file = Tar::default().file("f", &[1; 5000]).end();
    let mut spoilt = file.clone();
    spoilt[0] ^= 1;
    let mut gap = Tar::default().file("f", b"x").end();
    gap.truncate(1024);
    gap.resize(1536, 0);
    gap.extend(Tar::default().file("g", b"x").end());
    let cases = [
        (file[..3000].to_vec(), "ends 2512 bytes before"),
        (file[..300].to_vec(), "ends within a header"),
        (vec![7; 4096], "checksum"),
        (spoilt, "checksum"),
        (gap, "empty block"),
    ];
    for (tar, part) in cases {
        let error = Bench::refusal(&[tar]);
        assert!(
            error.contains("a layer") && error.contains(part),
            "{error:?} lacks {part:?}"
        );
    }
}

#[test]
fn an_archive_may_end_with_the_last_byte_of_its_last_file() {
    let whole = Tar::default().file("f", b"abc").end();
    let bench = Bench::new();
    for end in [515, 600, 1024, 1536, 2048] {
        let disks = bench.disks(&[whole[..end].to_vec()]).unwrap();
        if can_see() {
            assert_eq!(Seen::of(&disks).text("f"), "abc", "{end}");
        }
    }
    let trailing = [whole, vec![9; 700]].concat();
    bench.disks(&[trailing]).unwrap();
}

#[test]
fn a_symlink_leads_nowhere_on_this_machine() {
    let bench = Bench::new();
    let target = bench.path("outside");
    std::fs::create_dir(&target).unwrap();
    let tar = Tar::default()
        .symlink("way", target.to_str().unwrap())
        .symlink("up", "../../../../../../../..")
        .file("way/out", b"kept in")
        .file("up/and/away", b"kept in");
    let path = bench.put("rootfs.tar", &tar.end());
    let image = bench.load(&path).unwrap();
    assert_eq!(sibling_names(&target), Vec::<String>::new());
    if can_see() {
        let seen = Seen::of(&image.layers);
        let inside = target.to_str().unwrap().trim_start_matches('/');
        assert_eq!(seen.text(&format!("{inside}/out")), "kept in");
        assert_eq!(seen.text("and/away"), "kept in");
    }
}

#[test]
fn a_deep_tree_costs_no_stack_and_a_sparse_bomb_no_disk() {
    use std::os::unix::fs::MetadataExt;
    // Each path through the link is within what Linux takes; the tree is far deeper.
    let mut tar = Tar::default().symlink("l0", ".");
    let step = "d/".repeat(1000);
    for n in 1..=60 {
        let end = format!("l{}/{step}", n - 1);
        tar = tar.dir(&end, 0o755, (0, 0));
        // within 40 links, as Linux has it
        let from = if n % 30 == 0 { String::from(".") } else { end };
        tar = tar.symlink(&format!("l{n}"), &from);
    }
    let tar = tar.add(Entry {
        path: b"bomb",
        pax: &[
            ("GNU.sparse.map", "4000000000000,3"),
            ("GNU.sparse.size", "8000000000000"),
        ],
        data: b"end",
        ..Entry::default()
    });
    let bench = Bench::new();
    let upper = Tar::default()
        .file("l20/x", b"x")
        .file("d/.wh.d", b"")
        .end();
    // fsck.erofs does not come to the end of such a tree.
    let disks = bench.unchecked(&[tar.end(), upper]).unwrap();
    let used = std::fs::metadata(&disks[0].path).unwrap().blocks() * 512;
    assert!(used < 32 << 20, "{used} bytes for a bomb");
}
