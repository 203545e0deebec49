//! Create documents that cannot be carried out, and some that look so and can: a clear answer,
//! nothing half-created, and a guest that goes on. The checklist has a document of each kind; here
//! are tables of them, with a look at everything in the guest before and after.

mod common;

use serde_json::{json, Value};
use uvm_conformance::{codes, Container, Guest, Plan, TOOLS};
use uvm_host::HostError;

/// The code that a Create with this document is refused with; none when it succeeds. The root
/// file system is not mounted: what is wrong here is wrong before it is looked at.
fn code(vm: &Guest, id: &str, document: &Value) -> Option<u32> {
    match vm.create_document(id, document) {
        Ok(()) => {
            vm.delete(id).unwrap();
            None
        }
        Err(HostError::Refused {
            result, message, ..
        }) => {
            assert!(!message.is_empty(), "{document}");
            assert!(message.len() < 4096, "it quotes the payload: {message}");
            Some(result.cast_unsigned())
        }
        Err(other) => panic!("{other}"),
    }
}

/// Members of another type than the spec's, by their pointers (RFC 6901).
fn wrong_types() -> [(&'static str, Value); 14] {
    [
        ("/mounts", json!({})),
        ("/mounts", json!(["/proc"])),
        ("/mounts", json!([{"destination": 1}])),
        ("/mounts", json!([{"destination": "/x", "options": "ro"}])),
        ("/annotations", json!({"a": 1})),
        ("/annotations", json!([])),
        ("/process/args", json!("true")),
        ("/process/env", json!([1])),
        ("/process/user/uid", json!(-1)),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_CORE", "soft": 1e30, "hard": 1}]),
        ),
        ("/linux/devices", json!({"path": "/dev/null"})),
        ("/linux/namespaces", json!(["pid"])),
        ("/linux/resources", json!({"memory": {"limit": 1.5}})),
        ("/windows", json!({"network": {"networkNamespace": 7}})),
    ]
}

/// Members of the right type with values that cannot be.
fn wrong_values() -> [(&'static str, Value); 10] {
    [
        ("/root/path", json!("")),
        ("/root/path", json!("/no/such/root")),
        ("/root/path", json!("a\0b")),
        ("/hostname", json!("two\nlines")),
        ("/hostname", json!("a\0b")),
        ("/hostname", json!("x".repeat(256))),
        ("/process/args", json!([])),
        ("/process/user", json!({"username": "a:b:c"})),
        (
            "/linux/resources",
            json!({"devices": [{"allow": true, "type": "x"}]}),
        ),
        (
            "/linux/namespaces",
            json!([{"type": "pid", "path": "/proc/1/ns/none"}]),
        ),
    ]
}

fn ids_and_paths_that_cannot_be(vm: &Guest, living: &Container<'_>) {
    let plan = || vm.container("true");
    for id in [
        "",
        ".",
        "..",
        "a/b",
        "/a",
        "../a",
        "a\0b",
        "a b",
        &"x".repeat(256),
    ] {
        let document = plan().document();
        assert_eq!(
            code(vm, id, &document),
            Some(codes::INVALID_ARGUMENT),
            "{id:?}"
        );
    }
    let member = |name: &str, value: &str| {
        let plan: Plan<'_> = plan();
        let mut document = plan.document();
        document[name] = json!(value);
        code(vm, plan.id(), &document)
    };
    for path in [
        "/",
        "relative",
        "/run",
        "/run/gcs/c",
        "/run/gcs/c/x/..",
        "/dev",
        "/run/a\0b",
    ] {
        for name in ["OciBundlePath", "ScratchDirPath"] {
            assert_eq!(
                member(name, path),
                Some(codes::INVALID_ARGUMENT),
                "{name} {path:?}"
            );
        }
    }
    // Another's bundle, one in it, and one around it.
    for path in [living.bundle(), format!("{}/x", living.bundle())] {
        assert_eq!(
            member("OciBundlePath", &path),
            Some(codes::INVALID_ARGUMENT),
            "{path}"
        );
    }
}

#[test]
fn documents_that_cannot_be_carried_out_are_refused_and_leave_nothing() {
    let Some(vm) = common::guest() else { return };
    let vm = &*vm;
    let living = vm.container("echo alive").create().unwrap();
    let before = vm
        .sh("find /run/gcs /run/lab | sort; cat /proc/mounts")
        .unwrap();

    let plan = || vm.container("true");
    let with = |pointer: &str, value: &Value| {
        let plan = plan().edit(|spec| {
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            let parent = spec.pointer_mut(parent).unwrap();
            parent[name] = value.clone();
        });
        (plan.id().to_owned(), plan.document())
    };
    for (pointer, value) in &wrong_types() {
        let (id, document) = with(pointer, value);
        assert_eq!(
            code(vm, &id, &document),
            Some(codes::INVALID_JSON),
            "{pointer} {value}"
        );
    }
    for (pointer, value) in &wrong_values() {
        let (id, document) = with(pointer, value);
        assert_eq!(
            code(vm, &id, &document),
            Some(codes::FAIL),
            "{pointer} {value}"
        );
    }
    ids_and_paths_that_cannot_be(vm, &living);

    let after = vm
        .sh("find /run/gcs /run/lab | sort; cat /proc/mounts")
        .unwrap();
    assert_eq!(before, after);
    assert_eq!(living.init().run().unwrap().text(), "alive\n");
    living.remove().unwrap();
    common::leaves_nothing(vm);
}

#[test]
fn odd_documents_are_carried_out() {
    let Some(vm) = common::guest() else { return };
    let vm = &*vm;
    let plans = [
        vm.container("echo done").edit(|spec| {
            for name in ["devices", "maskedPaths", "resources", "sysctl"] {
                spec["linux"][name] = Value::Null;
            }
            spec["annotations"] = Value::Null;
            spec["hooks"] = Value::Null;
        }),
        // Inside the root, like every path of a mount.
        vm.container("test -d /inside/bin && echo done").with_mount(
            "/../../inside",
            TOOLS,
            &["bind"],
        ),
        // What the host has no business with is not run.
        vm.container("echo done").edit(|spec| {
            let hook = json!({"path": "/no/such/hook", "args": ["x"]});
            spec["hooks"] = json!({"createRuntime": [hook], "prestart": [hook]});
        }),
    ];
    for plan in plans {
        let out = plan.run().unwrap();
        assert!(out.text().ends_with("done\n"), "{}", out.error_text());
    }
    common::leaves_nothing(vm);
}
