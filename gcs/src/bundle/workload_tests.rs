use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{json, Value};

use crate::bundle::testing::{minimal, mode, workload, TestBundle};
use crate::prot::HResult;

fn etc(place: &TestBundle, name: &str, read_only: bool) -> Value {
    let options: &[&str] = if read_only {
        &["bind", "ro"]
    } else {
        &["bind"]
    };
    json!({
        "destination": format!("/etc/{name}"), "type": "bind",
        "source": place.bundle("pod").join(name), "options": options,
    })
}

#[test]
fn a_workload_has_the_files_of_its_sandbox() {
    let place = TestBundle::new();
    for read_only in [false, true] {
        let mut spec = workload();
        spec["root"]["readonly"] = json!(read_only);
        spec["mounts"] = json!([{"destination": "/etc//hosts"}]);
        spec["windows"] = json!({"devices": null});
        let got = place.prepare("one", &spec).unwrap();
        assert_eq!(
            got.config["mounts"],
            json!([
                {"destination": "/etc//hosts"},
                etc(&place, "hostname", read_only),
                etc(&place, "resolv.conf", read_only),
            ])
        );
        assert_eq!(got.config["linux"]["cgroupsPath"], "/containers/one");
        assert_eq!(got.config.get("windows"), None);
        assert_eq!(place.read("one/hosts"), None);
    }
}

#[test]
fn a_sandbox_elsewhere_is_where_the_host_says() {
    let mut place = TestBundle::new();
    let elsewhere = place.context.pods.join("p/pod");
    place.context.sandbox = Some(crate::bundle::Pod {
        directory: elsewhere.clone(),
        host_network: false,
    });
    let got = place.prepare("one", &workload()).unwrap();
    let source = elsewhere.join("hostname");
    assert_eq!(got.config["mounts"][0]["source"], json!(source));
}

#[test]
fn sources_of_the_pod_become_directories() {
    let place = TestBundle::new();
    let shared = place.bundle("pod").join("sandboxMounts");
    fs::create_dir_all(&shared).unwrap();
    fs::write(shared.join("file"), "").unwrap();
    symlink("/etc", shared.join("link")).unwrap();
    symlink(place.dir.path(), shared.join("away")).unwrap();
    fs::create_dir(shared.join("etc")).unwrap();
    let mounts: Vec<Value> = [
        ("sandbox://a/b", shared.join("a/b")),
        ("sandbox:///c/../d", shared.join("d")),
        ("sandbox://file", shared.join("file")),
        ("sandbox://", shared.clone()),
        // Links lead to where they lead inside.
        ("sandbox://link/e", shared.join("etc/e")),
        ("uvm://run/x/../y", "/run/y".into()),
        ("uvm:///run/y", "/run/y".into()),
        ("/sandbox://a", "/sandbox://a".into()),
        ("Sandbox://a", "Sandbox://a".into()),
    ]
    .iter()
    .map(|(source, path)| json!({"destination": path, "source": source}))
    .collect();
    let mut spec = workload();
    spec["mounts"] = mounts.into();
    let got = place.prepare("one", &spec).unwrap();
    let (given, etc) = got.config["mounts"].as_array().unwrap().split_at(9);
    for mount in given {
        assert_eq!(mount["source"], mount["destination"]);
    }
    assert_eq!(etc.len(), 3);
    for made in ["a", "a/b", "d", "etc/e"] {
        assert_eq!(mode(&shared.join(made)), 0o777, "{made}");
    }

    // What this one made is its to take back; another's use keeps it.
    got.prepared.shared.undo(|path| path.ends_with("d"));
    let left = |name: &str| shared.join(name).exists();
    assert_eq!(
        ["a", "d", "etc/e", "etc", "file"].map(left),
        [false, true, false, true, true]
    );

    // No container can have a directory made outside.
    spec["mounts"] = json!([{"destination": "/x", "source": "sandbox://away/out"}]);
    place.prepare("two", &spec).unwrap_err();
    assert!(!place.dir.path().join("out").exists());
}

#[test]
fn sources_that_lead_out_of_the_pod_are_refused() {
    let place = TestBundle::new();
    for source in [
        "sandbox://../x",
        "sandbox://a/../../x",
        // A prefix of the letters is none of the components.
        "sandbox://../sandboxMountsX",
        "sandbox://a\0b",
        "sandbox-tmp://..",
        "hugepages://../2M/x",
        "hugepages://",
        "hugepages://x/2M",
        "hugepages://2M,mode=777/x",
        "hugepages://2MM/x",
        "hugepages://M/x",
        "uvm://a\0b",
    ] {
        let mut spec = workload();
        spec["mounts"] = json!([
            {"destination": "/w", "source": "sandbox://fine"},
            {"destination": "/x", "source": source},
        ]);
        let failure = place.prepare("one", &spec).unwrap_err();
        assert_eq!(failure.code, HResult::FAIL, "{source:?}");
        assert!(failure.message.contains("mount source"), "{failure}");
        assert!(!place.context.containers.exists(), "{source:?}");
    }
}

#[test]
fn a_bad_workload_leaves_nothing() {
    let annotated = |name: &str, value: Value| {
        let mut spec = workload();
        spec["annotations"][name] = value;
        spec
    };
    let with = |name: &str, value: Value| {
        let mut spec = workload();
        spec[name] = value;
        spec
    };
    let device = |path: &str| with("linux", json!({"devices": [{"path": path}]}));
    let vpci = json!({"devices": [{"id": "../x", "idType": "vpci"}]});
    let place = TestBundle::new();
    for (spec, words) in [
        (with("hostname", json!("x")), "hostname"),
        (with("hostname", json!(7)), "hostname"),
        (with("mounts", json!([7])), "mounts[0]"),
        (with("mounts", json!([{"source": 7}])), "mounts[0].source"),
        (with("linux", json!([])), "linux"),
        (
            with(
                "linux",
                json!({"resources": 1, "devices": [{"path": "/dev/null"}]}),
            ),
            "resources",
        ),
        (with("linux", json!({"devices": [3]})), "linux.devices[0]"),
        (device("/dev/no-such-device"), "/dev/no-such-device"),
        (device("dev/null"), "absolute"),
        (device("/proc/self/exe"), "no device"),
        (device("/etc"), "no device"),
        (with("windows", vpci), "windows.devices[0]"),
        (
            annotated("io.microsoft.lcow.shm.size-kb", json!("0")),
            "shm",
        ),
        (annotated("io.microsoft.lcow.shm.size-kb", json!(5)), "shm"),
        (
            annotated("io.microsoft.lcow.rlimitcore", json!("1")),
            "rlimitcore",
        ),
        (
            annotated("io.kubernetes.cri.sandbox-id", json!("a/b")),
            "sandbox-id",
        ),
        (
            annotated("io.kubernetes.cri.sandbox-id", json!("..")),
            "sandbox-id",
        ),
        (
            annotated("io.microsoft.virtualmachine.lcow.privileged", json!(1)),
            "privileged",
        ),
    ] {
        let failure = place.prepare("one", &spec).unwrap_err();
        assert!(failure.message.contains(words), "{failure} for {spec}");
        assert!(!place.context.containers.exists(), "{spec}");
    }
}

#[test]
fn a_directory_of_more_than_the_container_is_no_bundle() {
    let place = TestBundle::new();
    for path in [
        "/",
        "/run",
        "/run/gcs",
        "/dev",
        "relative",
        "/run/../run",
        "/a\0b",
    ] {
        let failure =
            crate::bundle::prepare("one", Path::new(path), minimal(), &place.context).unwrap_err();
        assert_eq!(failure.code, HResult::INVALID_ARGUMENT, "{path:?}");
    }
    let containers = place.context.containers.clone();
    let failure = crate::bundle::prepare("one", &containers, minimal(), &place.context);
    assert_eq!(failure.unwrap_err().code, HResult::INVALID_ARGUMENT);
}
