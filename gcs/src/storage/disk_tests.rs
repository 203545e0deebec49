use std::fs;

use super::super::failing::Failing;
use super::super::testing::{in_mount_namespace, with_loop_device, Script, Tree};
use super::*;
use crate::machine::uevent::Device;

/// A blank 16 MiB disk at controller 0 LUN 1, in a private mount namespace.
fn with_disk(name: &str, body: impl FnOnce(&Tree) + Send) {
    with_loop_device(name, "sda", |tree| {
        tree.sys_dir("bus/scsi/devices/0:0:0:1/block/sda");
        body(tree);
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

fn add_now(kernel: &dyn Kernel, tree: &Tree, disk: &Disk) -> Result<MountRecord, Failure> {
    let no_events = || Ok(Script::default());
    let Some(expected) = expected(&tree.roots, disk)? else {
        panic!("{disk:?} is not looked for");
    };
    let (journal, now) = (Journal::none(), Instant::now());
    let added = add_with(kernel, &journal, &expected, no_events, disk, now)?;
    added.ok_or_else(|| expected.missing(Duration::ZERO).expect("it is not there"))
}

fn remove(tree: &Tree, path: &str) -> Result<(), Failure> {
    super::super::remove(&tree.roots, path, &[])
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

        remove(tree, &disk.mount_path).unwrap();
        assert!(!path.exists() && path.parent().unwrap().exists());

        add_now(&Linux, tree, &disk).unwrap();
        assert_eq!(fs::read(path.join("data")).unwrap(), b"kept");
        // The disk is gone from the tree: Remove does not need it (P-252).
        fs::remove_dir_all(tree.roots.sys.join("bus")).unwrap();
        remove(tree, &disk.mount_path).unwrap();
        assert!(!path.exists());
        remove(tree, &disk.mount_path).unwrap();
    });
}

#[test]
fn a_read_only_disk_is_mounted_without_its_journal() {
    with_disk("a_read_only_disk", |tree| {
        add_now(&Linux, tree, &formatted(tree)).unwrap();
        remove(tree, &disk(tree).mount_path).unwrap();
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
        remove(tree, &disk.mount_path).unwrap();
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
        remove(tree, &disk.mount_path).unwrap();
    });
}

/// Every step of an encrypted one: directories, three mapped devices, nodes, format, mount.
#[test]
fn whatever_step_fails_an_encrypted_disk_is_closed_again() {
    with_disk("whatever_step_fails_an_encrypted_disk", |tree| {
        let disk = Disk {
            encrypted: true,
            ..formatted(tree)
        };
        let before = tree.snapshot();
        let mut steps = 0;
        let (kernel, record) = loop {
            let kernel = Failing::at(steps);
            let added = add_now(&kernel, tree, &disk);
            if !kernel.failed() {
                kernel.heal();
                break (kernel, added.unwrap());
            }
            let failure = added.unwrap_err();
            assert!(!failure.message.contains("not undone"), "{failure}");
            assert_eq!(kernel.tables(), [], "step {steps}");
            assert_eq!(tree.snapshot(), before, "step {steps}");
            steps += 1;
        };
        // Twice 4 and the 2 that take one away again, 4 for the upper device, 3 directories,
        // format, mount.
        assert_eq!(steps, 19);
        let name = "dm-crypt-scsi-contr0-lun1-p0";
        assert_eq!(record.mappings, [format!("{name}_dif"), name.to_owned()]);
        // Without the disk, and by the record alone (P-253).
        fs::remove_dir_all(tree.roots.sys.join("bus")).unwrap();
        let path = &disk.mount_path;
        mounts::remove_with(&kernel, &tree.roots, path, &record.mappings).unwrap();
        assert_eq!(kernel.tables(), []);
        assert!(!Path::new(path).exists());
        mounts::remove_with(&kernel, &tree.roots, path, &record.mappings).unwrap();
    });
}

#[test]
fn a_verified_disk_is_mounted_through_its_hash_tree() {
    with_disk("a_verified_disk", |tree| {
        let digest = verity::testing::layer(&tree.roots.dev.join("sda"));
        let disk = Disk {
            read_only: true,
            verified: true,
            ..disk(tree)
        };
        let kernel = Failing::never();
        let record = add_now(&kernel, tree, &disk).unwrap();
        let name = format!("dm-verity-scsi-contr0-lun1-p0-{digest}");
        assert_eq!(record.mappings, [name]);
        let line = mounted(&disk.mount_path).unwrap();
        assert!(line.contains(" ro,"), "{line}");
        mounts::remove_with(&kernel, &tree.roots, &disk.mount_path, &record.mappings).unwrap();
        assert_eq!(kernel.tables(), []);
        // Writable disks have none.
        let writable = Disk {
            read_only: false,
            ..disk
        };
        assert_eq!(add_now(&kernel, tree, &writable).unwrap().mappings, [""; 0]);
        remove(tree, &writable.mount_path).unwrap();
    });
}

#[test]
fn a_block_device_is_a_link_and_not_a_mount() {
    let tree = Tree::new();
    tree.disk(0, 1, "sda");
    let disk = Disk {
        block_device: true,
        ..disk(&tree)
    };
    let before = tree.snapshot();
    for steps in 0..3 {
        assert!(
            add_now(&Failing::at(steps), &tree, &disk).is_err(),
            "{steps}"
        );
        assert_eq!(tree.snapshot(), before, "step {steps}");
    }
    add_now(&Linux, &tree, &disk).unwrap();
    let path = Path::new(&disk.mount_path);
    assert_eq!(fs::read_link(path).unwrap(), tree.roots.dev.join("sda"));
    remove(&tree, &disk.mount_path).unwrap();
    assert!(path.symlink_metadata().is_err());
    assert!(tree.roots.dev.join("sda").exists());
    remove(&tree, &disk.mount_path).unwrap();
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
        let failure = remove(tree, &disk.mount_path).unwrap_err();
        assert!(failure.message.contains("m0"), "{failure}");
        assert!(mounted(&disk.mount_path).is_some());
        drop(busy);
        remove(tree, &disk.mount_path).unwrap();
        assert!(mounted(&disk.mount_path).is_none());
        assert_eq!(fs::read(path.join("below")).unwrap(), b"kept");
    });
}

#[test]
fn mounts_on_top_of_each_other_are_all_taken_away() {
    in_mount_namespace("mounts_on_top_of_each_other", || {
        let tree = Tree::new();
        let path = tree.path("m");
        fs::create_dir(&path).unwrap();
        for _ in 0..3 {
            let mount = Mount {
                source: Path::new("tmpfs"),
                target: &path,
                kind: "tmpfs",
                flags: MsFlags::empty(),
                data: "",
            };
            Linux.mount(mount).unwrap();
        }
        remove(&tree, path.to_str().unwrap()).unwrap();
        assert!(!path.exists());
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
    assert!(expected(&tree.roots, &disk).unwrap().is_none());
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
        read_only: true,
        ..disk(&tree)
    };
    let relative = Disk {
        mount_path: "m0".into(),
        ..disk(&tree)
    };
    for (disk, word) in [(encrypted, "encrypted"), (relative, "absolute")] {
        let failure = add_now(&Linux, &tree, &disk).unwrap_err();
        assert!(failure.message.contains(word), "{failure}");
    }
    assert_eq!(tree.snapshot(), before);
    assert!(remove(&tree, "relative").is_err());
    remove(&tree, "").unwrap();
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
