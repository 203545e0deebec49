//! Attaches that are refused, by resource.

use serde_json::{json, Value};

pub const DISK: &str = "MappedVirtualDisk";
const PMEM: &str = "VPMemDevice";
const LAYERS: &str = "CombinedLayers";
const SHARE: &str = "MappedDirectory";

/// A resource, its settings, and a part of the refusal.
pub type Refused = (&'static str, Value, &'static str);

/// Where nothing is ever mounted.
pub const AT: &str = "/run/x/y";

/// Disks by their LUNs: one without file system, a tiny one, and one with a magic number only.
pub fn disks(blank: u8, tiny: u8, broken: u8) -> Vec<Refused> {
    vec![
        // No device; no directory; no file system; none that it knows; none that is sound.
        (DISK, json!({"MountPath": AT, "Lun": 60}), "no disk"),
        (
            DISK,
            json!({"MountPath": "/run/file/y", "Lun": blank, "EnsureFilesystem": true,
                "Filesystem": "ext4"}),
            "/run/file",
        ),
        (
            DISK,
            json!({"MountPath": AT, "Lun": blank}),
            "no file system",
        ),
        (
            DISK,
            json!({"MountPath": AT, "Lun": blank, "EnsureFilesystem": true,
                "Filesystem": "btrfs"}),
            "btrfs",
        ),
        (
            DISK,
            json!({"MountPath": AT, "Lun": broken}),
            "cannot mount",
        ),
        (
            DISK,
            json!({"MountPath": "/run/file", "Lun": blank, "BlockDev": true}),
            "cannot make the link",
        ),
        // The lower mapped device; its mount, when both are there.
        (
            DISK,
            json!({"MountPath": AT, "Lun": tiny, "Encrypted": true, "Filesystem": "ext4",
                "EnsureFilesystem": true}),
            "integrity device",
        ),
        (
            DISK,
            json!({"MountPath": AT, "Lun": blank, "Encrypted": true, "Filesystem": "ext4"}),
            "cannot mount",
        ),
    ]
}

/// Parts of the one device.
pub fn pmem() -> Vec<Refused> {
    let whole = json!({"DeviceOffsetInBytes": 0, "DeviceSizeInBytes": 32 << 20});
    let middle = json!({"DeviceOffsetInBytes": 8 << 20, "DeviceSizeInBytes": 4 << 20});
    vec![
        // No device; a part that is not there; one without a file system.
        (PMEM, json!({"MountPath": AT, "DeviceNumber": 9}), "pmem9"),
        (
            PMEM,
            json!({"MountPath": AT, "DeviceNumber": 0, "MappingInfo": whole}),
            "cannot set up the linear device",
        ),
        (
            PMEM,
            json!({"MountPath": AT, "DeviceNumber": 0, "MappingInfo": middle}),
            "cannot mount",
        ),
    ]
}

/// With an overlay at `/run/base`.
pub fn layers() -> Vec<Refused> {
    let paths = |layers: &[&str]| -> Vec<Value> {
        layers.iter().map(|path| json!({"Path": path})).collect()
    };
    vec![
        // No layer; no place for changes; one in which an overlay cannot keep them.
        (
            LAYERS,
            json!({"ContainerRootPath": AT, "Layers": paths(&["/run/l1", "/run/none"]),
                "ScratchPath": "/run/s"}),
            "/run/none",
        ),
        (
            LAYERS,
            json!({"ContainerRootPath": AT, "Layers": paths(&["/run/l1", "/run/l2"]),
                "ScratchPath": "/run/file/s"}),
            "/run/file",
        ),
        (
            LAYERS,
            json!({"ContainerRootPath": AT, "Layers": paths(&["/run/l1", "/run/l2"]),
                "ScratchPath": "/run/base/s"}),
            "cannot mount 2 layers",
        ),
        (
            LAYERS,
            json!({"ContainerRootPath": "/run/base", "Layers": paths(&["/run/l1"])}),
            "already has combined layers",
        ),
    ]
}

/// With a server at port 564.
pub fn shares() -> Vec<Refused> {
    vec![
        // Nobody there; one who hangs up at the first word.
        (SHARE, json!({"MountPath": AT, "Port": 99}), AT),
        (SHARE, json!({"MountPath": AT, "Port": 564}), "cannot mount"),
    ]
}
