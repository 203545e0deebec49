//! Published escapes from containers, tried against this engine by links of an image: the places
//! of mounts, devices and the terminal. The table is in `src/engine/ESCAPES.md`.

use std::fs;

use serde_json::json;

use crate::bundle::sh;
use crate::outside::{attempt, link, mounts, own_dev, Exchange, Outside};
use crate::rig::Rig;

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

/// CVE-2025-24965: a file of the image that another runtime reads its own settings from, and
/// writes to through a link.
pub fn nothing_in_an_image_configures_the_engine(rig: &Rig) {
    let outside = Outside::new(rig);
    for (n, target) in ["secret", "new"].into_iter().enumerate() {
        let seen = attempt(
            rig,
            &format!("configured{n}"),
            &sh("echo said"),
            |spec| {
                spec["annotations"] = json!({"run.oci.handler": "krun"});
            },
            |root| {
                for name in [".krun_config.json", ".dockerenv", "config.json"] {
                    link(root, name, outside.path(target));
                }
            },
        );
        let (out, err, code) = seen.unwrap();
        assert_eq!((out.as_str(), code), ("said\n", 0), "{err}");
        outside.assert_untouched();
    }
}
