use std::path::{Path, PathBuf};

use serde_json::{json, Value};

use super::super::testing::{minimal, mode, sandbox, workload, TestBundle};
use super::*;
use crate::bundle::remove_files;

fn annotated(mut spec: Value, name: &str, value: &str) -> Value {
    spec["annotations"][name] = json!(value);
    spec
}

/// Binding a directory to itself needs a mount namespace of the test's own.
fn in_namespace(name: &str, body: impl FnOnce() + Send) {
    crate::storage::testing::in_mount_namespace(name, body);
}

#[test]
fn the_network_of_the_vm_is_that_of_the_whole_pod() {
    let namespaces =
        json!([{"type": "network"}, {"type": "pid"}, {"type": "network", "path": "/x"}]);
    for (spec, pod, wanted) in [
        (minimal(), None, false),
        (annotated(minimal(), HOST_NETWORK, "True"), None, true),
        (workload(), Some(true), true),
        // Its own word does not count.
        (
            annotated(workload(), HOST_NETWORK, "true"),
            Some(false),
            false,
        ),
    ] {
        let mut place = TestBundle::new();
        place.context.sandbox = pod.map(|host_network| Pod {
            directory: place.dir.path().join("pod"),
            host_network,
        });
        let mut spec = spec;
        spec["linux"] = json!({"namespaces": namespaces});
        let written = place.prepare("one", &spec).unwrap();
        assert_eq!(written.prepared.outline.pod.host_network, wanted);
        let left = written.config["linux"]["namespaces"].as_array().unwrap();
        assert_eq!(left.len(), if wanted { 1 } else { 3 }, "{left:?}");
    }
}

#[test]
fn only_some_sandboxes_bring_their_network_namespace() {
    for (name, value, wanted) in [
        (SKIP_NETWORK, "True", true),
        (SKIP_NETWORK, "false", false),
        (SKIP_NETWORK, "1", false),
        (VIRTUAL_POD, "pod", true),
        (VIRTUAL_POD, "other", false),
        (VIRTUAL_POD, "", false),
    ] {
        let spec = annotated(sandbox(), name, value);
        assert_eq!(
            brings_network_namespace(&spec, "pod"),
            wanted,
            "{name}={value}"
        );
    }
    assert!(!brings_network_namespace(&sandbox(), "pod"));
}

#[test]
fn a_log_stays_below_the_logs_of_its_pod() {
    for (path, wanted) in [
        ("a.log", Some("a.log")),
        ("a/b.log", Some("a/b.log")),
        ("/etc/x", Some("etc/x")),
        ("a/../b", Some("b")),
        ("../x", None),
        ("a/../../x", None),
        (".", None),
        ("/", None),
    ] {
        let place = TestBundle::new();
        let written = place.prepare("one", &annotated(minimal(), LOG_PATH, path));
        let Some(wanted) = wanted else {
            let failure = written.unwrap_err();
            assert!(failure.message.contains(LOG_PATH), "{failure}");
            assert!(!place.bundle("one").exists(), "{path}");
            continue;
        };
        let logs = place.bundle("one").join("logs");
        let log = written.unwrap().prepared.outline.log;
        assert_eq!(log, Some(logs.join(wanted)), "{path}");
        assert_eq!(mode(log.as_deref().and_then(Path::parent).unwrap()), 0o777);
    }
    let place = TestBundle::new();
    let none = place
        .prepare("one", &annotated(minimal(), LOG_PATH, ""))
        .unwrap();
    assert_eq!(none.prepared.outline.log, None);
    assert!(!place.bundle("one").join("logs").exists());
}

#[test]
fn a_link_in_the_logs_leads_nowhere_else() {
    let mut place = TestBundle::new();
    let directory = place.dir.path().canonicalize().unwrap().join("pod");
    std::fs::create_dir_all(directory.join("logs")).unwrap();
    std::os::unix::fs::symlink("/", directory.join("logs/out")).unwrap();
    place.context.sandbox = Some(Pod {
        directory: directory.clone(),
        host_network: false,
    });
    let spec = annotated(workload(), LOG_PATH, "out/escaped-log/x");
    let written = place.prepare("one", &spec);
    assert!(!Path::new("/escaped-log").exists());
    // The link means the directory of the logs itself, or is refused.
    if written.is_ok() {
        assert!(directory.join("logs/escaped-log").is_dir());
    }
}

#[test]
fn the_logs_are_shown_where_the_container_asks_for_them() {
    let place = TestBundle::new();
    let spec = annotated(minimal(), LOG_MOUNT, "/var/log/pod");
    let written = place.prepare("one", &spec).unwrap();
    let logs = place.bundle("one").join("logs");
    let mounts = written.config["mounts"].as_array().unwrap();
    let wanted = json!({"destination": "/var/log/pod", "type": "bind", "source": logs,
        "options": ["bind"]});
    assert!(mounts.contains(&wanted), "{mounts:?}");
    assert_eq!(mode(&logs), 0o777);
}

#[test]
fn a_virtual_pod_has_a_directory_beside_the_bundles() {
    in_namespace("a_virtual_pod_has_a_directory", || {
        let place = TestBundle::new();
        let mut spec = annotated(minimal(), VIRTUAL_POD, "vp");
        spec["annotations"]["io.kubernetes.cri.container-type"] = json!("container");
        let written = place.prepare("vp", &spec).unwrap().prepared;
        assert_eq!(written.kind, ContainerKind::Sandbox);
        let directory: PathBuf = place.context.containers.join("virtual-pods/vp");
        assert_eq!(written.outline.pod.directory, directory);
        for name in ["hostname", "hosts", "resolv.conf", "sandboxMounts", "logs"] {
            assert!(directory.join(name).exists(), "{name}");
        }
        assert_eq!(mode(&directory.join("logs")), 0o777);
        remove_files(
            &written.outline.own,
            Path::new(""),
            &place.bundle("vp"),
            &place.context,
        )
        .unwrap();
        let mut left = std::fs::read_dir(&place.context.containers).unwrap();
        assert!(left.next().is_none());
    });
    for id in ["../x", "/x", "a/b"] {
        let place = TestBundle::new();
        let failure = place
            .prepare("one", &annotated(sandbox(), VIRTUAL_POD, id))
            .unwrap_err();
        assert!(failure.message.contains(VIRTUAL_POD), "{failure}");
    }
}
