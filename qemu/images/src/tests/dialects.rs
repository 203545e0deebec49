//! Every dialect of tar, as GNU tar and others write them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use tar::EntryType;

use super::seen::{output, packed_directory};
use super::*;

/// A directory with what the oldest tar can hold already, and what only newer ones can.
fn directory(bench: &Bench, long: bool, sparse: bool) -> PathBuf {
    bench.put("root/dir/file", b"contents");
    let root = bench.path("root");
    fs::hard_link(root.join("dir/file"), root.join("dir/second")).unwrap();
    std::os::unix::fs::symlink("dir/file", root.join("link")).unwrap();
    bench.put("root/empty", b"");
    bench.put("root/block", &[1; 512]);
    if long {
        let deep = format!("{}/{}", "d".repeat(120), "e".repeat(120));
        bench.put(&format!("root/{deep}/{}", "f".repeat(150)), b"long");
        std::os::unix::fs::symlink(&deep, root.join("long")).unwrap();
        let hard = root.join(&deep).join("hard");
        fs::hard_link(root.join("dir/file"), hard).unwrap();
    }
    if sparse {
        // More pieces than fit into a header (4) and into a block after it (21).
        let file = File::create(root.join("many")).unwrap();
        file.set_len(8 << 20).unwrap();
        for at in 0..60u64 {
            file.write_all_at(&[at as u8 + 1; 5000], at * 100_000)
                .unwrap();
        }
        let file = File::create(root.join("hole")).unwrap();
        file.set_len(16 << 20).unwrap();
        file.write_all_at(b"in the middle", 8 << 20).unwrap();
        File::create(root.join("only a hole"))
            .unwrap()
            .set_len(100_000)
            .unwrap();
    }
    output(
        Command::new("sh")
            .args(["-c", "find . -exec touch -hd @1600000000 {} +"])
            .current_dir(&root),
    );
    root
}

#[test]
fn what_gnu_tar_writes_in_each_format() {
    let dialects: [(&[&str], bool, bool); 9] = [
        (&["--format=v7"], false, false),
        (&["--format=oldgnu"], true, false),
        (&["--format=gnu"], true, false),
        (&["--format=ustar"], false, false),
        (&["--format=pax"], true, false),
        (&["--format=gnu", "--sparse"], true, true),
        (
            &["--format=pax", "--sparse", "--sparse-version=0.0"],
            true,
            true,
        ),
        (
            &["--format=pax", "--sparse", "--sparse-version=0.1"],
            true,
            true,
        ),
        (
            &["--format=pax", "--sparse", "--sparse-version=1.0"],
            true,
            true,
        ),
    ];
    for (options, long, sparse) in dialects {
        let bench = Bench::new();
        let root = directory(&bench, long, sparse);
        let mut tar = Command::new("tar");
        tar.args(options).args(["--numeric-owner", "-cf", "-", "."]);
        let bytes = output(tar.current_dir(&root));
        let disks = bench
            .disks(&[bytes])
            .unwrap_or_else(|e| panic!("{options:?}: {e}"));
        if sparse {
            let bytes = disks[0].bytes;
            assert!(
                bytes < 2 << 20,
                "{options:?}: {bytes} bytes for files of 24 MiB with holes"
            );
        }
        if can_see() {
            let expected = Seen::read(&packed_directory(&root));
            Seen::of(&disks).assert_same(&expected);
        }
    }
}

#[test]
fn numbers_that_octal_digits_cannot_hold() {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..3].copy_from_slice(b"big");
    header.set_mode(0o600);
    header.set_uid(3_000_000_000);
    header.set_gid(4_294_967_294);
    // two's complement: a second before 1970
    header.as_old_mut().mtime = [0xff; 12];
    let mut tar = Tar::default();
    tar.raw(header, b"x");
    let bench = Bench::new();
    let disks = bench.disks(&[tar.end()]).unwrap();
    if can_see() {
        let seen = Seen::of(&disks);
        assert_eq!(seen.stat("big"), "f 600 3000000000:4294967294");
        assert_eq!(seen.get("big").unwrap().meta.mtime.seconds, -1);
    }
}

#[test]
fn pax_records_of_one_entry_and_of_all() {
    let global = Entry {
        path: b"pax_global_header",
        kind: EntryType::XGlobalHeader,
        data: b"30 mtime=1000000000.000000000\n21 path=never applied\n",
        ..Entry::default()
    };
    let local = Entry {
        path: b"short",
        pax: &[
            ("path", "from the record"),
            ("uid", "70000"),
            ("gid", "70001"),
            ("mtime", "1500000000.25"),
            ("comment", "nobody reads it"),
            ("size", "3"),
        ],
        data: b"abc",
        ..Entry::default()
    };
    // An empty value takes a record back.
    let taken_back = Entry {
        path: b"kept",
        pax: &[("path", "")],
        ..Entry::default()
    };
    let tar = Tar::default()
        .add(global)
        .add(local)
        .add(taken_back)
        .file("next", b"n");
    let bench = Bench::new();
    let disks = bench.disks(&[tar.end()]).unwrap();
    if can_see() {
        let seen = Seen::of(&disks);
        assert_eq!(seen.paths(), ["", "from the record", "kept", "next"]);
        assert_eq!(seen.stat("from the record"), "f 644 70000:70001");
        assert_eq!(seen.text("from the record"), "abc");
        let time = |path: &str| {
            let mtime = seen.get(path).unwrap().meta.mtime;
            (mtime.seconds, mtime.nanos)
        };
        assert_eq!(time("from the record"), (1_500_000_000, 250_000_000));
        // Docker, containerd and umoci pass global records over.
        assert_eq!(time("next"), (1_600_000_000, 0));
    }
}
