use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{json, Value};

use crate::bundle::testing::{minimal, mode, TestBundle};
use crate::bundle::{files, prepare, remove_files};
use crate::prot::HResult;

#[test]
fn a_spec_is_rewritten_and_unknown_members_survive() {
    let place = TestBundle::new();
    let mut spec = minimal();
    spec["hooks"] = json!({"prestart": [{"path": "/bin/evil"}]});
    spec["windows"] = json!({"network": {"networkNamespace": "x"}});
    spec["futureMember"] = json!({"a": [1, {"b": null}]});
    spec["process"]["future"] = json!(1);
    spec["process"]["terminal"] = json!(true);
    spec["linux"] =
        json!({"cgroupsPath": "/elsewhere", "namespaces": [{"type": "pid"}], "future": 2});
    let got = place.prepare("one", &spec).unwrap();

    let dir = place.bundle("one");
    let etc = |name: &str| {
        json!({
            "destination": format!("/etc/{name}"), "type": "bind",
            "source": dir.join(name), "options": ["bind"],
        })
    };
    let wanted = json!({
        "process": {"args": ["a"], "cwd": "/", "future": 1, "terminal": true},
        "root": {"path": "rootfs"},
        "futureMember": {"a": [1, {"b": null}]},
        "linux": {"cgroupsPath": "/containers/one", "namespaces": [{"type": "pid"}], "future": 2},
        "mounts": [etc("hostname"), etc("hosts"), etc("resolv.conf")],
    });
    assert_eq!(got.config, wanted);
    assert!(got.prepared.terminal && got.prepared.owns_pid_namespace);
    assert_eq!(place.read("one/hostname").unwrap(), "uvm\n");
    assert_eq!(place.read("one/hosts").unwrap(), files::hosts("uvm"));
    assert_eq!(
        place.read("one/resolv.conf").unwrap(),
        "search d\nnameserver 1.1.1.1\n"
    );
    for name in ["hostname", "hosts", "resolv.conf"] {
        assert_eq!(mode(&dir.join(name)), 0o644, "{name}");
    }
    assert_eq!(mode(&dir), 0o755);
}

#[test]
fn a_mounted_destination_gets_no_file_of_ours() {
    let place = TestBundle::new();
    let mut spec = minimal();
    spec["root"]["readonly"] = json!(true);
    spec["hostname"] = json!("a.b");
    spec["mounts"] =
        json!([{"destination": "/etc//hosts/"}, {"destination": "/etc/x/../hostname"}]);
    let got = place.prepare("one", &spec).unwrap();
    assert_eq!(place.read("one/hosts"), None);
    assert_eq!(place.read("one/hostname"), None);
    let mounts = got.config["mounts"].as_array().unwrap();
    assert_eq!(mounts.len(), 3);
    assert_eq!(mounts[2]["destination"], "/etc/resolv.conf");
    assert_eq!(mounts[2]["options"], json!(["bind", "ro"]));
}

#[test]
fn a_bundle_elsewhere_is_made_private_and_an_old_one_is_left_alone() {
    let place = TestBundle::new();
    let bundle = place.dir.path().join("new/bundle");
    prepare("one", &bundle, minimal(), &place.context).unwrap();
    assert_eq!(mode(&bundle), 0o700);
    assert_eq!(mode(bundle.parent().unwrap()), 0o700);
    fs::set_permissions(&bundle, Permissions::from_mode(0o750)).unwrap();
    prepare("one", &bundle, minimal(), &place.context).unwrap();
    assert_eq!(mode(&bundle), 0o750);
}

#[test]
fn the_working_directory_and_the_user_come_from_the_root() {
    let place = TestBundle::new();
    let root = place.bundle("one").join("rootfs");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/passwd"), "app:x:10:11::/:\n").unwrap();
    let mut spec = minimal();
    spec["process"]["cwd"] = json!("/srv/here");
    spec["process"]["user"] = json!({"username": "app", "uid": 0});
    let got = place.prepare("one", &spec).unwrap();
    assert_eq!(mode(&root.join("srv/here")), 0o755);
    // The name stays: later execs depend on it.
    assert_eq!(
        got.config["process"]["user"],
        json!({"username": "app", "uid": 10, "gid": 11})
    );
}

#[test]
fn a_bad_spec_fails_by_name_and_leaves_nothing() {
    let without = |name: &str| {
        let mut spec = minimal();
        spec.as_object_mut().unwrap().remove(name);
        spec
    };
    let with = |path: &str, value: Value| {
        let mut spec = minimal();
        *spec.pointer_mut(path).unwrap() = value;
        spec
    };
    let mut mounts = minimal();
    mounts["mounts"] = json!(7);
    for (spec, words) in [
        (json!(null), "the document"),
        (json!([]), "the document"),
        (without("process"), "process is missing"),
        (without("root"), "root is missing"),
        (with("/process", json!("x")), "process is not an object"),
        (with("/root/path", json!("")), "root.path"),
        (with("/root/path", json!(3)), "path is not a string"),
        (with("/process/cwd", json!({})), "cwd is not a string"),
        (mounts, "mounts is not a list"),
    ] {
        let place = TestBundle::new();
        let failure = place.prepare("one", &spec).unwrap_err();
        assert_eq!(failure.code, HResult::FAIL, "{spec}");
        assert!(failure.message.contains(words), "{failure}");
        assert!(!place.context.containers.exists(), "{spec}");
    }
}

#[test]
fn too_many_search_domains_leave_nothing() {
    let mut place = TestBundle::new();
    place.adapters()[0].dns_suffix = "1,2,3,4,5,6,7".into();
    assert!(place.prepare("one", &minimal()).is_err());
    assert!(!place.context.containers.exists());
}

#[test]
fn removal_takes_scratch_bundle_and_generated_files() {
    let place = TestBundle::new();
    let bundle = place.dir.path().join("bundle");
    let scratch = place.dir.path().join("scratch");
    prepare("one", &bundle, minimal(), &place.context).unwrap();
    fs::create_dir_all(scratch.join("upper/x")).unwrap();
    remove_files(&place.bundle("one"), &scratch, &bundle, &place.context).unwrap();
    assert!(!scratch.exists() && !bundle.exists() && !place.bundle("one").exists());
    remove_files(&place.bundle("one"), Path::new(""), &bundle, &place.context).unwrap();
}
