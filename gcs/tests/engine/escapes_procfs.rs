//! Published escapes from containers, tried against this engine by `/proc`: where it is, what
//! hides parts of it, and what is written to it. The table is in `src/engine/ESCAPES.md`.

use std::fs;

use serde_json::json;

use crate::bundle::sh;
use crate::outside::{attempt, link, mounts, own_dev, state, Outside};
use crate::rig::Rig;

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
