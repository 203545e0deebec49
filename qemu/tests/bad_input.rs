//! What no host sends, at a guest in a VM: it answers, goes on, and nothing is left inside. Most of
//! it is about what only our guest does with ids and paths, so the checklist cannot ask for it.

mod common;
#[path = "../../init/tests/guest/hostile.rs"]
mod hostile;
#[path = "../../init/tests/guest/requests.rs"]
mod requests;

use std::time::Duration;

use hostile::Expect;
use serde_json::{json, Value};
use uvm::Uvm;
use uvm_host::wire::Rpc;
use uvm_host::UVM_ID;

const LONG: Duration = Duration::from_secs(120);

/// Descriptors of PID 1, processes except the kernel's own, mounts, and all directories.
fn snapshot(vm: &Uvm) -> String {
    // The processes are named before there is a pipe, whose own would be counted or not by chance.
    let script = "set -- /proc/[0-9]*/status; \
                  echo descriptors $(ls /proc/1/fd | wc -l); \
                  echo processes $(grep -h ^PPid: \"$@\" | grep -vc '[^0-9]2$'); \
                  cat /proc/mounts; find / /run /tmp /dev/shm /sys/fs/cgroup -xdev -type d | sort";
    let out = vm.external(&["/bin/sh", "-c", script]).run().unwrap();
    assert!(out.complete && out.code == 0, "{}", out.error_text());
    out.text()
}

fn code(answer: &uvm_host::Answer) -> u32 {
    answer.members["Result"].as_i64().unwrap() as u32
}

/// Well-formed requests of all kinds with values that lead elsewhere.
fn requests() -> Vec<(Rpc, Value)> {
    [creates(), changes(), processes()].concat()
}

/// A path that is longer than any may be.
fn long() -> String {
    format!("/{}", "x".repeat(5000))
}

/// Ids and paths that lead elsewhere, in specs that are fine otherwise.
fn creates() -> Vec<(Rpc, Value)> {
    let long = long();
    let names = [
        "",
        ".",
        "..",
        "a/b",
        "../x",
        "/etc",
        "a\0b",
        " ",
        long.as_str(),
    ];
    let mut requests = Vec::new();
    let mut create = |id: &str, bundle: &str, root: &str, cwd: &str| {
        let spec = json!({"ociVersion": "1.1.0", "root": {"path": root}, "linux": {},
            "process": {"args": ["/bin/true"], "cwd": cwd, "user": {"uid": 0, "gid": 0}}});
        let config = json!({"SchemaVersion": {"Major": 2, "Minor": 1}, "OciBundlePath": bundle,
            "OciSpecification": spec, "ScratchDirPath": "../.."});
        let body = json!({"ContainerId": id, "ContainerConfig": config.to_string()});
        requests.push((Rpc::Create, body));
    };
    // The root does not exist, wherever the rest leads.
    let (bundle, root) = ("/run/gcs/c/hostile", "/run/no-root");
    for name in names {
        create(name, bundle, root, "/");
        create("hostile", bundle, root, name);
        create("hostile", bundle, &format!("{root}/{name}"), "/");
        // A bundle is the host's to choose, and goes with a Create that fails.
        if name != "/etc" {
            create("hostile", name, root, "/");
        }
    }
    requests
}

/// Changes at paths that are none, and by addresses that lead nowhere.
fn changes() -> Vec<(Rpc, Value)> {
    let long = long();
    let mut requests = Vec::new();
    let mut modify = |resource: &str, request: &str, settings: Value| {
        let body = json!({"ContainerId": UVM_ID, "Request": {
            "ResourceType": resource, "RequestType": request, "Settings": settings}});
        requests.push((Rpc::ModifySettings, body));
    };
    for path in [
        "",
        "/",
        "..",
        "relative",
        "/run/hostile/../hostile",
        "a\0b",
        long.as_str(),
    ] {
        modify(
            "MappedVirtualDisk",
            "Remove",
            json!({"MountPath": path, "Lun": 9}),
        );
        modify(
            "MappedVirtualDisk",
            "Add",
            json!({"MountPath": path, "Controller": 9}),
        );
        modify(
            "CombinedLayers",
            "Remove",
            json!({"ContainerRootPath": path}),
        );
        for layer in ["/no/such/layer", path] {
            let layers = json!([{"Path": layer}, {"Path": "/no/such/layer"}]);
            let scratch = if path.is_empty() { "" } else { "relative" };
            let settings =
                json!({"ContainerRootPath": path, "Layers": layers, "ScratchPath": scratch});
            modify("CombinedLayers", "Add", settings);
        }
    }
    modify(
        "SCSIDevice",
        "Remove",
        json!({"Controller": 255, "Lun": 255}),
    );
    requests
}

/// Signals and waits by numbers that are no process's, and programs that cannot be.
fn processes() -> Vec<(Rpc, Value)> {
    let mut requests = Vec::new();
    for number in [0, 1, u32::MAX, 0x7fff_ffff] {
        for signal in [-1, i32::MIN, i32::MAX, 0, 65] {
            let body =
                json!({"ContainerId": UVM_ID, "ProcessId": number, "Options": {"Signal": signal}});
            requests.push((Rpc::SignalProcess, body));
        }
        let wait = json!({"ContainerId": UVM_ID, "ProcessId": number, "TimeoutInMs": u32::MAX});
        requests.push((Rpc::WaitForProcess, wait));
    }
    let mut execute = |parameters: Value, port: u32| {
        let settings = json!({"ProcessParameters": parameters.to_string(),
            "VsockStdioRelaySettings": {"StdIn": port, "StdOut": port, "StdErr": port}});
        let body = json!({"ContainerId": UVM_ID, "Settings": settings});
        requests.push((Rpc::ExecuteProcess, body));
    };
    for port in [0, 1, u32::MAX, 0x4000_0000] {
        execute(
            json!({"CommandArgs": ["true"], "CreateStdInPipe": true}),
            port,
        );
    }
    for args in [
        json!([]),
        json!([""]),
        json!(["/"]),
        json!(["a\0b"]),
        json!(["/proc/1/mem"]),
    ] {
        execute(json!({"CommandArgs": args}), 0);
        execute(json!({"CommandArgs": args, "EmulateConsole": true}), 0);
    }
    execute(
        json!({"CommandArgs": ["true"], "Environment": {"A": "b\0c"}}),
        0,
    );
    execute(
        json!({"CommandArgs": ["true"], "WorkingDirectory": "/no\0where"}),
        0,
    );
    // More than the kernel takes.
    execute(json!({"CommandArgs": ["true", "x".repeat(1 << 20)]}), 0);
    requests
}

#[test]
fn a_guest_answers_what_no_host_sends_and_keeps_nothing_of_it() {
    let Some(vm) = common::boot() else { return };
    // Fills what is made once.
    let (rpc, body) = requests().remove(1);
    let mut first = vm.send_frame(rpc as u32, body.to_string().into()).unwrap();
    assert_ne!(code(&first.answer(LONG).unwrap()), 0);
    snapshot(&vm);
    let before = snapshot(&vm);
    let mut previous = 0;
    for case in hostile::cases() {
        let mut pending = vm.send_frame(case.message, case.payload).unwrap();
        let answer = pending
            .answer(LONG)
            .unwrap_or_else(|e| panic!("{}: {e}", case.name));
        match case.expect {
            Expect::Code(wanted) => assert_eq!(code(&answer), wanted, "{}", case.name),
            Expect::LikePrevious => assert_eq!(code(&answer), previous, "{}", case.name),
            Expect::Any => {}
        }
        previous = code(&answer);
    }
    for (rpc, body) in requests() {
        let short: String = body.to_string().chars().take(200).collect();
        let mut pending = vm.send_frame(rpc as u32, body.to_string().into()).unwrap();
        let answer = pending
            .answer(LONG)
            .unwrap_or_else(|e| panic!("{rpc:?} {short}: {e}"));
        // Removing what is not there, or a directory that is no mount, is a success.
        if rpc != Rpc::ModifySettings {
            assert_ne!(code(&answer), 0, "{rpc:?} {short}");
        }
    }
    let after = snapshot(&vm);
    let only = |a: &str, b: &str| {
        let lines = a
            .lines()
            .filter(|line| !b.lines().any(|other| other == *line));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let (gone, new) = (only(&before, &after), only(&after, &before));
    assert!(after == before, "gone: {gone:#?}\nnew: {new:#?}");
    assert_eq!(vm.external(&["true"]).run().unwrap().code, 0);
}
