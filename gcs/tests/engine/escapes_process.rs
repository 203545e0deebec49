//! Published escapes from containers, tried against this engine by what a process has from its
//! makers: directories, descriptors, rights, memory. The table is in `src/engine/ESCAPES.md`.

use std::fs;
use std::os::unix::fs::{symlink, MetadataExt};

use serde_json::json;

use crate::bundle::{process, sh};
use crate::outside::{attempt, Outside};
use crate::rig::Rig;
use crate::task::reap_all_but;

/// CVE-2024-21626: a working directory, or a program, by way of a descriptor that was left open.
pub fn a_working_directory_is_in_the_root(rig: &Rig) {
    let outside = Outside::new(rig);
    let secret = outside.path("secret");
    let script = format!(
        "pwd; for up in . .. ../.. ../../.. ../../../.. ../../../../../..; do cat $up{0} 2>/dev/null; done; true",
        secret.display()
    );
    let waiting = rig.create("cwd-exec", &sh("cat"), |_| {}).unwrap();
    rig.start("cwd-exec").unwrap();
    let mut tried = 0..;
    let mut id = || format!("cwd{}", tried.next().unwrap_or(0));
    for number in 0..24 {
        for cwd in [
            format!("/proc/self/fd/{number}"),
            format!("/proc/self/fd/{number}/../.."),
            format!("/link{number}"),
        ] {
            let seen = attempt(
                rig,
                &id(),
                &sh(&script),
                |spec| spec["process"]["cwd"] = json!(cwd),
                |root| {
                    symlink(
                        format!("/proc/self/fd/{number}"),
                        root.join(format!("link{number}")),
                    )
                    .unwrap()
                },
            );
            if let Ok((out, err, _)) = seen {
                assert!(!out.contains("secret\n"), "{cwd}: {out}{err}");
            }
            let mut given = process(&sh(&script));
            given["cwd"] = json!(cwd);
            match rig.exec("cwd-exec", given) {
                Ok(made) => {
                    let (out, err, _) = made.finish();
                    assert!(!out.contains("secret\n"), "{cwd}: {out}{err}");
                }
                Err(_) => reap_all_but(waiting.pid),
            }
        }
        let program = format!("/proc/self/fd/{number}/bin/sh");
        let seen = attempt(rig, &id(), &[&program, "-c", &script], |_| {}, |_| {});
        if let Ok((out, err, _)) = seen {
            assert!(!out.contains("secret\n"), "{program}: {out}{err}");
        }
    }
    // What joins has the standard streams and no more.
    let (out, err, _) = rig
        .exec("cwd-exec", process(&["ls", "/proc/self/fd"]))
        .unwrap()
        .finish();
    assert_eq!(out, "0\n1\n2\n3\n", "{err}");
    waiting.finish();
    rig.delete("cwd-exec").unwrap();
    outside.assert_untouched();
}

/// CVE-2019-5736: a container gets at the engine's own file, or at anything else of the process
/// that joins it, before that has executed its program.
pub fn a_process_that_joins_cannot_be_looked_into(rig: &Rig) {
    let own = fs::metadata("/proc/self/exe").unwrap();
    let script = "while [ ! -e /tmp/stop ]; do for p in /proc/[0-9]*; do
        to=$(readlink $p/exe 2>/dev/null) && [ \"$to\" != /bin/busybox ] && echo exe $to
        ls -d $p/root/proc/1/root/usr/include 2>/dev/null
        done; done";
    let watching = rig.create("watch", &sh(script), |_| {}).unwrap();
    rig.start("watch").unwrap();
    for _ in 0..30 {
        let (_, err, code) = rig.exec("watch", process(&["true"])).unwrap().finish();
        assert_eq!(code, 0, "{err}");
    }
    // The engine's own program as the container's.
    for (id, args) in [
        ("selfexe", ["/proc/self/exe", "true"]),
        ("initexe", ["/proc/1/exe", "true"]),
    ] {
        match rig.exec("watch", process(&args)) {
            Ok(made) => drop(made.finish()),
            Err(_) => reap_all_but(watching.pid),
        }
        let seen = attempt(rig, id, &args, |_| {}, |_| {});
        println!("    {args:?}: {:?}", seen.map(|seen| seen.2));
    }
    rig.exec("watch", process(&["touch", "/tmp/stop"]))
        .unwrap()
        .finish();
    let (out, err, _) = watching.finish();
    rig.delete("watch").unwrap();
    assert_eq!(out, "", "{err}");
    let after = fs::metadata("/proc/self/exe").unwrap();
    let same = |about: &fs::Metadata| (about.len(), about.mtime(), about.mtime_nsec(), about.ino());
    assert_eq!(same(&after), same(&own));
    rig.assert_clean("watch");
}

/// CVE-2022-29162, CVE-2022-27650, CVE-2025-27612: capabilities that a process was not given.
pub fn no_capability_is_inherited_that_was_not_given(rig: &Rig) {
    let init = rig.create("caps", &sh("cat"), |_| {}).unwrap();
    rig.start("caps").unwrap();
    let show = ["grep", "-E", "^Cap(Inh|Amb)", "/proc/self/status"];
    let empty = "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n";
    let mut given = process(&show);
    let (out, err, _) = rig.exec("caps", given.clone()).unwrap().finish();
    assert_eq!(out, empty, "{err}");
    let few = json!(["CAP_KILL", "CAP_NET_RAW"]);
    given["capabilities"] = json!({"bounding": few, "effective": few, "permitted": few});
    let (out, err, _) = rig.exec("caps", given).unwrap().finish();
    assert_eq!(out, empty, "{err}");
    init.finish();
    rig.delete("caps").unwrap();
    let (out, err, _) = rig.run("capsinit", &show, |_| {});
    assert_eq!(out, empty, "{err}");
}

/// CVE-2023-25809: the control groups of the VM are written from a container.
pub fn control_groups_cannot_be_written(rig: &Rig) {
    let script = "find /sys/fs/cgroup -type d | while read d; do mkdir $d/escape 2>/dev/null && echo made $d; done
        find /sys/fs/cgroup -name cgroup.procs | while read f; do (echo 1 >$f) 2>/dev/null && echo wrote $f; done
        find /sys/fs/cgroup -name release_agent | while read f; do (echo /x >$f) 2>/dev/null && echo wrote $f; done; true";
    for own in [false, true] {
        let (out, err, code) = rig.run(&format!("groups{own}"), &sh(script), |spec| {
            if own {
                let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
                namespaces.push(json!({"type": "cgroup"}));
            }
        });
        assert_eq!((out.as_str(), code), ("", 0), "own namespace {own}: {err}");
    }
}

/// CVE-2021-43784: a text whose length does not fit into 16 bits, with a message of the runtime's
/// own in what is left of it.
pub fn a_long_text_is_nothing_but_a_text(rig: &Rig) {
    for length in [65_535, 65_536, 65_600] {
        let text = "x".repeat(length);
        let id = format!("long{length}");
        let failure = rig.create(&id, &["true"], |spec| {
            spec["linux"]["namespaces"][0]["path"] = json!(format!("/{text}"));
        });
        let failure = failure.err().expect("no path is as long as that");
        for words in ["linux.namespaces[0].path", "/xxx"] {
            assert!(failure.message.contains(words), "{failure}");
        }
        rig.assert_clean(&id);
        // A text that may be long stays what it is.
        let (out, err, _) = rig.run(
            &format!("env{length}"),
            &sh("echo ${#LONG}; id -u"),
            |spec| {
                let env = spec["process"]["env"].as_array_mut().unwrap();
                env.push(json!(format!("LONG={text}")));
                spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
            },
        );
        assert_eq!(out, format!("{length}\n1000\n"), "{err}");
    }
}
