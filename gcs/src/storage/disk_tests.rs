use std::fs;
use std::process::Command;

use super::super::testing::{in_mount_namespace, Failing, Script, Tree};
use super::super::tree;
use super::*;

/// A blank 16 MiB disk at controller 0 LUN 1, in a private mount namespace.
fn with_disk(name: &str, body: impl FnOnce(&Tree) + Send) {
    in_mount_namespace(name, || {
        let tree = Tree::new();
        let image = tree.path("image");
        fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let attached = Command::new("losetup")
            .arg("--find")
            .arg("--show")
            .arg(&image)
            .output();
        let device = match attached {
            Ok(output) if output.status.success() => {
                String::from_utf8(output.stdout).unwrap().trim().to_owned()
            }
            other => {
                println!("SKIPPED: {name}: no loop device: {other:?}");
                return;
            }
        };
        tree.sys_dir("bus/scsi/devices/0:0:0:1/block/sda");
        std::os::unix::fs::symlink(&device, tree.roots.dev.join("sda")).unwrap();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(&tree)));
        tree::unmount_below(&tree.path("")).unwrap();
        let detached = Command::new("losetup").arg("-d").arg(&device).status();
        assert!(detached.unwrap().success());
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

fn disk(tree: &Tree) -> Disk {
    Disk {
        lun: 1,
        mount_path: tree.path("run/mounts/m0").to_str().unwrap().to_owned(),
        ..Disk::default()
    }
}

fn formatted(tree: &Tree) -> Disk {
    Disk {
        ensure_filesystem: true,
        filesystem: "ext4".into(),
        ..disk(tree)
    }
}

fn add_now(kernel: &dyn Kernel, tree: &Tree, disk: &Disk) -> Result<Record, Failure> {
    let no_events = || Ok(Script::default());
    add_with(kernel, &tree.roots, no_events, disk, Instant::now())
}

/// The line of the mount table, or nothing.
fn mounted(path: &str) -> Option<String> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let found = table
        .lines()
        .find(|line| line.split(' ').nth(4) == Some(path));
    found.map(str::to_owned)
}

#[test]
fn a_blank_disk_is_formatted_once_and_keeps_its_data() {
    with_disk("a_blank_disk_is_formatted_once", |tree| {
        let disk = formatted(tree);
        let path = Path::new(&disk.mount_path);
        let record = add_now(&Linux, tree, &disk).unwrap();
        assert_eq!(record.mount_path.as_deref(), Some(path));
        assert_eq!(record.filesystem, "ext4");
        assert_eq!(record.device, Some(tree.roots.dev.join("sda")));
        fs::write(path.join("data"), "kept").unwrap();

        remove(&disk.mount_path).unwrap();
        assert!(!path.exists() && path.parent().unwrap().exists());

        add_now(&Linux, tree, &disk).unwrap();
        assert_eq!(fs::read(path.join("data")).unwrap(), b"kept");
        // The disk is gone from the tree: Remove does not need it (P-252).
        fs::remove_dir_all(tree.roots.sys.join("bus")).unwrap();
        remove(&disk.mount_path).unwrap();
        assert!(!path.exists());
        remove(&disk.mount_path).unwrap();
    });
}

#[test]
fn a_read_only_disk_is_mounted_without_its_journal() {
    with_disk("a_read_only_disk", |tree| {
        add_now(&Linux, tree, &formatted(tree)).unwrap();
        remove(&disk(tree).mount_path).unwrap();
        let disk = Disk {
            read_only: true,
            options: ["ro", "noexec", "rshared"].map(str::to_owned).to_vec(),
            ..disk(tree)
        };
        add_now(&Linux, tree, &disk).unwrap();
        let line = mounted(&disk.mount_path).unwrap();
        // Its own options, propagation, then those of the superblock.
        assert!(line.contains(" ro,relatime shared:"), "{line}");
        assert!(
            line.contains("norecovery") || line.contains("noload"),
            "{line}"
        );
        assert!(!line.contains("noexec"), "{line}");
        remove(&disk.mount_path).unwrap();
    });
}

#[test]
fn an_unknown_file_system_is_refused_and_the_directory_removed() {
    with_disk("an_unknown_file_system", |tree| {
        let before = tree.snapshot();
        let failure = add_now(&Linux, tree, &disk(tree)).unwrap_err();
        assert!(failure.message.contains("no file system"), "{failure}");
        for (filesystem, ensure_filesystem) in [("", true), ("btrfs", true), ("ext4", false)] {
            let disk = Disk {
                filesystem: filesystem.into(),
                ensure_filesystem,
                ..disk(tree)
            };
            assert!(add_now(&Linux, tree, &disk).is_err(), "{filesystem:?}");
        }
        assert_eq!(tree.snapshot(), before);
    });
}

#[test]
fn whatever_step_fails_everything_is_as_before() {
    with_disk("whatever_step_fails", |tree| {
        let disk = Disk {
            options: ["private", "shared"].map(str::to_owned).to_vec(),
            ..formatted(tree)
        };
        let before = tree.snapshot();
        // run, run/mounts, run/mounts/m0, format, mount, two propagations; after the step
        // that formats, a later run finds the file system and does not format.
        let mut steps = 0;
        loop {
            let kernel = Failing::at(steps);
            let added = add_now(&kernel, tree, &disk);
            if !kernel.failed() {
                added.unwrap();
                break;
            }
            let failure = added.unwrap_err();
            assert!(!failure.message.contains("not undone"), "{failure}");
            assert_eq!(tree.snapshot(), before, "step {steps}");
            steps += 1;
        }
        assert_eq!(steps, 6);
        remove(&disk.mount_path).unwrap();
    });
}

#[test]
fn a_disk_in_use_stays_and_a_directory_with_data_of_its_own_too() {
    with_disk("a_disk_in_use_stays", |tree| {
        let disk = formatted(tree);
        let path = Path::new(&disk.mount_path);
        fs::create_dir_all(path).unwrap();
        fs::write(path.join("below"), "kept").unwrap();
        add_now(&Linux, tree, &disk).unwrap();
        let busy = fs::File::create(path.join("open")).unwrap();
        let failure = remove(&disk.mount_path).unwrap_err();
        assert!(failure.message.contains("m0"), "{failure}");
        assert!(mounted(&disk.mount_path).is_some());
        drop(busy);
        remove(&disk.mount_path).unwrap();
        assert!(mounted(&disk.mount_path).is_none());
        assert_eq!(fs::read(path.join("below")).unwrap(), b"kept");
    });
}

#[test]
fn without_a_mount_path_only_the_disk_is_looked_for() {
    let tree = Tree::new();
    let mut disk = disk(&tree);
    disk.mount_path = String::new();
    let before = tree.snapshot();
    assert!(add_now(&Linux, &tree, &disk).is_err());
    disk.read_only = true;
    assert_eq!(add_now(&Linux, &tree, &disk).unwrap().device, None);
    disk.read_only = false;
    assert_eq!(tree.snapshot(), before);
    tree.disk(0, 1, "sda");
    let record = add_now(&Linux, &tree, &disk).unwrap();
    assert_eq!(
        (record.mount_path, record.device),
        (None, Some(tree.roots.dev.join("sda")))
    );
}

#[test]
fn what_this_guest_cannot_do_is_said() {
    let tree = Tree::new();
    tree.disk(0, 1, "sda");
    let before = tree.snapshot();
    let encrypted = Disk {
        encrypted: true,
        ..disk(&tree)
    };
    let relative = Disk {
        mount_path: "m0".into(),
        ..disk(&tree)
    };
    for (disk, word) in [(encrypted, "dm-crypt"), (relative, "absolute")] {
        let failure = add_now(&Linux, &tree, &disk).unwrap_err();
        assert!(failure.message.contains(word), "{failure}");
    }
    assert_eq!(tree.snapshot(), before);
    assert!(remove("relative").is_err());
    remove("").unwrap();
}

#[test]
fn a_disk_that_cannot_be_read_is_never_formatted() {
    let tree = Tree::new();
    // Reading a directory fails with an I/O error of its own.
    tree.sys_dir("bus/scsi/devices/0:0:0:1/block/sda");
    fs::create_dir(tree.roots.dev.join("sda")).unwrap();
    let before = tree.snapshot();
    let failure = add_now(&Linux, &tree, &formatted(&tree)).unwrap_err();
    assert!(failure.message.contains("cannot read"), "{failure}");
    assert_eq!(tree.snapshot(), before);
}
