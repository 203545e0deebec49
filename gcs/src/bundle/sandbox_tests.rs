use std::fs;

use serde_json::json;

use super::*;
use crate::bundle::testing::{minimal, mode, sandbox, TestBundle};
use crate::bundle::{network_namespace, remove_files};
use crate::prot::HResult;
use crate::storage::testing::in_mount_namespace;

/// Fields of the mount table: mount point, then optional fields and type.
fn mount_of(path: &std::path::Path) -> Option<String> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let point = path.to_str().unwrap();
    table
        .lines()
        .find(|line| line.split(' ').nth(4) == Some(point))
        .map(str::to_owned)
}

#[test]
fn a_sandbox_has_files_and_shared_mounts_and_sees_none_of_them() {
    in_mount_namespace("a_sandbox_has_files", || {
        let place = TestBundle::new();
        let mut spec = sandbox();
        spec["hostname"] = json!("box.example.org");
        spec["windows"] = json!({"network": {"networkNamespace": "X"}});
        spec["mounts"] = json!([{"destination": "/proc", "type": "proc"}]);
        let got = place.prepare("pod", &spec).unwrap();
        assert_eq!(got.config["mounts"], spec["mounts"]);
        assert_eq!(got.config["linux"]["cgroupsPath"], "/containers/pod");
        assert_eq!(network_namespace(&got.config), None);

        assert_eq!(place.read("pod/hostname").unwrap(), "box.example.org\n");
        assert!(place
            .read("pod/hosts")
            .unwrap()
            .contains("127.0.0.1 box.example.org box\n"));
        assert_eq!(
            place.read("pod/resolv.conf").unwrap(),
            "search d\nnameserver 1.1.1.1\n"
        );
        let dir = place.bundle("pod");
        for name in ["hostname", "hosts", "resolv.conf"] {
            assert_eq!(mode(&dir.join(name)), 0o644, "{name}");
        }
        for name in [MOUNTS, HUGEPAGES, TMPFS_MOUNTS] {
            let line = mount_of(&dir.join(name)).expect(name);
            assert!(line.contains(" shared:"), "{name}: {line}");
            assert_eq!(mode(&dir.join(name)), 0o755, "{name}");
        }

        remove_files(&dir, std::path::Path::new(""), &dir, &place.context).unwrap();
        assert!(!dir.exists());
    });
}

#[test]
fn an_unknown_network_namespace_leaves_nothing() {
    let mut place = TestBundle::new();
    place.context.adapters = Err(Failure::new(HResult::NOT_FOUND, "unknown"));
    let failure = place.prepare("pod", &sandbox()).unwrap_err();
    assert_eq!(failure.code, HResult::NOT_FOUND);
    assert!(!place.context.containers.exists());
    // A standalone container does without.
    place.prepare("one", &minimal()).unwrap();
    assert_eq!(place.read("one/resolv.conf").unwrap(), "");
}

#[test]
fn a_sandbox_that_fails_late_leaves_no_mount() {
    in_mount_namespace("a_sandbox_that_fails_late", || {
        let place = TestBundle::new();
        // The last thing written is in the way.
        let bundle = place.dir.path().join("bundle");
        fs::create_dir_all(bundle.join("config.json")).unwrap();
        let failed = crate::bundle::prepare("pod", &bundle, sandbox(), &place.context);
        assert!(failed.unwrap_err().message.contains("config.json"));
        assert!(!place.context.containers.exists());
        assert!(bundle.join("config.json").is_dir());
    });
}
