//! Mounts, masks and links, as a container sees them.

use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;

use serde_json::{json, Value};

use crate::bundle::sh;
use crate::rig::Rig;

/// Its line in the list of mounts, from the mount point on.
const SHOW: &str = "grep ' /m ' /proc/self/mountinfo | cut -d' ' -f5-";

fn add(spec: &mut Value, mount: Value) {
    spec["mounts"].as_array_mut().unwrap().push(mount);
}

/// A shared mount of this process's namespace.
struct Shared(PathBuf);

impl Shared {
    fn new(rig: &Rig) -> Self {
        let path = rig.dir.path().join("shared");
        fs::create_dir_all(&path).unwrap();
        let shared = Self(path);
        shared.mount(&["-t", "tmpfs", "tmpfs"]);
        shared.mount(&["--make-shared"]);
        shared
    }

    fn mount(&self, args: &[&str]) {
        let done = Command::new("/bin/busybox")
            .arg("mount")
            .args(args)
            .arg(&self.0)
            .status();
        assert!(done.unwrap().success(), "mount {args:?}");
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let done = Command::new("/bin/busybox")
            .args(["umount", "-l"])
            .arg(&self.0)
            .status();
        assert!(done.unwrap().success());
    }
}

pub fn propagation_is_that_of_the_options(rig: &Rig) {
    let shared = Shared::new(rig);
    for (option, expected, refused) in [
        (None, "master:", "shared:"),
        (Some("rprivate"), "", "master:"),
        (Some("private"), "", "master:"),
        (Some("rshared"), "shared:", "master:"),
        (Some("shared"), "shared:", "master:"),
        (Some("rslave"), "master:", "shared:"),
        (Some("unbindable"), "unbindable", "master:"),
    ] {
        let id = format!("prop-{}", option.unwrap_or("none"));
        let (out, err, _) = rig.run(&id, &sh(SHOW), |spec| {
            let options: Vec<_> = ["rbind"].into_iter().chain(option).collect();
            add(spec, json!({"destination": "/m", "type": "none", "source": shared.0, "options": options}));
        });
        assert!(
            out.contains(expected) && !out.contains(refused),
            "{option:?}: {out}{err}"
        );
    }
}

pub fn options_are_those_of_the_specification(rig: &Rig) {
    let source = rig.dir.path().join("source");
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("f"), "F\n").unwrap();
    symlink("f", source.join("l")).unwrap();
    let bind = |options: &[&str]| json!({"destination": "/m", "type": "bind", "source": source, "options": options});
    let tmpfs =
        |options: &[&str]| json!({"destination": "/m", "type": "tmpfs", "options": options});
    for (nth, (mount, script, expected)) in [
        (
            bind(&["bind", "nosymfollow"]),
            "cat /m/f; cat /m/l 2>/dev/null",
            "F\n",
        ),
        (
            bind(&["bind", "ro"]),
            "(: >/m/x) 2>/dev/null || echo ro",
            "ro\n",
        ),
        (
            bind(&["rbind", "rro"]),
            "(: >/m/x) 2>/dev/null || echo ro",
            "ro\n",
        ),
        (
            tmpfs(&["mode=0700,uid=33"]),
            "ls -lnd /m | cut -c1-10; ls -nd /m | grep -c 33",
            "drwx------\n1\n",
        ),
        (tmpfs(&["ro"]), "(: >/m/x) 2>/dev/null || echo ro", "ro\n"),
        (
            tmpfs(&["silent", "iversion", "lazytime", "dirsync"]),
            "echo ran",
            "ran\n",
        ),
        (
            tmpfs(&["loud", "noiversion", "nolazytime", "async", "symfollow"]),
            "echo ran",
            "ran\n",
        ),
        (
            tmpfs(&["noexec", "nosuid", "nodev", "noatime"]),
            "grep -c ' /m rw,nosuid,nodev,noexec,noatime ' /proc/self/mountinfo",
            "1\n",
        ),
        (
            tmpfs(&["exec", "noexec", "exec"]),
            "grep ' /m ' /proc/self/mountinfo | grep -c noexec",
            "0\n",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let (out, err, _) = rig.run(&format!("opt{nth}"), &sh(script), |spec| {
            add(spec, mount.clone())
        });
        assert_eq!(out, expected, "{mount}: {err}");
    }
    // Twice: the second changes the first.
    let (out, err, _) = rig.run("again", &sh("(: >/m/x) 2>/dev/null || echo ro"), |spec| {
        add(spec, tmpfs(&[]));
        add(
            spec,
            json!({"destination": "/m", "options": ["remount", "bind", "ro"]}),
        );
    });
    assert_eq!(out, "ro\n", "{err}");
}

pub fn a_tmpfs_has_the_mode_of_what_it_covers(rig: &Rig) {
    let (out, err, _) = rig.run("mode", &sh("ls -ld /m | cut -c1-10"), |spec| {
        let place = rig.dir.path().join("c/mode/rootfs/m");
        fs::create_dir(&place).unwrap();
        fs::set_permissions(&place, PermissionsExt::from_mode(0o700)).unwrap();
        add(spec, json!({"destination": "/m", "type": "tmpfs"}));
    });
    assert_eq!(out, "drwx------\n", "{err}");
}

pub fn mount_points_are_made_where_links_lead(rig: &Rig) {
    for (nth, to) in [
        "../run/systemd/resolve/stub.conf",
        "/tmp/x",
        "/nix/store/x",
        "../../../../etc/y",
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("dangle{nth}");
        let (out, err, _) = rig.run(&id, &["cat", "/etc/resolv.conf"], |spec| {
            let bundle = rig.dir.path().join("c").join(&id);
            symlink(to, bundle.join("rootfs/etc/resolv.conf")).unwrap();
            fs::write(bundle.join("resolv"), "here\n").unwrap();
            // Relative to the bundle.
            add(spec, json!({"destination": "/etc/resolv.conf", "type": "bind", "source": "resolv", "options": ["bind"]}));
        });
        assert_eq!(out, "here\n", "{to}: {err}");
    }
}

pub fn a_read_only_path_keeps_the_other_flags(rig: &Rig) {
    let script = "/opt/tool; (: >/opt/x) 2>/dev/null || echo ro; grep ' /opt ' /proc/self/mountinfo | grep -c noexec";
    let (out, err, _) = rig.run("ropath", &sh(script), |spec| {
        let opt = rig.dir.path().join("c/ropath/rootfs/opt");
        fs::create_dir(&opt).unwrap();
        fs::write(opt.join("tool"), "#!/bin/sh\necho ran\n").unwrap();
        fs::set_permissions(opt.join("tool"), PermissionsExt::from_mode(0o755)).unwrap();
        spec["linux"]["readonlyPaths"] = json!(["/opt", "/not/there"]);
    });
    assert_eq!(out, "ran\nro\n0\n", "{err}");
}

/// Nodes and links are made in a device directory that is read-only in the end.
pub fn a_device_directory_may_be_read_only(rig: &Rig) {
    let script =
        "echo x >/dev/null && echo null; (: >/dev/x) 2>/dev/null || echo ro; readlink /dev/ptmx";
    let (out, err, _) = rig.run("rodev", &sh(script), |spec| {
        spec["mounts"][1]["options"] = json!(["nosuid", "mode=755", "ro"]);
    });
    assert_eq!(out, "null\nro\npts/ptmx\n", "{err}");
}

/// Only what says how large the machine is may be covered.
pub fn nothing_is_mounted_into_procfs(rig: &Rig) {
    let tmp = json!({"destination": "/proc/sys/kernel", "type": "tmpfs"});
    let failure = rig
        .create("inproc", &["true"], |spec| add(spec, tmp))
        .err()
        .unwrap();
    assert!(failure.message.contains("procfs"), "{failure}");
    rig.assert_clean("inproc");
    let (out, err, _) = rig.run("uptime", &["cat", "/proc/uptime"], |spec| {
        let file = rig.dir.path().join("uptime");
        fs::write(&file, "1 2\n").unwrap();
        add(spec, json!({"destination": "/proc/uptime", "type": "bind", "source": file, "options": ["bind"]}));
    });
    assert_eq!(out, "1 2\n", "{err}");
    // Nor is procfs where a link says.
    let failure = rig.create("proclink", &["true"], |_| {
        let root = rig.dir.path().join("c/proclink/rootfs");
        fs::remove_dir(root.join("proc")).unwrap();
        symlink("tmp", root.join("proc")).unwrap();
    });
    let failure = failure.err().unwrap();
    assert!(failure.message.contains("no directory"), "{failure}");
    rig.assert_clean("proclink");
}

/// The kernel's reason, where it has one.
pub fn a_refused_option_is_named(rig: &Rig) {
    let failure = rig.create("badopt", &["true"], |spec| {
        add(
            spec,
            json!({"destination": "/m", "type": "tmpfs", "options": ["size=moon"]}),
        );
    });
    let failure = failure.err().unwrap();
    println!("    {failure}");
    for words in ["mounts[7]: mount /m", "size=moon", "EINVAL"] {
        assert!(failure.message.contains(words), "{failure}");
    }
    rig.assert_clean("badopt");
}

/// `tmpcopyup`: with owners, modes and links, which are not followed.
pub fn what_a_tmpfs_covers_can_be_copied_into_it(rig: &Rig) {
    let script = "cd /m; cat a/file; readlink link; ls -ln a/file | cut -c1-10; ls -n a/file | { read m n u g r; echo $u $g; }
        ls -ld a | cut -c1-10; echo new >a/file; grep -c ' /m .* tmpfs ' /proc/self/mountinfo";
    let root = rig.dir.path().join("c/copy/rootfs");
    let (out, err, _) = rig.run("copy", &sh(script), |spec| {
        fs::create_dir_all(root.join("m/a")).unwrap();
        fs::write(root.join("m/a/file"), "text\n").unwrap();
        std::os::unix::fs::chown(root.join("m/a/file"), Some(7), Some(8)).unwrap();
        let mode = |name: &str, mode| {
            fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        mode("m/a/file", 0o640);
        mode("m/a", 0o710);
        symlink("/etc/passwd", root.join("m/link")).unwrap();
        let tmpfs = json!({"destination": "/m", "type": "tmpfs", "options": ["tmpcopyup"]});
        add(spec, tmpfs);
    });
    let expected = "text\n/etc/passwd\n-rw-r-----\n7 8\ndrwx--x---\n1\n";
    assert_eq!(out, expected, "{err}");
    // The image's own file is what it was.
    assert_eq!(fs::read(root.join("m/a/file")).unwrap(), b"text\n");
}
