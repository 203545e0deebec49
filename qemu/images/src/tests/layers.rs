//! Layers above layers: what `umoci unpack` and Docker make of them.

use tar::EntryType;

use super::*;

/// A root as most images have it at the bottom.
fn base() -> Tar {
    Tar::default()
        .dir("tmp", 0o1777, (0, 0))
        .dir("home/app", 0o755, (1000, 1000))
        .dir("data", 0o700, (1000, 1000))
        .file("data/a", b"a")
        .dir("usr/lib", 0o755, (0, 0))
        .file("usr/lib/libc.so", b"libc")
        .symlink("lib", "usr/lib")
}

#[test]
fn a_directory_that_a_layer_does_not_list_stays_what_it_is() {
    let listed = Tar::default().add(Entry {
        path: b"data",
        kind: EntryType::Directory,
        mode: 0o700,
        owner: (1000, 1000),
        xattrs: &[("user.note", b"kept")],
        pax: &[("mtime", "1600000000.123456789")],
        ..Entry::default()
    });
    let upper = Tar::default()
        .file("tmp/x", b"x")
        .file("data/b", b"b")
        .file("home/app/c", b"c");
    let Some(seen) = merged(&[base(), listed, upper.clone(), upper]) else {
        return;
    };
    assert_eq!(seen.stat("tmp"), "d 1777 0:0");
    assert_eq!(seen.stat("data"), "d 700 1000:1000");
    assert_eq!(seen.stat("home/app"), "d 755 1000:1000");
    assert_eq!(seen.text("data/a") + &seen.text("data/b"), "ab");
    assert_eq!(seen.xattr("data", "user.note"), Some(&b"kept"[..]));
    let mtime = seen.get("data").unwrap().meta.mtime;
    assert_eq!((mtime.seconds, mtime.nanos), (1_600_000_000, 123_456_789));

    // The mark of an opaque directory lists it no more than a file does.
    let opaque = Tar::default()
        .file("data/.wh..wh..opq", b"")
        .file("data/b", b"b");
    let Some(seen) = merged(&[base(), opaque]) else {
        return;
    };
    assert_eq!(seen.stat("data"), "d 700 1000:1000");
    assert_eq!(
        (seen.stat("data/a"), seen.text("data/b")),
        (String::new(), "b".into())
    );
}

#[test]
fn a_path_goes_through_symbolic_links_of_any_layer() {
    let upper = Tar::default()
        .file("lib/new.so", b"new")
        .symlink("abs", "/usr/./lib")
        .file("abs/abs.so", b"abs")
        .symlink("usr/up", "../../../data")
        .file("usr/up/climbed", b"climbed")
        .symlink("lnk", "real")
        .file("lnk/f", b"made");
    let Some(seen) = merged(&[base(), upper]) else {
        return;
    };
    assert_eq!(seen.target("lib"), "usr/lib");
    for (path, text) in [
        ("usr/lib/libc.so", "libc"),
        ("usr/lib/new.so", "new"),
        ("usr/lib/abs.so", "abs"),
        ("data/climbed", "climbed"),
        ("real/f", "made"),
    ] {
        assert_eq!(seen.text(path), text, "{path}");
    }
    // The last name of a path is not followed.
    let replaced = Tar::default()
        .dir("lib", 0o711, (0, 0))
        .file("lib/own", b"own");
    let Some(seen) = merged(&[base(), replaced]) else {
        return;
    };
    assert_eq!(seen.stat("lib"), "d 711 0:0");
    assert_eq!(seen.text("lib/own"), "own");
    assert_eq!(seen.stat("usr/lib/own"), "");
}

#[test]
fn a_hard_link_names_files_of_this_layer_and_of_those_below() {
    let long = vec![7; 10_000];
    let bottom = base().file("long", &long).add(Entry {
        path: b"dev/null",
        kind: EntryType::Char,
        device: (1, 3),
        mode: 0o666,
        ..Entry::default()
    });
    let upper = Tar::default()
        .hard_link("b", "data/a")
        .hard_link("c", "b")
        .hard_link("same", "lib/libc.so")
        .hard_link("tmp/long", "/long")
        .hard_link("link", "lib")
        .hard_link("null", "dev/null");
    let Some(seen) = merged(&[bottom, upper]) else {
        return;
    };
    assert_eq!(
        seen.text("b") + &seen.text("c") + &seen.text("data/a"),
        "aaa"
    );
    // One file still: the first name of the three in the order of names has the contents.
    assert_eq!(seen.stat("c"), "h 644 0:0");
    assert_eq!(seen.stat("data/a"), "h 644 0:0");
    assert_eq!(seen.text("same"), "libc");
    assert_eq!(seen.text("tmp/long").as_bytes(), long);
    assert_eq!(seen.target("lib"), "usr/lib");
    assert_eq!(seen.stat("null"), "c 666 0:0");
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_of_their_own_layer() {
    let bottom = base()
        .file("gone/deep/x", b"x")
        .file("again/old", b"old")
        .file("late/old", b"old")
        .file("opaque/sub/old", b"old")
        .file("opaque/old", b"old")
        .file("etc/passwd", b"old");
    let upper = Tar::default()
        .file("etc/.wh.passwd", b"")
        // below a whited-out directory, before and after it
        .file("gone/deep/.wh.x", b"")
        .file(".wh.gone", b"")
        .file("gone/.wh.deep", b"")
        // made anew, before and after
        .file(".wh.again", b"")
        .file("again/new", b"new")
        .file("late/new", b"new")
        .file(".wh.late", b"")
        .file("opaque/sub/new", b"new")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/kept", b"kept")
        .file("data/a", b"of this layer")
        .file("data/.wh.a", b"")
        // through a link, of what is not there, and AUFS's own
        .file("lib/.wh.libc.so", b"")
        .file("nowhere/.wh.x", b"")
        .file("nowhere/.wh..wh..opq", b"")
        .file("tmp/.wh.none", b"")
        .file(".wh..wh.aufs", b"")
        .file(".wh..wh.orph/x", b"")
        .file(".wh..wh.plnk/12.34", b"plnk")
        .hard_link("one", ".wh..wh.plnk/12.34")
        .hard_link("two", ".wh..wh.plnk/12.34");
    let Some(seen) = merged(&[bottom.clone(), upper]) else {
        return;
    };
    let paths = seen.paths();
    let expected = [
        "",
        "again",
        "again/new",
        "data",
        "data/a",
        "etc",
        "home",
        "home/app",
        "late",
        "late/new",
        "lib",
        "one",
        "opaque",
        "opaque/kept",
        "opaque/sub",
        "opaque/sub/new",
        "tmp",
        "two",
        "usr",
        "usr/lib",
    ];
    assert_eq!(paths, expected);
    assert_eq!(seen.text("data/a"), "of this layer");
    assert_eq!(seen.text("two"), "plnk");

    let all = Tar::default()
        .file("etc/new", b"n")
        .file(".wh..wh..opq", b"")
        .file("x", b"x");
    let third = Tar::default().file("usr/y", b"y");
    let Some(seen) = merged(&[bottom, all, third]) else {
        return;
    };
    assert_eq!(seen.paths(), ["", "etc", "etc/new", "usr", "usr/y", "x"]);
}

#[test]
fn kinds_change_from_layer_to_layer() {
    let flip = |tar: Tar| {
        tar.file("x/inside", b"old")
            .file("y", b"file")
            .symlink("z", "data")
    };
    let upper = Tar::default()
        .file("x", b"now a file")
        .dir("y", 0o750, (1, 2))
        .file("z", b"now a file")
        .symlink("data", "tmp");
    let third = Tar::default()
        .dir("x", 0o755, (0, 0))
        .file("x/new", b"new")
        .file("data/t", b"t");
    let Some(seen) = merged(&[flip(base()), upper, third]) else {
        return;
    };
    assert_eq!(seen.stat("x/inside"), "");
    assert_eq!(seen.text("x/new"), "new");
    assert_eq!(seen.stat("y"), "d 750 1:2");
    assert_eq!(seen.text("z"), "now a file");
    assert_eq!(
        (seen.target("data"), seen.text("tmp/t")),
        ("tmp".into(), "t".into())
    );

    // Within one layer, a file between two directories cuts off what is below.
    let twice = Tar::default()
        .file("x", b"for a moment")
        .dir("x", 0o755, (0, 0))
        .file("x/new", b"new");
    let Some(seen) = merged(&[flip(base()), twice]) else {
        return;
    };
    assert_eq!(
        (seen.stat("x/inside"), seen.text("x/new")),
        (String::new(), "new".into())
    );
}
