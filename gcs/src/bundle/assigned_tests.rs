use std::fs;
use std::os::unix::fs::symlink;

use nix::sys::stat::{makedev, mknod, Mode, SFlag};

use super::*;
use crate::bundle::testing::{workload, TestBundle};

const GUID: &str = "0f1c8d8f-0a3b-4f1a-9e0b-6c5d2b1a7e11";
const FUNCTION: &str = "pci0001:00/0001:00:00.0";

/// A PCI function as Hyper-V hands it over, with a device node of it and one of another.
fn attach(place: &TestBundle, test: &str) -> bool {
    let roots = &place.context.roots;
    let function = roots
        .sys
        .join("bus/vmbus/devices")
        .join(GUID)
        .join(FUNCTION);
    fs::create_dir_all(function.join("misc/card")).unwrap();
    fs::create_dir_all(roots.sys.join("devices/other")).unwrap();
    for kind in ["char", "block"] {
        fs::create_dir_all(roots.sys.join("dev").join(kind)).unwrap();
    }
    symlink(function.join("misc/card"), roots.sys.join("dev/char/195:1")).unwrap();
    symlink(
        roots.sys.join("devices/other"),
        roots.sys.join("dev/block/195:1"),
    )
    .unwrap();
    fs::create_dir_all(&roots.dev).unwrap();
    for (name, kind) in [("card", SFlag::S_IFCHR), ("disk", SFlag::S_IFBLK)] {
        let made = mknod(
            &roots.dev.join(name),
            kind,
            Mode::from_bits_truncate(0o600),
            makedev(195, 1),
        );
        if let Err(error) = made {
            println!("SKIPPED: {test}: cannot make device nodes ({error}); run as root");
            return false;
        }
    }
    true
}

fn assigned(id: &str, kind: &str) -> Value {
    let mut spec = workload();
    spec["windows"] = json!({"devices": [{"id": id, "idType": kind}]});
    spec
}

#[test]
fn the_nodes_of_an_assigned_function_are_added() {
    let place = TestBundle::new();
    if !attach(&place, "the_nodes_of_an_assigned_function_are_added") {
        return;
    }
    for (id, kind, added) in [
        (GUID, "vpci", true),
        (GUID.to_uppercase().as_str(), "vpci-instance-id", true),
        (GUID, "class", false),
        (GUID, "vpci-location-path", false),
    ] {
        let config = place.prepare("one", &assigned(id, kind)).unwrap().config;
        let device = json!([
            {"path": "/dev/card", "type": "c", "major": 195, "minor": 1, "uid": 0, "gid": 0}
        ]);
        let rule = json!([
            {"allow": true, "type": "c", "major": 195, "minor": 1, "access": "rwm"}
        ]);
        let linux = &config["linux"];
        if added {
            assert_eq!(linux["devices"], device, "{kind}");
            assert_eq!(linux["resources"]["devices"], rule, "{kind}");
        } else {
            assert_eq!(linux.get("resources"), None, "{kind}");
        }
        assert_eq!(config.get("windows"), None);
        assert_eq!(config.get("hooks"), None);
    }
}

#[test]
fn what_does_not_appear_is_an_error_with_its_name() {
    let place = TestBundle::new();
    for kind in ["vpci", "gpu"] {
        let failure = place.prepare("one", &assigned(GUID, kind)).unwrap_err();
        assert!(failure.message.contains(GUID), "{failure}");
        assert!(!place.context.containers.exists());
    }
    if !attach(&place, "what_does_not_appear_is_an_error_with_its_name") {
        return;
    }
    fs::remove_file(place.context.roots.dev.join("card")).unwrap();
    place.prepare("one", &assigned(GUID, "vpci")).unwrap_err();
}

#[test]
fn a_gpu_is_set_up_by_a_hook() {
    let place = TestBundle::new();
    let bundle = place.bundle("one");
    let job = Job {
        id: "one",
        bundle: &bundle,
        context: &place.context,
        root: "/r".into(),
        read_only: false,
        pod: Default::default(),
        own: super::super::Made::default(),
        shared: super::super::Made::default(),
    };
    let gpus = ["0001:00:00.0".to_owned(), "0002:00:00.0".to_owned()];
    let log = bundle.join("nvidia-container.log");
    let log = log.to_str().unwrap();
    assert_eq!(
        gpu_hook(
            Path::new("/bin/generichook"),
            "utility, compute,",
            &gpus,
            &job,
            vec!["PATH=/bin".into()]
        ),
        json!({
            "path": "/bin/generichook",
            "args": [
                "/bin/generichook", "nvidia-container-cli", format!("--debug={log}"),
                "--load-kmods", "--no-pivot", "configure", "--ldconfig=@/sbin/ldconfig",
                "--utility", "--compute", "--device=0001:00:00.0", "--device=0002:00:00.0",
                "--no-cgroups", "--pid={{pid}}", "/r",
            ],
            "env": [
                "PATH=/bin", "NVC_INSECURE_MODE=1",
                format!("GENERIC_HOOK_LOG_DEBUG_FILE={log}"),
            ],
        })
    );
}
