use nix::sys::stat::{makedev, mknod, Mode, SFlag};

use super::*;
use crate::bundle::testing::{workload, TestBundle};

/// A `/dev` with nodes of every kind; none where nodes cannot be made.
fn populate(dev: &Path, test: &str) -> bool {
    for dir in ["net", "pts", "shm", "mqueue", "input"] {
        fs::create_dir_all(dev.join(dir)).unwrap();
    }
    let node = |name: &str, kind: SFlag, major, minor| {
        mknod(
            &dev.join(name),
            kind,
            Mode::from_bits_truncate(0o640),
            makedev(major, minor),
        )
    };
    if let Err(error) = node("null", SFlag::S_IFCHR, 1, 3) {
        println!("SKIPPED: {test}: cannot make device nodes ({error}); run as root");
        return false;
    }
    for (name, kind, major, minor) in [
        ("console", SFlag::S_IFCHR, 5, 1),
        ("net/tun", SFlag::S_IFCHR, 10, 200),
        ("input/console", SFlag::S_IFCHR, 13, 1),
        ("pts/0", SFlag::S_IFCHR, 136, 0),
        ("shm/x", SFlag::S_IFCHR, 1, 5),
        ("mqueue/x", SFlag::S_IFCHR, 1, 5),
        ("gone", SFlag::S_IFCHR, 0, 0),
        ("pipe", SFlag::S_IFIFO, 0, 0),
        ("sda", SFlag::S_IFBLK, 8, 0),
    ] {
        node(name, kind, major, minor).unwrap();
    }
    fs::write(dev.join("file"), "").unwrap();
    std::os::unix::fs::symlink("sda", dev.join("disk")).unwrap();
    true
}

fn device(path: &str, kind: &str, major: u64, minor: u64) -> Value {
    json!({"path": path, "type": kind, "major": major, "minor": minor, "uid": 0, "gid": 0})
}

#[test]
fn a_privileged_container_has_every_device_and_no_limits() {
    let place = TestBundle::new();
    if !populate(
        &place.context.roots.dev,
        "a_privileged_container_has_every_device",
    ) {
        return;
    }
    for text in ["true", "TRUE"] {
        let mut spec = workload();
        spec["annotations"]["io.microsoft.virtualmachine.lcow.privileged"] = json!(text);
        let own = json!({"path": "/dev/own", "type": "c", "major": 7, "minor": 8, "fileMode": 1});
        spec["linux"] = json!({
            "devices": [own, {"path": "/dev/null", "type": "b", "major": 99, "minor": 99}],
            "resources": {"devices": [{"allow": false, "access": "rwm"}], "cpu": {"shares": 7}},
        });
        let linux = &place.prepare("one", &spec).unwrap().config["linux"];
        assert_eq!(
            linux["devices"],
            json!([
                own,
                device("/dev/null", "c", 1, 3),
                device("/dev/net/tun", "c", 10, 200),
                device("/dev/sda", "b", 8, 0),
            ])
        );
        assert_eq!(
            linux["resources"],
            json!({"devices": [{"allow": true, "access": "rwm"}], "cpu": {"shares": 7}})
        );
    }
}

#[test]
fn of_an_ordinary_device_only_the_path_is_believed() {
    let place = TestBundle::new();
    let dev = &place.context.roots.dev;
    if !populate(dev, "of_an_ordinary_device_only_the_path_is_believed") {
        return;
    }
    let at = |name: &str| dev.join(name).to_str().unwrap().to_owned();
    let mut spec = workload();
    // The kind of the container is decided by true alone.
    spec["annotations"]["io.microsoft.virtualmachine.lcow.privileged"] = json!("yes");
    spec["linux"] = json!({"devices": [
        {"path": at("sda"), "type": "c", "major": 1, "minor": 1, "fileMode": 511, "uid": 5},
        {"path": at("pipe"), "type": "p"},
        {"path": at("null")},
        {"path": at("sda")},
    ]});
    let linux = &place.prepare("one", &spec).unwrap().config["linux"];
    assert_eq!(
        linux["devices"],
        json!([
            device(&at("sda"), "b", 8, 0),
            device(&at("null"), "c", 1, 3)
        ])
    );
    assert_eq!(
        linux["resources"]["devices"],
        json!([
            {"allow": true, "type": "b", "major": 8, "minor": 0, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
        ])
    );
    for name in ["disk", "file", "net", "missing"] {
        spec["linux"] = json!({"devices": [{"path": at(name)}]});
        let failure = place.prepare("one", &spec).unwrap_err();
        assert!(failure.message.contains(name), "{failure}");
    }
}

#[test]
fn a_policy_brings_the_attestation_device() {
    let mut place = TestBundle::new();
    place.context.security.policy = "cG9saWN5".into();
    let root = place.bundle("one").join("rootfs");
    fs::create_dir_all(&root).unwrap();
    let devices = |place: &TestBundle| {
        let config = place.prepare("one", &workload()).unwrap().config;
        config["linux"].get("devices").cloned()
    };
    // Without one the container does without.
    assert_eq!(devices(&place), None);
    let dev = place.context.roots.dev.clone();
    if !populate(&dev, "a_policy_brings_the_attestation_device") {
        return;
    }
    fs::rename(dev.join("net/tun"), dev.join("sev-guest")).unwrap();
    assert_eq!(
        devices(&place),
        Some(json!([device("/dev/sev-guest", "c", 10, 200)]))
    );
}
