//! What is said, and what is left, when a container cannot be made or started.

use std::fs;

use gcs::prot::HResult;
use serde_json::json;

use crate::bundle::sh;
use crate::rig::Rig;
use crate::task::{reap, reap_strays};

pub fn a_missing_program_fails_the_create_by_name(rig: &Rig) {
    for (program, words, errno) in [
        ("nothere", "\"nothere\" not found in PATH", "ENOENT"),
        ("/bin/nothere", "/bin/nothere", "ENOENT"),
        ("/etc", "/etc", "EISDIR"),
        ("/plain", "/plain", "EACCES"),
    ] {
        let failure = rig
            .create("miss", &[program], |_| {
                fs::write(rig.dir.path().join("c/miss/rootfs/plain"), "x").unwrap();
            })
            .err()
            .expect("a program that cannot run");
        println!("    {failure}");
        assert!(failure.message.contains(words), "{failure}");
        assert_eq!(failure.function(), Some(format!("execve: {errno}")));
        reap_strays();
        rig.assert_clean("miss");
        fs::remove_dir_all(rig.dir.path().join("c/miss")).unwrap();
    }
}

pub fn a_program_that_cannot_be_executed_fails_the_start(rig: &Rig) {
    let made = rig
        .create("bad", &["/bad"], |_| {
            let path = rig.dir.path().join("c/bad/rootfs/bad");
            fs::write(&path, "\x7fELF nonsense").unwrap();
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .unwrap();
        })
        .unwrap();
    let failure = rig.start("bad").unwrap_err();
    println!("    {failure}");
    assert!(
        failure.message.contains("/bad") && failure.message.contains("Exec format"),
        "{failure}"
    );
    assert_eq!(failure.function().as_deref(), Some("execve: ENOEXEC"));
    let (_, err, code) = made.finish();
    assert_eq!(code, 126);
    assert!(err.contains("Exec format"), "{err}");
    rig.delete("bad").unwrap();
    rig.assert_clean("bad");
}

pub fn a_failed_create_leaves_nothing_and_says_why(rig: &Rig) {
    type Change = fn(&mut serde_json::Value);
    let cases: [(&str, Change, &str); 7] = [
        (
            "source",
            |s| s["mounts"][5]["source"] = json!("/nowhere-here"),
            "",
        ),
        (
            "bind",
            |s| {
                s["mounts"].as_array_mut().unwrap().push(json!({"destination": "/x", "type": "bind", "source": "/nowhere-here", "options": ["bind"]}))
            },
            "/nowhere-here",
        ),
        (
            "root",
            |s| s["root"]["path"] = json!("/nowhere-root"),
            "nowhere-root",
        ),
        (
            "netns",
            |s| s["linux"]["namespaces"][4]["path"] = json!("/nowhere-ns"),
            "/nowhere-ns",
        ),
        (
            "cwd",
            // One that is missing is made, as by runc; this one cannot be.
            |s| s["process"]["cwd"] = json!("/bin/busybox/cwd"),
            "process.cwd: make \"/bin/busybox/cwd\": Not a directory (ENOTDIR)",
        ),
        (
            "seccomp",
            |s| s["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
            "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY",
        ),
        (
            "sysctl",
            |s| s["linux"]["sysctl"] = json!({"net.nonsense": "1"}),
            "net.nonsense",
        ),
    ];
    for (name, change, words) in cases {
        let id = format!("fail-{name}");
        match rig.create(&id, &["true"], change) {
            Err(failure) => {
                println!("    {failure}");
                assert!(failure.message.contains(words), "{failure}");
            }
            Ok(made) => {
                assert_eq!(name, "source", "{name} was accepted");
                rig.delete(&id).unwrap();
                reap(made.pid);
            }
        }
        reap_strays();
        rig.assert_clean(&id);
    }
}

pub fn an_id_in_use_is_refused_and_the_container_lives(rig: &Rig) {
    let made = rig.create("same", &sh("cat"), |_| {}).unwrap();
    let bundle = rig.dir.path().join("c/same");
    let failure = rig.create_from("same", &bundle).err().unwrap();
    assert_eq!(failure.code, HResult::SYSTEM_ALREADY_EXISTS);
    rig.start("same").unwrap();
    assert_eq!(made.finish().2, 0);
    rig.delete("same").unwrap();
    rig.assert_clean("same");
}
