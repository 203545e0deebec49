use std::time::Instant;

use super::super::testing::{Script, Tree};
use super::*;
use crate::machine::uevent;

const HOST_2_LUN_3: Address = Address {
    host: 2,
    lun: 3,
    partition: 0,
};

fn expected(tree: &Tree, address: Address) -> ExpectedDisk {
    ExpectedDisk {
        roots: tree.roots.clone(),
        address,
        source: Source::Disk {
            controller: 0,
            lun: address.lun,
            partition: address.partition,
        },
    }
}

/// The disk as an arrival finds it: by these events, and a last look.
fn find(tree: &Tree, address: Address, events: Script<'_>) -> Result<PathBuf, Failure> {
    let disk = expected(tree, address);
    let found = uevent::wait_for(|| Ok(events), &disk, Instant::now(), || disk.look())?;
    found.ok_or_else(|| disk.missing(Duration::ZERO).expect("it is not there"))
}

#[test]
fn without_vmbus_the_index_is_the_host_number() {
    let tree = Tree::new();
    for index in 0..4 {
        assert_eq!(host_number(&tree.roots, index), Ok(u32::from(index)));
    }
    let failure = host_number(&tree.roots, 4).unwrap_err();
    assert!(failure.message.contains("controller 4"), "{failure}");
}

#[test]
fn with_vmbus_the_instance_tells_the_host_number() {
    let tree = Tree::new();
    let vmbus = "bus/vmbus/devices";
    tree.sys_dir(&format!("{vmbus}/{}/host7", CONTROLLERS[0]));
    tree.sys_dir(&format!("{vmbus}/{}/power", CONTROLLERS[0]));
    tree.sys_dir(&format!("{vmbus}/{}/power", CONTROLLERS[1]));
    assert_eq!(host_number(&tree.roots, 0), Ok(7));
    // Known but without a SCSI host; and not there while another is.
    for absent in [1, 2] {
        let failure = host_number(&tree.roots, absent).unwrap_err();
        assert!(failure.message.contains(CONTROLLERS[usize::from(absent)]));
    }
}

#[test]
fn a_present_disk_is_found_without_a_subscription() {
    let tree = Tree::new();
    tree.disk(2, 3, "sdc");
    let disk = expected(&tree, HOST_2_LUN_3);
    assert!(disk.is_announced());
    assert_eq!(disk.look(), Ok(Some(tree.roots.dev.join("sdc"))));
    assert_eq!(disk.missing(Duration::ZERO), None);
}

#[test]
fn a_disk_without_a_size_is_asked_again_and_not_used() {
    let tree = Tree::new();
    tree.disk(2, 3, "sdc");
    let device = tree.roots.sys.join("bus/scsi/devices/2:0:0:3");
    fs::write(device.join("block/sdc/size"), "0\n").unwrap();
    assert_eq!(HOST_2_LUN_3.look(&tree.roots), Ok(None));
    fs::write(device.join("rescan"), "").unwrap();
    assert_eq!(HOST_2_LUN_3.look(&tree.roots), Ok(None));
    assert_eq!(fs::read(device.join("rescan")).unwrap(), b"1");
    fs::write(device.join("block/sdc/size"), "8\n").unwrap();
    let found = HOST_2_LUN_3.look(&tree.roots);
    assert_eq!(found, Ok(Some(tree.roots.dev.join("sdc"))));
}

#[test]
fn a_late_disk_is_found_by_its_event() {
    let tree = Tree::new();
    let events = Script::default()
        .event("net", "/devices/virtual/net/lo", || {})
        .event("block", "/devices/x/2:0:0:3/block/sdc", || {
            tree.sys_dir("bus/scsi/devices/2:0:0:3/block/sdc");
        })
        // The node comes with a later event.
        .event("block", "/devices/x/2:0:0:3/block/sdc", || tree.node("sdc"));
    assert!(!expected(&tree, HOST_2_LUN_3).is_announced());
    let found = find(&tree, HOST_2_LUN_3, events);
    assert_eq!(found, Ok(tree.roots.dev.join("sdc")));
}

#[test]
fn a_partition_is_waited_for_too() {
    let tree = Tree::new();
    tree.disk(2, 3, "sdc");
    let address = Address {
        partition: 2,
        ..HOST_2_LUN_3
    };
    let events = Script::default().event("block", "/devices/x/2:0:0:3/block/sdc/sdc2", || {
        tree.sys_dir("bus/scsi/devices/2:0:0:3/block/sdc/sdc2");
        tree.node("sdc2");
    });
    let found = find(&tree, address, events);
    assert_eq!(found, Ok(tree.roots.dev.join("sdc2")));
    let address = Address {
        partition: 9,
        ..address
    };
    let failure = find(&tree, address, Script::default()).unwrap_err();
    assert!(failure.message.contains("partition 9"), "{failure}");
}

#[test]
fn a_disk_that_never_comes_and_an_ambiguous_one_are_errors() {
    let tree = Tree::new();
    let failure = find(&tree, HOST_2_LUN_3, Script::default()).unwrap_err();
    assert!(failure.message.contains("2:0:0:3"), "{failure}");

    tree.disk(2, 3, "sdc");
    tree.disk(2, 3, "sdd");
    let failure = find(&tree, HOST_2_LUN_3, Script::default()).unwrap_err();
    assert!(failure.message.contains("sdc, sdd"), "{failure}");
}

#[test]
fn only_events_of_the_address_match() {
    let disk = expected(&Tree::new(), HOST_2_LUN_3);
    for (devpath, subsystem, expected) in [
        ("/devices/a/2:0:0:3/block/sdc", "block", true),
        ("/devices/a/2:0:0:3/block/sdc/sdc1", "block", true),
        ("/devices/a/12:0:0:3/block/sdc", "block", false),
        ("/devices/a/2:0:0:31/block/sdc", "block", false),
        (
            "/devices/a/2:0:0:3/scsi_device/2:0:0:3",
            "scsi_device",
            false,
        ),
        ("/devices/virtual/block/loop0", "block", false),
    ] {
        let event = Uevent {
            action: "add".into(),
            devpath: devpath.into(),
            subsystem: subsystem.into(),
        };
        assert_eq!(disk.is_match(&event), expected, "{devpath}");
    }
}

#[test]
fn detaching_writes_the_delete_file_and_never_creates_one() {
    let tree = Tree::new();
    tree.sys_dir("bus/scsi/devices/1:0:0:5");
    let delete = tree.roots.sys.join("bus/scsi/devices/1:0:0:5/delete");
    remove(&tree.roots, 1, 5).unwrap();
    remove(&tree.roots, 1, 6).unwrap();
    assert!(!delete.exists());
    fs::write(&delete, "").unwrap();
    remove(&tree.roots, 1, 5).unwrap();
    assert_eq!(fs::read(&delete).unwrap(), b"1\n");
    assert!(remove(&tree.roots, 4, 5).is_err());
}
