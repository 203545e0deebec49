//! Published escapes from containers, tried against this engine: each from an image, a
//! specification, or a container that runs. The table is in `src/engine/ESCAPES.md`.

use std::fs;
use std::os::unix::fs::{symlink, MetadataExt};

use serde_json::json;

use crate::bundle::{process, sh};
use crate::outside::{attempt, link, mounts, own_dev, state, Exchange, Outside};
use crate::rig::Rig;
use crate::task::reap_all_but;

/// CVE-2019-18837, CVE-2021-30465, CVE-2024-45310, CVE-2025-54867: links of an image in the way of
/// mounts, of the files they are mounted on, and of device nodes.
pub fn links_of_an_image_lead_to_its_own_root(rig: &Rig) {
    let outside = Outside::new(rig);
    let climbing = "../../../../../../../../../..";
    for (n, target) in [
        "/outside".into(),
        outside.dir.display().to_string(),
        format!("{climbing}{}", outside.dir.display()),
    ]
    .iter()
    .enumerate()
    {
        let id = format!("links{n}");
        let source = outside.path("sub");
        let seen = attempt(
            rig,
            &id,
            &sh("echo mine >/dir/file; echo mine >/deep/a/b/file; ls /dir /deep/a/b"),
            |spec| {
                for destination in ["/dir", "/deep/a/b", "/file"] {
                    mounts(spec).push(json!({"destination": destination, "type": "tmpfs"}));
                }
                mounts(spec).pop();
                mounts(spec).push(json!({"destination": "/file", "type": "bind",
                    "source": "/etc/hostname", "options": ["bind"]}));
            },
            |root| {
                link(root, "dir", target);
                link(root, "deep", target);
                link(root, "file", format!("{target}/made"));
                link(root, "dev", format!("{target}/sub"));
            },
        );
        let (out, err, code) = seen.unwrap_or_else(|failure| panic!("{target}: {failure}"));
        assert_eq!(code, 0, "{out}{err}");
        outside.assert_untouched();
        assert_eq!(fs::read_dir(&source).unwrap().count(), 0);
    }
}

/// CVE-2021-30465, CVE-2019-19921, CVE-2024-45310: another container with the same volume exchanges
/// a directory and a link while mounts are made.
pub fn an_exchange_while_mounts_are_made_changes_nothing_outside(rig: &Rig) {
    let outside = Outside::new(rig);
    let volume = rig.dir.path().join("volume");
    fs::create_dir_all(&volume).unwrap();
    let exchange = Exchange::start(&volume.join("racing"), &outside.dir);
    let mut made = 0;
    for round in 0..40 {
        let seen = attempt(
            rig,
            &format!("race{round}"),
            &sh("cat /volume/racing/secret 2>/dev/null; true"),
            |spec| {
                mounts(spec).extend([
                    json!({"destination": "/volume", "type": "bind", "source": volume, "options": ["rbind"]}),
                    json!({"destination": "/volume/racing/sub", "type": "tmpfs"}),
                    json!({"destination": "/volume/racing/new/deep", "type": "tmpfs"}),
                ]);
                spec["linux"]["maskedPaths"] =
                    json!(["/volume/racing/sub", "/volume/racing/secret"]);
                spec["linux"]["readonlyPaths"] = json!(["/volume/racing"]);
            },
            |_| {},
        );
        if let Ok((out, err, _)) = seen {
            assert_eq!(out, "", "{err}");
            made += 1;
        }
        outside.assert_untouched();
    }
    drop(exchange);
    println!("    {made} of 40 were made");
}

/// CVE-2019-16884, CVE-2019-19921, CVE-2023-27561, CVE-2023-28642, CVE-2025-54867: an image whose
/// `/proc` or `/sys` is a link, and volumes over parts of procfs.
pub fn procfs_is_where_it_has_to_be_or_there_is_no_container(rig: &Rig) {
    let outside = Outside::new(rig);
    for (n, (name, target)) in [
        ("proc", "/tmp"),
        ("proc", "/outside"),
        ("proc", "sys"),
        ("sys", "/tmp"),
        ("sys", "proc"),
    ]
    .into_iter()
    .enumerate()
    {
        let script = "grep -c ' /proc proc ' /proc/mounts; cat /proc/kcore /proc/keys | wc -c; \
            echo x >/proc/sys/kernel/hostname || echo refused; ls /sys/firmware | wc -l";
        let seen = attempt(
            rig,
            &format!("proc{n}"),
            &sh(script),
            |_| {},
            |root| {
                link(root, name, target);
            },
        );
        if let Ok((out, err, _)) = seen {
            assert_eq!(out, "1\n0\nrefused\n0\n", "{name} -> {target}: {err}");
        }
        outside.assert_untouched();
    }
    for (n, mount) in [
        json!({"destination": "/proc", "type": "bind", "source": outside.dir, "options": ["rbind"]}),
        json!({"destination": "/proc/self/attr", "type": "tmpfs"}),
        json!({"destination": "/proc/sys", "type": "bind", "source": outside.dir, "options": ["bind"]}),
        json!({"destination": "/proc/../proc/sys", "type": "tmpfs"}),
        json!({"destination": "/alias/sys", "type": "tmpfs"}),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("overproc{n}");
        let seen = attempt(
            rig,
            &id,
            &sh("cat /proc/sys/kernel/ostype"),
            |spec| mounts(spec).push(mount.clone()),
            |root| link(root, "alias", "/proc"),
        );
        let refused = seen.as_ref().is_err();
        assert!(refused, "{mount}: {seen:?}");
        outside.assert_untouched();
    }
}

/// CVE-2025-31133, CVE-2025-62161: an image replaces what masks are made of.
pub fn masks_are_not_made_of_what_an_image_has(rig: &Rig) {
    let outside = Outside::new(rig);
    for (n, target) in [
        "/proc/sys/kernel/core_pattern".into(),
        outside.path("secret"),
        "/tmp/none".into(),
    ]
    .into_iter()
    .enumerate()
    {
        let script = "cat /masked /proc/keys | wc -c; grep -c -e core_pattern -e secret /proc/self/mountinfo";
        let seen = attempt(
            rig,
            &format!("mask{n}"),
            &sh(script),
            |spec| {
                own_dev(spec);
                spec["linux"]["maskedPaths"] = json!(["/masked", "/proc/keys"]);
            },
            |root| {
                fs::write(root.join("masked"), "content\n").unwrap();
                link(root, "dev/null", &target);
            },
        );
        if let Ok((out, err, _)) = seen {
            assert_eq!(out, "0\n0\n", "{}: {err}", target.display());
        }
        outside.assert_untouched();
    }
    // A masked path that is itself a link leads nowhere else.
    let seen = attempt(
        rig,
        "masklink",
        &sh("cat /etc/link; true"),
        |spec| spec["linux"]["maskedPaths"] = json!(["/etc/link"]),
        |root| link(root, "etc/link", outside.path("secret")),
    );
    assert!(!seen.unwrap().0.contains("secret"));
    outside.assert_untouched();
}

/// CVE-2025-52565, CVE-2026-88264, CVE-2026-88265: an image lays links where the terminal and the
/// standard streams are bound or opened.
pub fn a_console_is_never_bound_where_a_link_says(rig: &Rig) {
    let outside = Outside::new(rig);
    let targets = [
        outside.path("new"),
        outside.path("secret"),
        "/proc/sysrq-trigger".into(),
    ];
    for (n, target) in targets.iter().enumerate() {
        for own in [false, true] {
            for terminal in [false, true] {
                let seen = attempt(
                    rig,
                    &format!("console{n}-{own}-{terminal}"),
                    &sh("echo said; ls -l /dev/console >&2; grep -c sysrq /proc/self/mountinfo"),
                    |spec| {
                        if own {
                            own_dev(spec);
                        }
                        spec["process"]["terminal"] = json!(terminal);
                        spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
                        spec["linux"]["readonlyPaths"] = json!([]);
                    },
                    |root| {
                        for name in ["console", "null", "ptmx", "tty", "stdin", "pts"] {
                            link(root, &format!("dev/{name}"), target);
                        }
                    },
                );
                if let Ok((out, err, _)) = seen {
                    assert!(out.starts_with("said"), "{out}{err}");
                    // Nothing that triggers anything is mounted.
                    assert_eq!(out.lines().last(), Some("0"), "{out}{err}");
                }
                outside.assert_untouched();
            }
        }
    }
}

/// CVE-2025-52881, CVE-2025-62596: what the engine writes to procfs goes to an image's file.
pub fn settings_are_written_to_procfs_or_not_at_all(rig: &Rig) {
    let outside = Outside::new(rig);
    let fake = rig.dir.path().join("fake");
    for (path, text) in [
        ("self/oom_score_adj", "0\n"),
        ("sys/net/ipv4/ip_forward", "7\n"),
        ("self/attr/exec", ""),
    ] {
        let path = fake.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let before = state(&fake);
    for (n, proc) in [
        json!({"destination": "/proc", "type": "bind", "source": fake, "options": ["rbind"]}),
        json!({"destination": "/proc/sys/net", "type": "bind", "source": fake.join("sys/net"), "options": ["bind"]}),
    ]
    .into_iter()
    .enumerate()
    {
        let seen = attempt(
            rig,
            &format!("fake{n}"),
            &sh("true"),
            |spec| {
                if n == 0 {
                    mounts(spec).retain(|mount| mount["destination"] != "/proc");
                }
                mounts(spec).push(proc.clone());
                spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
                spec["process"]["oomScoreAdj"] = json!(500);
                spec["linux"]["maskedPaths"] = json!([]);
                spec["linux"]["readonlyPaths"] = json!([]);
            },
            |_| {},
        );
        println!("    {:?}", seen.err().map(|failure| failure.message));
        assert_eq!(state(&fake), before, "{proc}");
        outside.assert_untouched();
    }
}

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
