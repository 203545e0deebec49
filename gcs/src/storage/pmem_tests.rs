use std::fs::File;

use super::super::failing::Failing;
use super::super::testing::{with_loop_device, Script, Tree};
use super::super::{ext4, mounts};
use super::*;
use crate::machine::uevent;

const MIB: u64 = 1 << 20;

/// Device 1 with an ext4 layer on it, and what asks for it.
fn with_layer(name: &str, body: impl FnOnce(&Tree, Pmem) + Send) {
    with_loop_device(name, "pmem1", |tree| {
        let device = File::options()
            .write(true)
            .open(tree.roots.dev.join("pmem1"))
            .unwrap();
        let stamp = ext4::Stamp {
            uuid: [1; 16],
            hash_seed: [2; 16],
            time: 0,
        };
        ext4::format(&device, 8 * MIB, &stamp, false).unwrap();
        drop(device);
        let pmem = Pmem {
            device: 1,
            mount_path: tree.path("run/layers/p1").to_str().unwrap().to_owned(),
            part: None,
            verified: false,
        };
        body(tree, pmem);
    });
}

fn add_now(kernel: &dyn Kernel, tree: &Tree, pmem: &Pmem) -> Result<MountRecord, Failure> {
    let expected = ExpectedPmem::new(&tree.roots, pmem.device);
    let added = add_with(kernel, &Journal::none(), &expected, pmem, Instant::now())?;
    added.ok_or_else(|| expected.missing(Duration::ZERO).expect("it is not there"))
}

#[test]
fn whatever_step_fails_everything_is_as_before() {
    with_layer("whatever_step_fails_pmem", |tree, whole| {
        let part = Part {
            offset: 0,
            size: 8 * MIB,
        };
        let mapped = Pmem {
            part: Some(part),
            ..whole.clone()
        };
        let before = tree.snapshot();
        for (pmem, expected) in [(whole, 4), (mapped, 8)] {
            let mut steps = 0;
            let (kernel, record) = loop {
                let kernel = Failing::at(steps);
                let added = add_now(&kernel, tree, &pmem);
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
            // Three directories, a mount; for a part also create, load, resume, node.
            assert_eq!(steps, expected);
            assert_eq!(
                (record.filesystem.as_str(), record.read_only),
                ("ext4", true)
            );
            for _ in 0..2 {
                mounts::remove_with(&kernel, &tree.roots, &pmem.mount_path, &record.mappings)
                    .unwrap();
                assert_eq!(kernel.tables(), []);
                assert!(!Path::new(&pmem.mount_path).exists());
            }
            std::fs::remove_dir_all(tree.path("run")).unwrap();
            assert_eq!(tree.snapshot(), before);
        }
    });
}

#[test]
fn a_device_that_says_dax_and_cannot_is_mounted_without() {
    with_layer("a_device_that_says_dax_and_cannot", |tree, pmem| {
        tree.sys_dir("block/pmem1/queue");
        std::fs::write(tree.roots.sys.join("block/pmem1/queue/dax"), "1\n").unwrap();
        let kernel = Failing::never();
        let record = add_now(&kernel, tree, &pmem).unwrap();
        assert_eq!(record.filesystem, "ext4");
        mounts::remove_with(&kernel, &tree.roots, &pmem.mount_path, &[]).unwrap();
    });
}

#[test]
fn a_part_is_a_linear_target_of_whole_sectors() {
    let linear = |offset, size| Linear::new(1, Part { offset, size });
    let part = linear(4096, MIB).unwrap();
    assert_eq!(part.name, "dm-linear-pmem1-4096-1048576");
    assert_eq!(part.sectors, 2048);
    assert_eq!(part.parameters(Path::new("/dev/pmem1")), "/dev/pmem1 8");
    for (offset, size) in [(0, 0), (1, 512), (0, 513)] {
        assert!(linear(offset, size).is_err(), "{offset} {size}");
    }
}

#[test]
fn a_late_device_is_found_by_its_event_and_a_missing_one_named() {
    let tree = Tree::new();
    let script = Script::default()
        .event("block", "/devices/x/block/pmem12", || {})
        .event("block", "/devices/x/block/pmem2", || tree.node("pmem2"));
    let device = ExpectedPmem::new(&tree.roots, 2);
    assert!(!device.is_announced());
    let found = uevent::wait_for(|| Ok(script), &device, Instant::now(), || device.look());
    assert_eq!(found, Ok(Some(tree.roots.dev.join("pmem2"))));
    assert!(device.is_announced() && device.missing(Duration::ZERO).is_none());
    let failure = ExpectedPmem::new(&tree.roots, 3).missing(Duration::ZERO);
    let failure = failure.expect("it is not there");
    assert!(failure.message.contains("pmem3"), "{failure}");
}

#[test]
fn a_part_is_not_verified_and_a_path_is_needed() {
    let tree = Tree::new();
    tree.node("pmem1");
    let before = tree.snapshot();
    let part = Some(Part {
        offset: 0,
        size: 512,
    });
    for (path, part, verified, word) in [("/m", part, true, "verified"), ("", None, false, "Path")]
    {
        let pmem = Pmem {
            device: 1,
            mount_path: path.into(),
            part,
            verified,
        };
        let failure = add_now(&Failing::never(), &tree, &pmem).unwrap_err();
        assert!(failure.message.contains(word), "{failure}");
    }
    assert_eq!(tree.snapshot(), before);
}

#[test]
fn a_whole_device_can_be_verified() {
    with_loop_device("a_whole_device_can_be_verified", "pmem1", |tree| {
        let digest = verity::testing::layer(&tree.roots.dev.join("pmem1"));
        let pmem = Pmem {
            device: 1,
            mount_path: tree.path("m").to_str().unwrap().to_owned(),
            part: None,
            verified: true,
        };
        let kernel = Failing::never();
        let record = add_now(&kernel, tree, &pmem).unwrap();
        assert_eq!(record.mappings, [format!("dm-verity-pmem1-{digest}")]);
        mounts::remove_with(&kernel, &tree.roots, &pmem.mount_path, &record.mappings).unwrap();
    });
}
