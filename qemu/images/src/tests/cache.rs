//! Disks are made once, whole or not at all.

use std::os::unix::fs::MetadataExt;

use super::*;

#[test]
fn one_layer_is_made_once_by_many_at_the_same_time() {
    let bench = Bench::new();
    let tar = Tar::default().file("f", b"x").end();
    let made = std::sync::atomic::AtomicUsize::new(0);
    let disks: Vec<_> = std::thread::scope(|scope| {
        let make = || {
            bench.cache.layer("a layer", "abc", &[], |layer| {
                made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                tarball::read("a layer", &tar[..], Markers::Plain, layer)
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
        ["abc.v2.erofs", "abc.v2.erofs.lock"]
    );
}

#[test]
fn what_a_killed_maker_left_is_swept() {
    let bench = Bench::new();
    let stale = bench.cache.dir().join("abc.v2.erofs.making");
    std::fs::create_dir(&stale).unwrap();
    std::fs::write(stale.join("disk"), b"half a disk").unwrap();
    let tar = Tar::default().file("f", b"whole").end();
    let read = |layer: &mut Builder| tarball::read("a layer", &tar[..], Markers::Plain, layer);
    let disk = bench.cache.layer("a layer", "abc", &[], read).unwrap();
    assert!(!stale.exists());
    if can_see() {
        assert_eq!(Seen::of(&[disk]).text("f"), "whole");
    }
}

#[test]
fn a_scratch_disk_is_formatted_sparse_and_its_own() {
    if std::env::split_paths(&crate::tool_path()).all(|dir| !dir.join("mkfs.ext4").exists()) {
        return eprintln!("SKIPPED: mkfs.ext4 is not installed (Debian: e2fsprogs)");
    }
    let bench = Bench::new();
    let (one, two) = (bench.path("one"), bench.path("two"));
    bench.cache.scratch(crate::SCRATCH_BYTES, &one).unwrap();
    std::fs::write(&one, b"spoilt").unwrap();
    bench.cache.scratch(crate::SCRATCH_BYTES, &two).unwrap();
    let about = std::fs::metadata(&two).unwrap();
    assert_eq!(about.len(), 1 << 30);
    assert!(about.blocks() * 512 < 64 << 20, "{} blocks", about.blocks());
    let about = Command::new("dumpe2fs")
        .arg("-h")
        .arg(&two)
        .env("PATH", crate::tool_path())
        .output()
        .unwrap();
    let about = String::from_utf8_lossy(&about.stdout);
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
