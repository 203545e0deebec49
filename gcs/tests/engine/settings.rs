//! The environment, limits and settings of a container's process, and what is wrong with them.

use std::fs;

use serde_json::{json, Value};

use crate::bundle::{process, sh};
use crate::rig::Rig;

pub fn the_environment_is_that_of_runc(rig: &Rig) {
    let passwd = "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n";
    for (nth, (env, uid, expected)) in [
        (
            json!(["PATH=/bin", "A=1", "A=2"]),
            0,
            "PATH=/bin\nA=2\nHOME=/root\n",
        ),
        (
            json!(["PATH=/nowhere", "PATH=/bin"]),
            0,
            "PATH=/bin\nHOME=/root\n",
        ),
        (json!(["PATH=/bin", "HOME="]), 0, "PATH=/bin\nHOME=/root\n"),
        (json!(["HOME=/x", "PATH=/bin"]), 0, "HOME=/x\nPATH=/bin\n"),
        (json!(["PATH=/bin"]), 1000, "PATH=/bin\nHOME=/home/user\n"),
        (json!(["PATH=/bin"]), 4242, "PATH=/bin\nHOME=/\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("env{nth}");
        let (out, err, _) = rig.run(&id, &["env"], |spec| {
            fs::write(
                rig.dir.path().join("c").join(&id).join("rootfs/etc/passwd"),
                passwd,
            )
            .unwrap();
            spec["process"]["env"] = env;
            spec["process"]["user"] = json!({"uid": uid, "gid": 0});
        });
        assert_eq!(out, expected, "{err}");
    }
}

pub fn a_session_and_a_keyring_are_its_own(rig: &Rig) {
    let (out, err, _) = rig.run("own", &sh("cut -d' ' -f6 /proc/self/stat"), |_| {});
    // The shell leads the session of the container.
    assert_eq!(out, "1\n", "{err}");
}

pub fn settings_of_the_scheduler_are_applied(rig: &Rig) {
    let (out, err, _) = rig.run(
        "sched",
        &sh("cut -d' ' -f19,41 /proc/self/stat; uname -m"),
        |spec| {
            spec["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5});
            spec["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0});
            spec["linux"]["personality"] = json!({"domain": "LINUX32"});
        },
    );
    assert_eq!(out, "5 3\ni686\n", "{err}");
}

pub fn clocks_may_be_set_off(rig: &Rig) {
    if !std::path::Path::new("/proc/self/ns/time").exists() {
        println!("SKIPPED: time namespaces: this kernel has none");
        return;
    }
    let made = rig.create("clock", &sh("cut -d. -f1 /proc/uptime"), |spec| {
        spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "time"}));
        spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000}});
    });
    let made = made.unwrap();
    rig.start("clock").unwrap();
    let (out, err, _) = made.finish();
    assert!(
        out.trim()
            .parse::<u64>()
            .is_ok_and(|seconds| seconds > 1_000_000),
        "{out}{err}"
    );
    rig.delete("clock").unwrap();
    rig.assert_clean("clock");
}

/// Values that mean that nothing is set, and one that allows a single process.
pub fn limits_that_are_not_set_hold_nothing(rig: &Rig) {
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    if rig.v2 && !controllers.contains("memory") {
        println!("SKIPPED: limits in cgroup v2: its controllers are in use by v1 on this machine");
        return;
    }
    for (nth, resources) in [
        json!({"pids": {"limit": 0}}),
        json!({"pids": {"limit": 1}}),
        json!({"memory": {"limit": 64 << 20, "swap": 0}}),
        json!({"memory": {"swap": 0}}),
        json!({"memory": {"limit": -1}}),
        json!({"cpu": {"shares": 0, "quota": 0, "period": 0}}),
    ]
    .into_iter()
    .enumerate()
    {
        let (_, err, code) = rig.run(&format!("unset{nth}"), &["true"], |spec| {
            spec["linux"]["resources"] = resources.clone();
        });
        assert_eq!(code, 0, "{resources}: {err}");
    }
    let failure = rig.create("refused", &["true"], |spec| {
        spec["linux"]["resources"] = json!({"cpu": {"cpus": "4000"}});
    });
    let failure = failure.err().unwrap();
    for words in ["linux.resources.cpu.cpus", "4000"] {
        assert!(failure.message.contains(words), "{failure}");
    }
    rig.assert_clean("refused");
}

/// The programs of `hooks.createRuntime` see the VM's files and the container's mounts.
pub fn hooks_run_before_the_root_is_entered(rig: &Rig) {
    let marker = rig.dir.path().join("hooked");
    let script = format!(
        "read state; case $state in *'\"pid\":'*) ;; *) exit 3;; esac
         mkdir -p {0}; echo $FROM >{0}/state",
        marker.display()
    );
    let hook = |script: &str| json!({"createRuntime": [{"path": "/bin/busybox", "args": ["sh", "-c", script], "env": ["FROM=hook", "PATH=/bin"]}]});
    let (out, err, _) = rig.run("hook", &sh("grep -c . /proc/self/mountinfo"), |spec| {
        spec["hooks"] = hook(&script);
    });
    assert_eq!(fs::read_to_string(marker.join("state")).unwrap(), "hook\n");
    // No mount of the VM is left in the container.
    let (plain, ..) = rig.run("plain", &sh("grep -c . /proc/self/mountinfo"), |_| {});
    assert_eq!(out, plain, "{err}");
    let failure = rig.create("badhook", &["true"], |spec| {
        spec["hooks"] = hook("echo why >&2; exit 4")
    });
    let failure = failure.err().unwrap();
    println!("    {failure}");
    for words in ["hooks.createRuntime[0]", "why", "4"] {
        assert!(failure.message.contains(words), "{failure}");
    }
    rig.assert_clean("badhook");
}

pub fn large_input_is_carried_out_or_refused(rig: &Rig) {
    // The kernel takes 128 KiB for one string (MAX_ARG_STRLEN), and tells so at the execve.
    let made = rig.create("env-long", &["true"], |spec| {
        spec["process"]["env"] = json!(["PATH=/bin", format!("A={}", "x".repeat(1 << 20))]);
    });
    let made = made.unwrap();
    let failure = rig.start("env-long").unwrap_err();
    assert!(
        failure.message.contains("execute /bin/true") && failure.message.contains("E2BIG"),
        "{failure}"
    );
    made.finish();
    rig.delete("env-long").unwrap();
    let many: Vec<String> = (0..1000)
        .map(|n| format!("A{n}={}", "x".repeat(1000)))
        .collect();
    let (out, err, _) = rig.run("env-many", &sh("env | grep -c ^A"), |spec| {
        spec["process"]["env"]
            .as_array_mut()
            .unwrap()
            .extend(many.into_iter().map(Value::from));
    });
    assert_eq!(out, "1000\n", "{err}");
    // As many mounts as nobody has.
    let (out, err, _) = rig.run("mounts", &sh("grep -c ' /m' /proc/self/mountinfo"), |spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.extend((0..10_000).map(|n| {
            json!({"destination": format!("/m/{n}"), "type": "bind", "source": "/bin", "options": ["bind"]})
        }));
    });
    assert_eq!(out, "10000\n", "{err}");
    let (_, _, code) = rig.run("next", &["true"], |_| {});
    assert_eq!(code, 0);
}

/// What fails in the new process is told with the step, and nothing is left of it.
pub fn a_failure_leaves_no_descriptor_and_no_process(rig: &Rig) {
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    rig.run("first", &["true"], |_| {});
    let before = open();
    for (nth, member) in ["/bin/busybox/y", "/bin/busybox/x"]
        .into_iter()
        .cycle()
        .take(20)
        .enumerate()
    {
        let id = format!("leak{nth}");
        let failure = rig.create(&id, &["true"], |spec| {
            let mounts = spec["mounts"].as_array_mut().unwrap();
            mounts.push(json!({"destination": member, "type": "tmpfs"}));
        });
        let failure = failure.err().unwrap();
        assert!(failure.message.contains("ENOTDIR"), "{failure}");
        rig.assert_clean(&id);
    }
    let made = rig.create("exec-leak", &sh("cat"), |_| {}).unwrap();
    rig.start("exec-leak").unwrap();
    let running = open();
    for _ in 0..20 {
        assert!(rig.exec("exec-leak", process(&["nothere"])).is_err());
    }
    assert_eq!(open(), running);
    assert_eq!(rig.pids("exec-leak").unwrap(), [made.pid]);
    made.finish();
    rig.delete("exec-leak").unwrap();
    assert_eq!(open(), before);
}
