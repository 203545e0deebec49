//! What a container process sees, and how it is started, changed and ended.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

use gcs::prot::HResult;
use serde_json::json;

use crate::bundle::{process, sh};
use crate::rig::Rig;
use crate::task::reap;

pub fn a_container_runs_and_leaves_nothing(rig: &Rig) {
    let at = std::time::Instant::now();
    let seen = rig.run("one", &sh("echo out; echo err >&2; cat; exit 7"), |_| {});
    assert_eq!(seen, ("out\n".into(), "err\n".into(), 7));
    println!("    create to delete: {:?}", at.elapsed());
}

pub fn nothing_runs_before_start(rig: &Rig) {
    let mut made = rig.create("wait", &sh("echo ran"), |_| {}).unwrap();
    assert_eq!(rig.pids("wait").unwrap(), [made.pid]);
    // What is there is the engine's own process, not yet the user's.
    let name = fs::read_to_string(format!("/proc/{}/comm", made.pid)).unwrap();
    assert_ne!(name, "sh\n");
    rig.start("wait").unwrap();
    made.streams.stdin.take();
    let mut out = String::new();
    made.streams.stdout.read_to_string(&mut out).unwrap();
    assert_eq!((out.as_str(), reap(made.pid)), ("ran\n", 0));
    assert_eq!(rig.start("wait").unwrap_err().code, HResult::INVALID_STATE);
    rig.delete("wait").unwrap();
    assert_eq!(
        rig.start("wait").unwrap_err().code,
        HResult::SYSTEM_NOT_FOUND
    );
    rig.assert_clean("wait");
}

pub fn only_the_standard_streams_are_open(rig: &Rig) {
    let (out, err, code) = rig.run("fds", &["ls", "/proc/self/fd"], |_| {});
    // ls itself has the directory open as 3.
    assert_eq!((out.as_str(), err.as_str(), code), ("0\n1\n2\n3\n", "", 0));
}

pub fn a_waiting_init_holds_nothing_of_the_helper(rig: &Rig) {
    let made = rig.create("hold", &sh("true"), |_| {}).unwrap();
    for entry in fs::read_dir(format!("/proc/{}/fd", made.pid)).unwrap() {
        let entry = entry.unwrap();
        let to = fs::read_link(entry.path()).unwrap();
        let to = to.to_string_lossy();
        println!("    fd {:?} -> {to}", entry.file_name());
        assert!(!to.contains("memfd:order"), "{to}");
    }
    rig.delete("hold").unwrap();
    assert_eq!(reap(made.pid), 137);
    rig.assert_clean("hold");
}

pub fn signals_are_as_in_a_fresh_process(rig: &Rig) {
    let (out, ..) = rig.run(
        "sig",
        &["grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status"],
        |_| {},
    );
    for line in out.lines() {
        assert!(line.ends_with("0000000000000000"), "{out}");
    }
    assert_eq!(out.lines().count(), 3, "{out}");
}

pub fn the_oom_score_is_neutral_unless_given(rig: &Rig) {
    fs::write("/proc/self/oom_score_adj", "500").unwrap();
    let show = ["cat", "/proc/self/oom_score_adj"];
    let (plain, ..) = rig.run("oom0", &show, |_| {});
    let (given, ..) = rig.run("oom1", &show, |spec| {
        spec["process"]["oomScoreAdj"] = json!(300)
    });
    fs::write("/proc/self/oom_score_adj", "0").unwrap();
    assert_eq!((plain.as_str(), given.as_str()), ("0\n", "300\n"));
}

pub fn a_plain_user_can_reopen_its_streams(rig: &Rig) {
    let script = "echo a >/dev/stdout; echo b >/dev/stderr; cat /dev/stdin; id -u; id -g; id -G";
    let (out, err, code) = rig.run("user", &sh(script), |spec| {
        spec["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6]});
    });
    assert_eq!(
        (out.as_str(), err.as_str(), code),
        ("a\n1000\n1001\n1001 5 6\n", "b\n", 0)
    );
}

pub fn capabilities_are_those_of_the_spec(rig: &Rig) {
    let show = [
        "grep",
        "-E",
        "^Cap(Prm|Eff|Bnd|Amb|Inh)|^NoNew",
        "/proc/self/status",
    ];
    let (given, ..) = rig.run("cap1", &show, |_| {});
    assert!(given.contains("CapEff:\t00000000a80425fb"), "{given}");
    assert!(given.contains("CapBnd:\t00000000a80425fb"), "{given}");
    assert!(given.contains("NoNewPrivs:\t0"), "{given}");
    let (none, ..) = rig.run("cap0", &show, |spec| {
        spec["process"]
            .as_object_mut()
            .unwrap()
            .remove("capabilities");
        spec["process"]["noNewPrivileges"] = json!(true);
    });
    for name in ["CapPrm", "CapEff", "CapBnd", "CapAmb", "CapInh"] {
        assert!(
            none.contains(&format!("{name}:\t0000000000000000")),
            "{none}"
        );
    }
    assert!(none.contains("NoNewPrivs:\t1"), "{none}");
}

pub fn the_environment_is_exactly_as_given(rig: &Rig) {
    let (out, _, code) = rig.run("env", &["/bin/env"], |spec| {
        spec["process"]["env"] = json!(["B=2", "A=1", "HOME=/x", "EMPTY="]);
    });
    assert_eq!((out.as_str(), code), ("B=2\nA=1\nHOME=/x\nEMPTY=\n", 0));
}

pub fn terminals_work_for_init_and_exec(rig: &Rig) {
    let script =
        "tty; stty size; ls -ln $(tty) | { read a b c d; echo $c; }; echo hi >/dev/console; exit 3";
    let mut made = rig
        .create("tty", &sh(script), |spec| {
            spec["process"]["terminal"] = json!(true);
            spec["process"]["consoleSize"] = json!({"height": 33, "width": 99});
            spec["process"]["user"] = json!({"uid": 42, "gid": 42});
        })
        .unwrap();
    assert!(made.master.is_some());
    rig.start("tty").unwrap();
    made.streams.stdin.take();
    let (out, _, code) = made.finish();
    assert_eq!(
        (out.as_str(), code),
        ("/dev/pts/0\r\n33 99\r\n42\r\nhi\r\n", 3)
    );
    rig.delete("tty").unwrap();
    rig.assert_clean("tty");
}

pub fn namespaces_can_be_joined_by_path(rig: &Rig) {
    let pod = rig.create("pod", &sh("cat"), |_| {}).unwrap();
    rig.start("pod").unwrap();
    let path = |name: &str| json!(format!("/proc/{}/ns/{name}", pod.pid));
    let member = rig
        .create("member", &sh("cat"), |spec| {
            spec["linux"]["namespaces"] = json!([
                {"type": "mount"},
                {"type": "pid", "path": path("pid")},
                {"type": "ipc", "path": path("ipc")},
                {"type": "uts", "path": path("uts")},
                {"type": "network", "path": path("net")},
            ]);
            spec.as_object_mut().unwrap().remove("hostname");
        })
        .unwrap();
    rig.start("member").unwrap();
    let ns = |pid: i32, name: &str| {
        fs::metadata(format!("/proc/{pid}/ns/{name}"))
            .unwrap()
            .ino()
    };
    for name in ["pid", "ipc", "uts", "net"] {
        assert_eq!(ns(pod.pid, name), ns(member.pid, name), "{name}");
    }
    assert_ne!(ns(pod.pid, "mnt"), ns(member.pid, "mnt"));
    assert_eq!(rig.pids("member").unwrap(), [member.pid]);
    assert_eq!(member.finish().2, 0);
    rig.delete("member").unwrap();
    assert_eq!(pod.finish().2, 0);
    rig.delete("pod").unwrap();
    rig.assert_clean("member");
    rig.assert_clean("pod");
}

pub fn signals_reach_every_process(rig: &Rig) {
    let script = "trap 'echo term; exit 9' TERM; sh -c 'sleep 1000 & sleep 1000' & echo ready; while true; do sleep 1; done";
    let mut made = rig.create("many", &sh(script), |_| {}).unwrap();
    rig.start("many").unwrap();
    let mut ready = [0; 6];
    made.streams.stdout.read_exact(&mut ready).unwrap();
    rig.signal_all("many", libc::SIGTERM).unwrap();
    let (out, _, code) = made.finish();
    assert_eq!((out.as_str(), code), ("term\n", 9));
    // Gone already: success all the same.
    rig.signal_all("many", libc::SIGKILL).unwrap();
    rig.signal_all("many", libc::SIGTERM).unwrap();
    rig.delete("many").unwrap();
    rig.delete("many").unwrap();
    rig.assert_clean("many");
}

pub fn device_rules_hold(rig: &Rig) {
    // Making a node is allowed, opening it only by the rules; all by root with MKNOD.
    let script = "mknod /tmp/null c 1 3; mknod /tmp/loop c 10 237
        (: <>/tmp/null) && echo null
        (: </tmp/loop) && echo read
        (: >>/tmp/loop) && echo write
        (: <>/tmp/loop) && echo both
        true";
    let loops = |access: &str| json!({"allow": true, "type": "c", "major": 10, "minor": 237, "access": access});
    let everything = json!({"allow": true, "access": "rwm"});
    for (id, rules, seen) in [
        ("dev0", json!([]), "null\n"),
        ("dev1", json!([loops("r")]), "null\nread\n"),
        ("dev2", json!([loops("rw")]), "null\nread\nwrite\nboth\n"),
        ("dev3", json!([everything]), "null\nread\nwrite\nboth\n"),
        (
            "dev4",
            json!([everything, {"allow": false, "access": "rwm"}, loops("w")]),
            "null\nwrite\n",
        ),
    ] {
        let (out, err, _) = rig.run(id, &sh(script), |spec| {
            spec["linux"]["resources"] = json!({"devices": rules});
        });
        assert_eq!(out, seen, "{id}: {err}");
    }
    // Also for a process that joins later.
    let init = rig.create("dev5", &sh("cat"), |_| {}).unwrap();
    rig.start("dev5").unwrap();
    let (out, err, _) = rig.exec("dev5", process(&sh(script))).unwrap().finish();
    assert_eq!(out, "null\n", "{err}");
    init.finish();
    rig.delete("dev5").unwrap();
    rig.assert_clean("dev5");
}

pub fn the_root_of_the_machine_is_out_of_reach(rig: &Rig) {
    let marker = rig.dir.path().join("marker");
    fs::write(&marker, "").unwrap();
    let marker = marker.to_str().unwrap();
    // The old escapes: through init's root, by climbing out of a second chroot.
    let script = format!(
        "cat /bin/busybox >/tmp/x; mkdir /tmp/jail; ls /proc/1/root{marker} /proc/self/root{marker} /../..{marker} 2>/dev/null
         cd /; chroot /tmp/jail /x 2>/dev/null; grep -c . /proc/self/mountinfo; grep -c '{}' /proc/self/mountinfo; true",
        rig.dir.path().file_name().unwrap().to_string_lossy()
    );
    let (out, err, _) = rig.run("jail", &sh(&script), |_| {});
    // The root's own line names where it comes from; no other does.
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 2, "{out}{err}");
    assert_eq!(lines[1], "1", "{out}");
    println!("    {} mounts inside", lines[0]);
}

/// One file of the container's control group.
fn limit(rig: &Rig, id: &str, v1: &str, v2: &str) -> String {
    let path = if rig.v2 {
        format!("/sys/fs/cgroup/containers/{id}/{v2}")
    } else {
        let (controller, file) = v1.split_once('/').unwrap();
        format!("/sys/fs/cgroup/{controller}/containers/{id}/{file}")
    };
    fs::read_to_string(path).unwrap_or_default()
}

pub fn limits_change_while_it_runs(rig: &Rig) {
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let skipped = rig.v2 && !controllers.contains("memory");
    let init = rig
        .create("upd", &sh("cat"), |spec| {
            if !skipped {
                spec["linux"]["resources"] =
                    json!({"pids": {"limit": 50}, "memory": {"limit": 64 << 20}});
            }
        })
        .unwrap();
    rig.start("upd").unwrap();
    let constrain = |resources| rig.constrain("upd", &resources);
    let pids = || limit(rig, "upd", "pids/pids.max", "pids.max");
    let memory = || limit(rig, "upd", "memory/memory.limit_in_bytes", "memory.max");
    if skipped {
        println!("SKIPPED: limits in cgroup v2: its controllers are in use by v1 on this machine");
    } else {
        assert_eq!(
            (pids(), memory()),
            ("50\n".into(), format!("{}\n", 64 << 20))
        );
        constrain(json!({})).unwrap();
        constrain(json!({"pids": {"limit": 77}, "devices": [{"allow": true, "access": "rwm"}]}))
            .unwrap();
        assert_eq!(
            (pids(), memory()),
            ("77\n".into(), format!("{}\n", 64 << 20))
        );
        // The device rules are those of the create.
        let open = "mknod /tmp/loop c 10 237; (: </tmp/loop) 2>/dev/null && echo open; true";
        let (out, err, _) = rig.exec("upd", process(&sh(open))).unwrap().finish();
        assert_eq!(out, "", "{err}");
        constrain(json!({"memory": {"limit": 32 << 20}, "cpu": {"shares": 512, "quota": 20000, "period": 50000}})).unwrap();
        assert_eq!(memory(), format!("{}\n", 32 << 20));
        assert_eq!(
            limit(rig, "upd", "cpu/cpu.shares", "cpu.weight"),
            if rig.v2 { "59\n" } else { "512\n" }
        );
        assert_eq!(
            limit(rig, "upd", "cpu/cpu.cfs_quota_us", "cpu.max"),
            if rig.v2 { "20000 50000\n" } else { "20000\n" }
        );
        // What is wrong costs what is right.
        let failure =
            constrain(json!({"memory": {"limit": 48 << 20}, "cpu": {"cpus": "4000"}})).unwrap_err();
        println!("    {failure}");
        assert!(failure.message.contains("cpuset.cpus"), "{failure}");
        assert_eq!(memory(), format!("{}\n", 32 << 20));
    }
    let metrics = rig.statistics("upd").unwrap();
    assert!(metrics.cpu.is_some());
    if !skipped {
        let pids = metrics.pids.unwrap();
        assert_eq!((pids.current, pids.limit), (1, 77));
        let memory = metrics.memory.unwrap();
        assert_eq!(memory.hierarchical_memory_limit, 32 << 20);
        assert!(memory.usage.unwrap().usage > 0);
        assert!(
            metrics.cpu.unwrap().usage.total > 100_000,
            "a container takes over 0.1 ms to start"
        );
    }
    assert_eq!(init.finish().2, 0);
    rig.delete("upd").unwrap();
    rig.assert_clean("upd");
    assert_eq!(constrain(json!({})).unwrap_err().code, HResult::FAIL);
    assert_eq!(rig.statistics("upd").unwrap_err().code, HResult::FAIL);
}
