//! Every kind of attach, with every one of its steps going wrong in every way: what is left is
//! what was there before.

use std::fs;
use std::path::Path;
use std::time::Instant;

use nix::sys::wait::{waitpid, WaitStatus};

use super::super::disk::Disk;
use super::super::failing::{Failing, Fault};
use super::super::layers::CombinedLayers;
use super::super::pmem::{Part, Pmem};
use super::super::testing::{in_mount_namespace, with_loop_device, Script, Tree};
use super::super::{disk, layers, pmem, verity};
use super::*;
use crate::sys::process;

/// How an attach is carried out.
type Attach<'a> = dyn Fn(&dyn Kernel, &Journal) -> Result<(), Failure> + 'a;

/// Lets each call fail, and kills the task before and after each. The number of calls.
fn spoil(tree: &Tree, kind: &str, attach: &Attach<'_>) -> usize {
    let before = tree.snapshot();
    let mut steps = 0;
    loop {
        let kernel = Failing::at(steps);
        let added = attach(&kernel, &Journal::none());
        if let Err(failure) = &added {
            assert!(!failure.message.contains("not undone"), "{failure}");
            assert!(kernel.failed(), "{kind}: {failure}");
            assert_eq!(tree.snapshot(), before, "{kind}: step {steps} failed");
        }
        let mut through = added.is_ok();
        for fault in [Fault::DiesBefore(steps), Fault::DiesAfter(steps)] {
            if through {
                break;
            }
            let journal = Journal::new().unwrap();
            let keep: Vec<_> = journal.fd().into_iter().collect();
            let task = process::fork_child(&keep, || {
                i32::from(attach(&Failing::with(fault), &journal).is_err())
            });
            match waitpid(task.unwrap(), None).unwrap() {
                WaitStatus::Signaled(..) => {}
                // A disk that an earlier task has formatted takes a step less.
                WaitStatus::Exited(_, 0) => through = true,
                other => panic!("{kind}: {fault:?}: {other:?}"),
            }
            replay_with(&Failing::never(), &journal).unwrap();
            assert_eq!(tree.snapshot(), before, "{kind}: {fault:?}");
        }
        if added.is_ok() {
            return steps;
        }
        if through {
            // Not attached in this process.
            attach(&Failing::never(), &Journal::none()).unwrap();
            return steps;
        }
        steps += 1;
    }
}

/// The same, and then what was attached is taken away.
fn spoil_and_remove(
    tree: &Tree,
    kind: &str,
    path: &str,
    attach: &dyn Fn(&dyn Kernel, &Journal) -> Result<super::super::MountRecord, Failure>,
) -> usize {
    let before = tree.snapshot();
    let record = std::cell::RefCell::new(None);
    let steps = spoil(tree, kind, &|kernel, journal| {
        let added = attach(kernel, journal)?;
        *record.borrow_mut() = Some(added);
        Ok(())
    });
    let record = record.into_inner().unwrap();
    assert_ne!(tree.snapshot(), before, "{kind}");
    for _ in 0..2 {
        let kernel = Failing::never();
        super::super::mounts::remove_with(&kernel, &tree.roots, path, &record.mappings).unwrap();
    }
    // Directories above the mount point stay, as with every host.
    for directory in Path::new(path).ancestors().skip(1) {
        if fs::remove_dir(directory).is_err() {
            break;
        }
    }
    assert_eq!(tree.snapshot(), before, "{kind} removed");
    steps
}

#[test]
fn disks() {
    with_loop_device("every_step_of_disks", "sda", |tree| {
        tree.sys_dir("bus/scsi/devices/0:0:0:1/block/sda");
        let path = tree.path("run/mounts/m0").to_str().unwrap().to_owned();
        let device = tree.roots.dev.join("sda");
        let plain = Disk {
            lun: 1,
            mount_path: path.clone(),
            filesystem: "ext4".into(),
            ensure_filesystem: true,
            ..Disk::default()
        };
        let blank = || fs::write(&device, [0; 4096]).unwrap();
        let layer = || drop(verity::testing::layer(&device));
        // Made ready how, what, and the least number of steps.
        let table: [(&str, &dyn Fn(), Disk, usize); 5] = [
            ("a blank disk", &blank, plain.clone(), 4),
            (
                "a disk with propagation",
                &|| {},
                Disk {
                    options: ["private", "shared"].map(str::to_owned).to_vec(),
                    ..plain.clone()
                },
                6,
            ),
            (
                "a block device",
                &|| {},
                Disk {
                    block_device: true,
                    ..plain.clone()
                },
                3,
            ),
            (
                "an encrypted disk",
                &|| {},
                Disk {
                    encrypted: true,
                    ..plain.clone()
                },
                19,
            ),
            (
                "a verified disk",
                &layer,
                Disk {
                    read_only: true,
                    verified: true,
                    filesystem: String::new(),
                    ensure_filesystem: false,
                    ..plain.clone()
                },
                8,
            ),
        ];
        for (kind, prepare, disk, least) in table {
            prepare();
            let steps = spoil_and_remove(tree, kind, &path, &|kernel, journal| {
                let none = || Ok(Script::default());
                let expected = disk::expected(&tree.roots, &disk)?.expect("it is looked for");
                let now = Instant::now();
                let added = disk::add_with(kernel, journal, &expected, none, &disk, now)?;
                Ok(added.expect("it is there"))
            });
            assert!(steps >= least, "{kind}: {steps} steps");
        }
    });
}

#[test]
fn persistent_memory() {
    with_loop_device("every_step_of_persistent_memory", "pmem1", |tree| {
        verity::testing::layer(&tree.roots.dev.join("pmem1"));
        let path = tree.path("run/layers/p1").to_str().unwrap().to_owned();
        let part = Part {
            offset: 0,
            size: 8 << 20,
        };
        for (kind, part, verified, least) in [
            ("a whole device", None, false, 4),
            ("a part", Some(part), false, 8),
            ("a verified device", None, true, 8),
        ] {
            let pmem = Pmem {
                device: 1,
                mount_path: path.clone(),
                part,
                verified,
            };
            let steps = spoil_and_remove(tree, kind, &path, &|kernel, journal| {
                let expected = pmem::ExpectedPmem::new(&tree.roots, 1);
                let added = pmem::add_with(kernel, journal, &expected, &pmem, Instant::now())?;
                Ok(added.expect("it is there"))
            });
            assert!(steps >= least, "{kind}: {steps} steps");
        }
    });
}

#[test]
fn combined_layers() {
    in_mount_namespace("every_step_of_layers", || {
        let tree = Tree::on_tmpfs();
        let layers = ["top", "bottom"].map(|layer| {
            let path = tree.path(layer);
            fs::create_dir(&path).unwrap();
            path
        });
        let root = tree.path("c/rootfs").to_str().unwrap().to_owned();
        let scratch = tree.path("scratch/c1").to_str().unwrap().to_owned();
        for (kind, layers, scratch, least) in [
            ("layers with a scratch", &layers[..], scratch.as_str(), 7),
            ("layers", &layers[..], "", 3),
            ("one layer", &layers[..1], "", 4),
        ] {
            let combined = CombinedLayers::new(&root, layers, scratch).unwrap();
            let steps = spoil(&tree, kind, &|kernel, journal| {
                layers::add_with(kernel, journal, &combined).map(drop)
            });
            assert!(steps >= least, "{kind}: {steps} steps");
            tree::remove(&tree.path("c")).unwrap();
            tree::remove(&tree.path("scratch")).unwrap();
        }
    });
}

/// What was mounted at the path before is not the killed task's to take away.
#[test]
fn an_earlier_mount_at_the_path_stays() {
    in_mount_namespace("an_earlier_mount_at_the_path_stays", || {
        let tree = Tree::on_tmpfs();
        let path = tree.path("m");
        fs::create_dir(&path).unwrap();
        let tmpfs = Mount {
            source: Path::new("tmpfs"),
            target: &path,
            kind: "tmpfs",
            flags: nix::mount::MsFlags::empty(),
            data: "",
        };
        Linux.mount(tmpfs).unwrap();
        fs::write(path.join("kept"), "").unwrap();
        let before = tree.snapshot();
        for fault in [Fault::DiesBefore(0), Fault::DiesAfter(0)] {
            let journal = Journal::new().unwrap();
            let keep: Vec<_> = journal.fd().into_iter().collect();
            let task = process::fork_child(&keep, || {
                let kernel = Failing::with(fault);
                let mounted = Undo::run(&kernel, &journal, |undo| {
                    undo.mount(tmpfs)
                        .map_err(|error| Failure::unspecified(error.to_string()))
                });
                i32::from(mounted.is_err())
            });
            let ended = waitpid(task.unwrap(), None).unwrap();
            assert!(matches!(ended, WaitStatus::Signaled(..)), "{ended:?}");
            replay(&journal).unwrap();
            assert_eq!(tree.snapshot(), before, "{fault:?}");
        }
    });
}
