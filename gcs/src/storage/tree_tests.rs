use std::fs;
use std::os::unix::fs::symlink;

use super::super::testing::in_mount_namespace;
use super::*;

#[test]
fn removes_files_links_and_directories_but_not_what_links_point_to() {
    let top = tempfile::tempdir().unwrap();
    let kept = top.path().join("kept");
    fs::create_dir(&kept).unwrap();
    fs::write(kept.join("data"), "x").unwrap();
    let gone = top.path().join("gone");
    fs::create_dir_all(gone.join("a/b/c")).unwrap();
    fs::write(gone.join("a/b/file"), "x").unwrap();
    symlink(&kept, gone.join("a/link")).unwrap();
    symlink("/nowhere", gone.join("dangling")).unwrap();
    for n in 0..300 {
        fs::create_dir(gone.join(format!("d{n}"))).unwrap();
        fs::write(gone.join(format!("d{n}/f")), "x").unwrap();
    }

    remove(&gone).unwrap();

    assert!(!gone.exists());
    assert_eq!(fs::read(kept.join("data")).unwrap(), b"x");
}

#[test]
fn the_last_component_is_not_followed() {
    let top = tempfile::tempdir().unwrap();
    let kept = top.path().join("kept");
    fs::create_dir(&kept).unwrap();
    let link = top.path().join("link");
    symlink(&kept, &link).unwrap();
    remove(&link).unwrap();
    assert!(kept.exists() && link.symlink_metadata().is_err());
}

#[test]
fn missing_and_empty_paths_are_a_success_and_the_root_is_refused() {
    let top = tempfile::tempdir().unwrap();
    remove(&top.path().join("no/such/path")).unwrap();
    remove(&top.path().join("none")).unwrap();
    remove(Path::new("")).unwrap();
    unmount_below(Path::new("")).unwrap();
    assert!(remove(Path::new("/")).is_err());
    assert!(remove(Path::new("/..")).is_err());
    assert!(remove(Path::new("relative")).is_err());
}

#[test]
fn depth_costs_no_descriptors() {
    let top = tempfile::tempdir().unwrap();
    let gone = top.path().join("deep");
    fs::create_dir(&gone).unwrap();
    let mut here = open(&gone, DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..1500 {
        nix::sys::stat::mkdirat(&here, "d", Mode::S_IRWXU).unwrap();
        here = nix::fcntl::openat(&here, "d", DIRECTORY, Mode::empty()).unwrap();
    }
    drop(here);
    remove(&gone).unwrap();
    assert!(!gone.exists());
}

#[test]
fn mounts_are_taken_away_first_and_their_data_stays() {
    in_mount_namespace("mounts_are_taken_away_first", || {
        use nix::mount::{mount, MsFlags};
        let top = tempfile::tempdir().unwrap();
        let kept = top.path().join("kept");
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("data"), "x").unwrap();
        let gone = top.path().join("gone");
        fs::create_dir_all(gone.join("bind/inner dir")).unwrap();
        let bind = |from: &Path, to: &Path| {
            mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        };
        bind(&kept, &gone.join("bind"));
        fs::create_dir(kept.join("deeper")).unwrap();
        bind(&kept, &gone.join("bind/deeper"));
        // Twice on one point, and on the tree itself.
        bind(&kept, &gone.join("bind"));
        bind(&gone, &gone);

        remove(&gone).unwrap();

        assert!(!gone.exists());
        assert_eq!(fs::read(kept.join("data")).unwrap(), b"x");
    });
}

#[test]
fn a_mount_that_stays_is_never_entered() {
    in_mount_namespace("a_mount_that_stays_is_never_entered", || {
        use nix::mount::{mount, MsFlags};
        let top = tempfile::tempdir().unwrap();
        let kept = top.path().join("kept");
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("data"), "x").unwrap();
        let gone = top.path().join("gone");
        fs::create_dir_all(gone.join("bind")).unwrap();
        mount(
            Some(&kept),
            &gone.join("bind"),
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .unwrap();
        let busy = fs::File::open(gone.join("bind/data")).unwrap();

        let failed = remove(&gone).unwrap_err();

        assert!(failed.message.contains("bind"), "{failed}");
        assert_eq!(fs::read(kept.join("data")).unwrap(), b"x");
        // Also without the first line of defence: the same device is another mount.
        let parent = open(top.path(), DIRECTORY, Mode::empty()).unwrap();
        let (_, error) = remove_at(parent, c"gone").unwrap_err();
        assert!(matches!(error, Errno::EXDEV | Errno::EBUSY), "{error}");
        assert_eq!(fs::read(kept.join("data")).unwrap(), b"x");
        drop(busy);
        remove(&gone).unwrap();
        assert!(!gone.exists());
    });
}
