use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::json;

use crate::bundle::testing::{workload, TestBundle};
use crate::storage::testing::in_mount_namespace;

fn kind_at(path: &Path) -> Option<String> {
    let table = fs::read_to_string("/proc/thread-self/mounts").unwrap();
    let point = path.to_str().unwrap();
    table.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        (fields.next() == Some(point)).then(|| fields.next().unwrap().to_owned())
    })
}

#[test]
fn huge_pages_are_mounted_once_and_shared() {
    if !fs::read_to_string("/proc/filesystems")
        .unwrap()
        .contains("hugetlbfs")
    {
        println!("SKIPPED: huge_pages_are_mounted_once_and_shared: no hugetlbfs in this kernel");
        return;
    }
    in_mount_namespace("huge_pages_are_mounted_once_and_shared", || {
        let place = TestBundle::new();
        let path = place.bundle("pod").join("hugepages/2M/a");
        let mut spec = workload();
        spec["mounts"] = json!([{"destination": "/x", "source": "hugepages://2M/a"}]);
        let first = place.prepare("one", &spec).unwrap();
        let second = place.prepare("two", &spec).unwrap();
        for got in [&first, &second] {
            assert_eq!(got.config["mounts"][0]["source"], json!(path));
        }
        assert_eq!(kind_at(&path).as_deref(), Some("hugetlbfs"));
        // Only who mounted it takes it back.
        second.prepared.shared.undo(|_| false);
        assert_eq!(kind_at(&path).as_deref(), Some("hugetlbfs"));
        first.prepared.shared.undo(|_| false);
        assert_eq!(kind_at(&path), None);
        assert!(!place.bundle("pod").exists());
    });
}

#[test]
fn a_page_size_that_the_kernel_does_not_have_leaves_nothing() {
    in_mount_namespace("a_page_size_that_the_kernel_does_not_have", || {
        let place = TestBundle::new();
        let mut spec = workload();
        spec["mounts"] = json!([{"destination": "/x", "source": "hugepages://3M/a"}]);
        let failure = place.prepare("one", &spec).unwrap_err();
        assert!(failure.message.contains("hugepages://3M/a"), "{failure}");
        assert!(!place.context.containers.exists());
    });
}

#[test]
fn a_block_device_takes_the_place_of_its_mount() {
    let Some(disk) = crate::bundle::devices::enumerate(Path::new("/dev"))
        .unwrap()
        .into_iter()
        .find(|node| node.kind == "b")
    else {
        println!("SKIPPED: a_block_device_takes_the_place_of_its_mount: no block device here");
        return;
    };
    let place = TestBundle::new();
    let link = place.dir.path().join("link");
    std::os::unix::fs::symlink(&disk.path, &link).unwrap();
    for (options, access) in [(json!([]), "rwm"), (json!(["ro"]), "r")] {
        let mut spec = workload();
        spec["mounts"] =
            json!([{"destination": "blockdev:///dev/x", "source": link, "options": options}]);
        let got = place.prepare("one", &spec).unwrap().config;
        assert_eq!(got["mounts"].as_array().unwrap().len(), 3);
        let device = &got["linux"]["devices"][0];
        assert_eq!(
            (&device["path"], &device["major"]),
            (&json!("/dev/x"), &json!(disk.major))
        );
        // The node keeps the permissions that it has in the VM.
        let mode = std::fs::metadata(&disk.path).unwrap().mode() & 0o7777;
        assert_eq!(device["fileMode"], mode);
        let rule = &got["linux"]["resources"]["devices"][0];
        assert_eq!(
            (&rule["access"], &rule["minor"]),
            (&json!(access), &json!(disk.minor))
        );
    }
    let null = place.dir.path().join("null");
    std::os::unix::fs::symlink("/dev/null", &null).unwrap();
    for (source, why) in [
        (null.as_path(), "something else than a block device"),
        (disk.path.as_path(), "no link to a device"),
        (Path::new("/no/such/link"), "No such file"),
    ] {
        let mut spec = workload();
        spec["mounts"] = json!([{"destination": "blockdev:///dev/x", "source": source}]);
        let failure = place.prepare("one", &spec).unwrap_err();
        assert!(failure.message.contains(why), "{source:?}: {failure}");
    }
}
