//! `linux.seccomp` from inside: what must be refused is tried.

use serde_json::{json, Value};

use crate::bundle::{process, sh};
use crate::rig::Rig;

/// A profile that allows all but `entry`.
fn all_but(entry: Value) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [entry]})
}

/// stdout, stderr and code of a container under `profile`.
fn under(rig: &Rig, id: &str, script: &str, profile: &Value) -> (String, String, i32) {
    rig.run(id, &sh(script), |spec| {
        spec["linux"]["seccomp"] = profile.clone();
    })
}

pub fn every_action_does_what_it_says(rig: &Rig) {
    // The shell's child is what the kernel ends: 31 is SIGSYS.
    for (action, errno, said, code) in [
        ("ALLOW", None, "", 0),
        ("LOG", None, "", 0),
        ("ERRNO", None, "Operation not permitted", 1),
        ("ERRNO", Some(28), "No space left on device", 1),
        ("KILL", None, "", 128 + 31),
        ("KILL_THREAD", None, "", 128 + 31),
        ("KILL_PROCESS", None, "", 128 + 31),
        ("TRAP", None, "", 128 + 31),
        // Nobody traces it.
        ("TRACE", None, "Function not implemented", 1),
    ] {
        let mut entry = json!({"names": ["mkdir", "mkdirat", "of_some_other_kernel"], "action": format!("SCMP_ACT_{action}")});
        if let Some(errno) = errno {
            entry["errnoRet"] = json!(errno);
        }
        let id = format!("act-{action}-{errno:?}")
            .to_lowercase()
            .replace(['(', ')', '_'], "");
        let (_, err, got) = under(rig, &id, "/bin/mkdir /tmp/x", &all_but(entry));
        assert!(err.contains(said) && got == code, "{action}: {got} {err}");
    }
    // Flags are the kernel's to judge.
    let mut profile = all_but(json!({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}));
    profile["flags"] = json!([
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        "SECCOMP_FILTER_FLAG_TSYNC"
    ]);
    assert_eq!(under(rig, "flags", "mkdir /tmp/x", &profile).2, 1);
}

pub fn arguments_are_looked_at(rig: &Rig) {
    let when = |name: &str, op: &str, value: u64, two: u64| {
        all_but(json!({"names": [name], "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 1, "value": value, "valueTwo": two, "op": format!("SCMP_CMP_{op}")}]}))
    };
    // Both halves of a length count: 5 GiB and 1 GiB differ in the high one only.
    let sizes = "for s in 1 5; do truncate -s ${s}G /tmp/f 2>/dev/null && echo $s; done; true";
    // setuid and what it comes with.
    let modes = "touch /tmp/f; for m in 0755 4755 1755; do chmod $m /tmp/f 2>/dev/null && echo $m; done; true";
    let gib = 1 << 30;
    for (n, (profile, script, passed)) in [
        (when("ftruncate", "GT", 2 * gib, 0), sizes, "1\n"),
        (when("ftruncate", "LE", 2 * gib, 0), sizes, "5\n"),
        (when("ftruncate", "EQ", 5 * gib, 0), sizes, "1\n"),
        (when("ftruncate", "NE", 5 * gib, 0), sizes, "5\n"),
        (
            when("chmod", "MASKED_EQ", 0o4000, 0o4000),
            modes,
            "0755\n1755\n",
        ),
        (when("chmod", "MASKED_EQ", 0o7000, 0), modes, "4755\n1755\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let (out, err, _) = under(rig, &format!("args{n}"), script, &profile);
        assert_eq!(out, passed, "{profile}: {err}");
    }
}

pub fn a_filter_changes_nothing_else(rig: &Rig) {
    let show = [
        "grep",
        "-E",
        "^Cap|^NoNew|^Seccomp:|^Uid",
        "/proc/self/status",
    ];
    let profile = all_but(json!({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}));
    for (user, nnp) in [(0, false), (0, true), (1000, false), (1000, true)] {
        let mut seen = Vec::new();
        for filtered in [false, true] {
            let id = format!("same-{user}-{nnp}-{filtered}");
            let init = rig
                .create(
                    &id,
                    &sh("grep -E '^Cap|^NoNew|^Uid' /proc/self/status; cat"),
                    |spec| {
                        spec["process"]["user"] = json!({"uid": user, "gid": user});
                        spec["process"]["noNewPrivileges"] = json!(nnp);
                        if filtered {
                            spec["linux"]["seccomp"] = profile.clone();
                        }
                    },
                )
                .unwrap();
            rig.start(&id).unwrap();
            let mut given = process(&show);
            given["user"] = json!({"uid": user, "gid": user});
            given["noNewPrivileges"] = json!(nnp);
            let (exec, err, _) = rig.exec(&id, given).unwrap().finish();
            let mode = if filtered {
                "Seccomp:\t2\n"
            } else {
                "Seccomp:\t0\n"
            };
            assert!(exec.contains(mode), "{exec}{err}");
            seen.push((init.finish().0, exec.replace(mode, "")));
            rig.delete(&id).unwrap();
        }
        assert!(
            seen[0].0.contains("CapBnd:\t00000000a80425fb"),
            "{}",
            seen[0].0
        );
        assert_eq!(seen[0], seen[1], "uid {user}, no_new_privs {nnp}");
    }
    // Also what joins later is under the filter.
    let init = rig
        .create("join", &sh("cat"), |spec| {
            spec["linux"]["seccomp"] = profile
        })
        .unwrap();
    rig.start("join").unwrap();
    let (_, err, code) = rig
        .exec("join", process(&sh("mkdir /tmp/x")))
        .unwrap()
        .finish();
    assert!(code == 1 && err.contains("not permitted"), "{code} {err}");
    init.finish();
    rig.delete("join").unwrap();
    rig.assert_clean("join");
}

/// With and without `no_new_privs` a profile need allow nothing but what the program does.
pub fn the_filter_is_the_last_step_before_the_program(rig: &Rig) {
    let names = [
        "execve",
        "brk",
        "arch_prctl",
        "set_tid_address",
        "set_robust_list",
        "rseq",
        "prlimit64",
        "readlink",
        "readlinkat",
        "getrandom",
        "mprotect",
        "getuid",
        "write",
        "exit_group",
        "uname",
        "prctl",
        "newfstatat",
        "getgid",
        "setgid",
        "setuid",
    ];
    let profile = json!({"defaultAction": "SCMP_ACT_KILL_PROCESS",
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]});
    for nnp in [false, true] {
        let (out, err, code) = rig.run(&format!("last-{nnp}"), &["echo", "hello"], |spec| {
            spec["process"]["noNewPrivileges"] = json!(nnp);
            spec["process"]["user"] = json!({"uid": 7, "gid": 7});
            spec["linux"]["seccomp"] = profile.clone();
        });
        assert_eq!(
            (out.as_str(), code),
            ("hello\n", 0),
            "no_new_privs {nnp}: {err}"
        );
    }
    // A program that may not even be executed is named at the start.
    let made = rig
        .create("never", &["true"], |spec| {
            spec["linux"]["seccomp"] =
                all_but(json!({"names": ["execve"], "action": "SCMP_ACT_ERRNO"}));
        })
        .unwrap();
    let failure = rig.start("never").unwrap_err();
    assert!(failure.message.contains("execute /bin/true"), "{failure}");
    assert_eq!(made.finish().2, 126);
    rig.delete("never").unwrap();
    rig.assert_clean("never");
}

/// What container engines do not allow a container without special rights, or only in part.
const KEPT_BACK: &[&str] = &[
    "acct",
    "add_key",
    "bpf",
    "clone",
    "clone3",
    "delete_module",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "init_module",
    "kexec_load",
    "keyctl",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "personality",
    "pivot_root",
    "ptrace",
    "reboot",
    "request_key",
    "setns",
    "settimeofday",
    "swapon",
    "umount2",
    "unshare",
    "userfaultfd",
    "vhangup",
];

/// The shape that container engines send for a container without special rights: nothing but a
/// long list, `clone` without new namespaces, a few values of `personality`, ENOSYS for `clone3`.
fn like_that_of_engines(allowed: &[&str]) -> Value {
    // 8 is PER_LINUX32, which engines allow as well; here it stands for what they do not.
    let personalities = [0_u64, 0x20000, 0x20008, 0xffff_ffff];
    let mut syscalls = vec![
        json!({"names": allowed, "action": "SCMP_ACT_ALLOW"}),
        json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 0x7e02_0000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}),
        json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}),
    ];
    syscalls.extend(personalities.map(|value| {
        json!({"names": ["personality"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]})
    }));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": syscalls,
    })
}

pub fn a_profile_like_that_of_engines_works(rig: &Rig) {
    let table = std::fs::read_to_string("/usr/include/x86_64-linux-gnu/asm/unistd_64.h");
    let Ok(table) = table else {
        println!(
            "SKIPPED: a long list of system calls: no asm/unistd_64.h (package linux-libc-dev)"
        );
        return;
    };
    let allowed: Vec<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("#define __NR_")?.split(' ').next())
        .filter(|name| !KEPT_BACK.contains(name))
        .collect();
    assert!(allowed.len() > 300);
    // Everyday work with children, pipes and files, then what is kept from it.
    let script =
        "echo a | cat >/tmp/a && (cat /tmp/a; ls / | grep -c proc) && mkdir /tmp/d && id -u
        linux64 true && echo linux64
        linux32 true 2>&1 | grep -c 'not permitted'
        mount -t tmpfs none /tmp/d 2>&1 | grep -c denied
        unshare -m true 2>&1 | grep -c 'not permitted'
        true";
    let (out, err, code) = rig.run("engine", &sh(script), |spec| {
        spec["linux"]["seccomp"] = like_that_of_engines(&allowed);
        // The capability alone would let it.
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set]
                .as_array_mut()
                .unwrap()
                .push(json!("CAP_SYS_ADMIN"));
        }
    });
    assert_eq!(
        (out.as_str(), code),
        ("a\n1\n0\nlinux64\n1\n1\n1\n", 0),
        "{err}"
    );
}
