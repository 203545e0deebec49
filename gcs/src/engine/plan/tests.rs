//! What is refused and what is read, as tables.

use nix::sched::CloneFlags;
use serde_json::{json, Value};

use super::*;

/// A minimal specification with members put in by `change`.
fn spec(change: impl FnOnce(&mut Value)) -> Value {
    let mut spec = json!({
        "root": {"path": "rootfs"},
        "process": {"args": ["/bin/true"], "cwd": "/"},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "uts"}, {"type": "ipc"}, {"type": "network"}]},
    });
    change(&mut spec);
    spec
}

fn planned(change: impl FnOnce(&mut Value)) -> Result<Plan, String> {
    Plan::of(&spec(change), Path::new("/bundle"), "id")
}

#[test]
fn what_is_left_out_has_its_usual_value() {
    let plan = planned(|_| {}).unwrap();
    assert_eq!(plan.root.path, Path::new("/bundle/rootfs"));
    assert_eq!(plan.group.path, Path::new("id"));
    assert_eq!(plan.mounts.len(), 1);
    assert_eq!(plan.mounts[0].destination, "/dev");
    assert_eq!(plan.nodes.as_ref().unwrap().len(), 6);
    assert_eq!(plan.process.user.umask, 0o022);
    assert_eq!(plan.process.capabilities, None);
    assert!(plan.warnings.is_empty() && plan.seccomp.is_none() && plan.hooks.is_empty());
}

#[test]
fn what_cannot_be_carried_out_is_refused_by_name() {
    type Change = fn(&mut Value);
    let cases: &[(Change, &str)] = &[
        (|s| s["root"] = json!({}), "root.path: it is missing"),
        (|s| s["root"] = json!([]), "root: it is not an object"),
        (|s| s["hostname"] = json!(7), "hostname: it is not a string"),
        (
            |s| s["hostname"] = json!("x".repeat(65)),
            "hostname: it is longer",
        ),
        (|s| s["mounts"] = json!({}), "mounts: it is not a list"),
        (
            |s| s["mounts"] = json!([{"destination": "/"}]),
            "mounts[0].destination: ",
        ),
        (
            |s| s["mounts"] = json!([{"destination": "/a"}]),
            "mounts[0].type: it is missing",
        ),
        (
            |s| s["mounts"] = json!([{"destination": "/a", "options": ["bind"]}]),
            "mounts[0].source: ",
        ),
        (
            |s| {
                s["mounts"] =
                    json!([{"destination": "/a", "type": "tmpfs", "options": ["ro", "idmap"]}])
            },
            "mounts[0].options[1]: \"idmap\"",
        ),
        (
            |s| s["mounts"] = json!([{"destination": "/a", "type": "tmpfs", "uidMappings": [1]}]),
            "mounts[0].uidMappings: ",
        ),
        (
            |s| s["linux"]["namespaces"] = json!([]),
            "linux.namespaces: a mount namespace",
        ),
        (
            |s| s["linux"]["namespaces"][0]["path"] = json!("/x"),
            "linux.namespaces[0].path: ",
        ),
        (
            |s| s["linux"]["namespaces"][1]["path"] = json!("x"),
            "linux.namespaces[1].path: \"x\" is no absolute path",
        ),
        (
            |s| s["linux"]["namespaces"][1]["type"] = json!("mount"),
            "linux.namespaces[1].type: \"mount\" is there twice",
        ),
        (
            |s| s["linux"]["namespaces"][1]["type"] = json!("user"),
            "linux.namespaces[1].type: user namespaces",
        ),
        (
            |s| s["linux"]["namespaces"][1]["type"] = json!("moon"),
            "linux.namespaces[1].type: \"moon\"",
        ),
        (
            |s| s["linux"]["uidMappings"] = json!([{"size": 1}]),
            "linux.uidMappings: ",
        ),
        (
            |s| s["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 1}}),
            "linux.timeOffsets.monotonic: ",
        ),
        (
            |s| s["linux"]["rootfsPropagation"] = json!("ro"),
            "linux.rootfsPropagation: \"ro\"",
        ),
        (
            |s| s["linux"]["maskedPaths"] = json!(["x"]),
            "linux.maskedPaths[0]: ",
        ),
        (
            |s| s["linux"]["sysctl"] = json!({"vm.swappiness": "1"}),
            "linux.sysctl.vm.swappiness: ",
        ),
        (
            |s| s["linux"]["sysctl"] = json!({"net.../../x": "1"}),
            "linux.sysctl.net.../../x: ",
        ),
        (
            |s| s["linux"]["sysctl"] = json!({"net.core.somaxconn": 1}),
            "linux.sysctl.net.core.somaxconn: it is not a string",
        ),
        (
            |s| s["linux"]["cgroupsPath"] = json!("/a/../b"),
            "linux.cgroupsPath: ",
        ),
        (
            |s| s["linux"]["devices"] = json!([{"path": "/dev/x", "type": "q"}]),
            "linux.devices[0].type: \"q\"",
        ),
        (
            |s| s["linux"]["devices"] = json!([{"path": "/dev/../x", "type": "c"}]),
            "linux.devices[0].path: ",
        ),
        (
            |s| s["linux"]["devices"] = json!([{"path": "/dev/x", "type": "c", "major": -1}]),
            "linux.devices[0].major: -1",
        ),
        (
            |s| {
                let device = json!({"path": "/dev/x", "type": "c", "major": 4096, "minor": 0});
                s["linux"]["devices"] = json!([device])
            },
            "linux.devices[0].major: 4096 is above 4095",
        ),
        (
            |s| s["linux"]["resources"] = json!({"devices": 1}),
            "linux.resources.devices: it is not a list",
        ),
        (
            |s| s["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_WAIT"}),
            "linux.seccomp.defaultAction",
        ),
        (
            |s| s["linux"]["mountLabel"] = json!("x"),
            "linux.mountLabel: \"x\": the kernel of this guest has no SELinux",
        ),
        (
            |s| s["linux"]["intelRdt"] = json!({"closID": "x"}),
            "linux.intelRdt: ",
        ),
        (
            |s| s["linux"]["personality"] = json!({"domain": "BSD"}),
            "linux.personality.domain: \"BSD\"",
        ),
        (
            |s| s["process"]["args"] = json!([]),
            "process.args: it names no program",
        ),
        (
            |s| s["process"]["args"] = json!(["a\0b"]),
            "process.args[0]: it holds a NUL",
        ),
        (
            |s| s["process"]["env"] = json!(["A=1", "B"]),
            "process.env[1]: \"B\"",
        ),
        (|s| s["process"]["cwd"] = json!("x"), "process.cwd: \"x\""),
        (
            |s| s["process"]["user"] = json!({"uid": -1}),
            "process.user.uid: -1 is out of range",
        ),
        (
            |s| s["process"]["oomScoreAdj"] = json!(1001),
            "process.oomScoreAdj: ",
        ),
        (|s| s["process"]["apparmorProfile"] = json!("x"), "AppArmor"),
        (
            |s| s["process"]["rlimits"] = json!([{"type": "RLIMIT_X"}]),
            "process.rlimits[0].type: \"RLIMIT_X\"",
        ),
        (
            |s| s["process"]["rlimits"] = json!([{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]),
            "process.rlimits[0]: soft 2 is above hard 1",
        ),
        (
            |s| {
                let one = json!({"type": "RLIMIT_CPU", "soft": 1, "hard": 1});
                s["process"]["rlimits"] = json!([one, one])
            },
            "process.rlimits[1].type: RLIMIT_CPU is there twice",
        ),
        (
            |s| s["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
            "process.ioPriority.priority: 8",
        ),
        (
            |s| s["process"]["scheduler"] = json!({"policy": "SCHED_X"}),
            "process.scheduler.policy: \"SCHED_X\"",
        ),
        (
            |s| s["hooks"] = json!({"createRuntime": [{"path": "x"}]}),
            "hooks.createRuntime[0].path: ",
        ),
        (
            |s| s["hooks"] = json!({"prestart": [{"path": ""}]}),
            "hooks.prestart[0].path: ",
        ),
        (
            |s| s["hooks"] = json!({"startContainer": [{"path": "/x"}]}),
            "hooks.startContainer: ",
        ),
    ];
    for (change, words) in cases {
        let why = planned(change)
            .err()
            .unwrap_or_else(|| panic!("{words} was accepted"));
        assert!(
            why.starts_with(words) || why.contains(words),
            "{why:?} for {words:?}"
        );
    }
    assert!(Plan::of(&json!([]), Path::new("/"), "id").is_err());
}

#[test]
fn of_a_variable_given_twice_the_last_value_stays() {
    for (env, expected, home, path) in [
        (
            json!(["A=1", "B=2", "A=3"]),
            vec!["A=3", "B=2"],
            false,
            None,
        ),
        (
            json!(["PATH=/x", "PATH=/y"]),
            vec!["PATH=/y"],
            false,
            Some("/y"),
        ),
        (
            json!(["A=", "HOME=", "C=1"]),
            vec!["A=", "C=1"],
            false,
            None,
        ),
        (json!(["HOME=", "HOME=/h"]), vec!["HOME=/h"], true, None),
        (json!(null), vec![], false, None),
    ] {
        let process = planned(|s| s["process"]["env"] = env).unwrap().process;
        let texts: Vec<_> = process
            .env
            .iter()
            .map(|text| text.to_str().unwrap())
            .collect();
        assert_eq!((texts, process.has_home), (expected, home));
        assert_eq!(process.path.as_deref(), path);
    }
}

#[test]
fn unknown_capabilities_are_left_out_with_a_warning() {
    let plan = planned(|s| {
        s["process"]["capabilities"] = json!({
            "bounding": ["CAP_CHOWN", "CAP_MOON"], "permitted": ["CAP_KILL"],
            "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL", "CAP_CHOWN"],
        });
    })
    .unwrap();
    let expected = Capabilities {
        bounding: 1,
        permitted: 1 << 5,
        inheritable: 1 << 5,
        ambient: 1 << 5,
        effective: 0,
    };
    assert_eq!(plan.process.capabilities, Some(expected));
    assert_eq!(plan.warnings.len(), 2);
    assert!(plan.warnings[0].contains("process.capabilities.bounding[1]: \"CAP_MOON\""));
}

#[test]
fn mounts_are_what_their_type_and_options_say() {
    let plan = planned(|s| {
        s["mounts"] = json!([
            {"destination": "/dev/../a/./b/", "type": "tmpfs"},
            {"destination": "rel", "type": "bind", "source": "sub"},
            {"destination": "/c", "type": "none", "source": "/s", "options": ["rbind", "x=y"]},
            {"destination": "/d", "type": "cgroup2"},
            {"destination": "/a", "options": ["remount", "ro"]},
            {"destination": "/dev", "type": "bind", "source": "/dev"},
        ]);
    })
    .unwrap();
    let bind = |source: &str, recursive| MountKind::Bind {
        source: CString::new(source).unwrap(),
        recursive,
    };
    let tmpfs = MountKind::FileSystem {
        kind: c"tmpfs".into(),
        source: c"tmpfs".into(),
    };
    let got: Vec<_> = plan
        .mounts
        .iter()
        .map(|m| (m.destination.as_str(), &m.kind))
        .collect();
    assert_eq!(
        got,
        [
            ("/a/b", &tmpfs),
            ("/rel", &bind("/bundle/sub", false)),
            ("/c", &bind("/s", true)),
            ("/d", &MountKind::Groups),
            ("/a", &MountKind::Again),
            ("/dev", &bind("/dev", false)),
        ]
    );
    // A directory from elsewhere keeps its nodes.
    assert_eq!(plan.nodes, None);
    assert!(plan.mounts[4].is_read_only());
}

#[test]
fn namespaces_are_made_or_joined() {
    let plan = planned(|s| {
        s["linux"]["namespaces"][4]["path"] = json!("/proc/1/ns/net");
        s["linux"]["sysctl"] =
            json!({"net/ipv4/conf/eth0.1/forwarding": "1", "kernel.shmmax": "2"});
    })
    .unwrap();
    assert!(!plan.namespaces.new.contains(CloneFlags::CLONE_NEWNET));
    assert!(plan.namespaces.all().contains(CloneFlags::CLONE_NEWNET));
    assert_eq!(plan.namespaces.joined[0].member, "linux.namespaces[4].path");
    let paths: Vec<_> = plan
        .sysctls
        .iter()
        .map(|sysctl| sysctl.path.as_str())
        .collect();
    assert_eq!(paths, ["net/ipv4/conf/eth0.1/forwarding", "kernel/shmmax"]);
}
