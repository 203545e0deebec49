//! Images as they were packed: layers, owners, modes, links, capabilities, a whole Debian.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{common, run, said};

type Tar = tar::Builder<Vec<u8>>;

pub fn busybox() -> Option<Vec<u8>> {
    let paths = ["/usr/bin/busybox", "/bin/busybox"];
    let found = paths.iter().find_map(|path| std::fs::read(path).ok());
    if found.is_none() {
        eprintln!("SKIPPED: busybox is not installed (Debian: busybox-static)");
    }
    found
}

/// A layer: path, mode, owner, contents; a path that ends in `/` is a directory, and contents
/// that begin with `->` are a symlink.
fn tar(entries: &[(&str, u32, u64, &[u8])]) -> Tar {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, mode, owner, data) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(*mode);
        header.set_uid(*owner);
        header.set_gid(*owner);
        header.set_size(0);
        if let Some(target) = data.strip_prefix(b"->") {
            header.set_entry_type(tar::EntryType::Symlink);
            let target = std::str::from_utf8(target).unwrap();
            tar.append_link(&mut header, path, target).unwrap();
        } else if path.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, path, &b""[..]).unwrap();
        } else {
            header.set_size(data.len() as u64);
            tar.append_data(&mut header, path, *data).unwrap();
        }
    }
    tar
}

pub fn layer(entries: &[(&str, u32, u64, &[u8])]) -> Vec<u8> {
    tar(entries).into_inner().unwrap()
}

pub fn docker_save(layers: &[Vec<u8>], config: serde_json::Value) -> Vec<u8> {
    let digest = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
    let diff_ids: Vec<_> = layers
        .iter()
        .map(|l| format!("sha256:{}", digest(l)))
        .collect();
    let config = json!({"os": "linux", "architecture": "amd64", "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    .to_string()
    .into_bytes();
    let names: Vec<_> = layers
        .iter()
        .map(|l| format!("blobs/sha256/{}", digest(l)))
        .collect();
    let config_name = format!("blobs/sha256/{}", digest(&config));
    let manifest = json!([{"Config": config_name, "RepoTags": ["t:1"], "Layers": names}]);
    let manifest = manifest.to_string();
    let mut files: Vec<(&str, u32, u64, &[u8])> = Vec::new();
    for (name, bytes) in names.iter().zip(layers) {
        files.push((name, 0o644, 0, bytes));
    }
    files.push((&config_name, 0o644, 0, &config));
    files.push(("manifest.json", 0o644, 0, manifest.as_bytes()));
    layer(&files)
}

#[test]
fn layers_lie_on_each_other_as_they_were_packed() {
    let Some(busybox) = busybox() else { return };
    let bottom = layer(&[
        ("bin/", 0o755, 0, b""),
        ("bin/busybox", 0o755, 0, &busybox),
        ("bin/sh", 0o777, 0, b"->busybox"),
        ("etc/passwd", 0o644, 0, b"app:x:1234:1234::/:/bin/sh\n"),
        ("etc/group", 0o644, 0, b"app:x:1234:\n"),
        ("d/hidden", 0o644, 0, b"x"),
        ("d/kept", 0o644, 0, b"kept"),
        ("opaque/below", 0o644, 0, b"x"),
        ("both", 0o644, 0, b"old"),
    ]);
    let middle = layer(&[("d/.wh.hidden", 0o644, 0, b""), ("both", 0o644, 0, b"new")]);
    let top = layer(&[
        ("opaque/", 0o750, 1234, b""),
        ("opaque/.wh..wh..opq", 0o644, 0, b""),
        ("opaque/above", 0o4755, 1234, b"y"),
    ]);
    let config = json!({"Entrypoint": ["/bin/sh", "-c"], "Cmd": ["exit 3"], "Env": ["A=1"],
        "WorkingDir": "/opaque", "User": "app"});
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image.tar");
    std::fs::write(&image, docker_save(&[bottom, middle, top], config)).unwrap();
    let image = image.to_str().unwrap();

    let script = "b=/bin/busybox; $b ls /d /opaque; $b cat /both; echo; $b stat -c '%a %u' above; \
        pwd; echo $A; $b id -u; echo mine > new && $b cat new; $b rm above; $b ls";
    let Some(done) = run(&["--image", image, "--", script], b"") else {
        return;
    };
    let expected = "/d:\nkept\n\n/opaque:\nabove\nnew\n4755 1234\n/opaque\n1\n1234\nmine\nnew\n";
    said(&done, 0, expected);
    // Writes went to a scratch disk that is gone.
    let script = "/bin/busybox ls /opaque; exit 4";
    said(
        &run(&["--image", image, "--", script], b"").unwrap(),
        4,
        "above\n",
    );
    said(&run(&["--image", image], b"").unwrap(), 3, "");
}

/// A file with the capability to change owners, as a tar entry with its PAX header.
fn capable(tar: &mut Tar, path: &str, data: &[u8]) {
    // Version 2 and "effective"; CAP_CHOWN is bit 0.
    let capability = b"\x01\0\0\x02\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let records = [("SCHILY.xattr.security.capability", &capability[..])];
    tar.append_pax_extensions(records).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o755);
    header.set_size(data.len() as u64);
    tar.append_data(&mut header, path, data).unwrap();
}

#[test]
fn a_layer_is_made_with_sight_of_those_below() {
    let Some(busybox) = busybox() else { return };
    let mut bottom = tar(&[
        ("bin/", 0o755, 0, b""),
        ("bin/busybox", 0o755, 0, &busybox),
        ("tmp/", 0o1777, 0, b""),
        ("data/", 0o700, 1000, b""),
        ("data/a", 0o600, 1000, b"a"),
        ("usr/lib/", 0o755, 0, b""),
        ("usr/lib/old.so", 0o644, 0, b"old"),
        ("lib", 0o777, 0, b"->usr/lib"),
        ("gone/deep/x", 0o644, 0, b""),
    ]);
    capable(&mut bottom, "bin/busybox-own", &busybox);
    let mut top = tar(&[
        ("tmp/x", 0o644, 0, b""),
        ("data/b", 0o644, 0, b"b"),
        ("lib/new.so", 0o644, 0, b"new"),
        (".wh.gone", 0o644, 0, b""),
        ("gone/deep/.wh.x", 0o644, 0, b""),
        ("n/Icon\r", 0o644, 0, b""),
        ("n/a\nb", 0o644, 0, b""),
    ]);
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Link);
    link.set_size(0);
    top.append_link(&mut link, "hard", "data/a").unwrap();

    let layers = [bottom.into_inner().unwrap(), top.into_inner().unwrap()];
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image.tar");
    std::fs::write(&image, docker_save(&layers, json!({}))).unwrap();
    let image = image.to_str().unwrap();
    let script = "b=/bin/busybox; $b stat -c '%a %u:%g %n' /tmp /data; $b cat /hard /data/b /lib/old.so \
        /usr/lib/new.so; echo; $b readlink /lib; $b stat -c %h /hard; cd /n; for f in *; do $b printf %s \"$f\" | \
        $b od -An -tx1; done; $b test -e /gone || echo gone";
    let Some(done) = run(
        &["--image", image, "--", "/bin/busybox", "sh", "-c", script],
        b"",
    ) else {
        return;
    };
    let expected = "1777 0:0 /tmp\n700 1000:1000 /data\naboldnew\nusr/lib\n2\n 49 63 6f 6e 0d\n \
        61 0a 62\ngone\n";
    said(&done, 0, expected);
    // A capability of a file is one for whoever runs it.
    let script = "b=/bin/busybox; $b touch /tmp/f; $b chown 0 /tmp/f 2>/dev/null || echo not yet; \
        /bin/busybox-own chown 0 /tmp/f && $b stat -c %u /tmp/f";
    let words = [
        "--image",
        image,
        "-u",
        "1000:1000",
        "--",
        "/bin/busybox",
        "sh",
        "-c",
        script,
    ];
    said(&run(&words, b"").unwrap(), 0, "not yet\n0\n");
}

/// Debian as debootstrap makes it, kept between runs; `None` and a loud word when it cannot be had.
fn debian() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian-bookworm");
    if root.exists() {
        return Some(root);
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: debootstrap wants root");
        return None;
    }
    let making = root.with_extension("making");
    drop(std::fs::remove_dir_all(&making));
    let done = Command::new("debootstrap")
        .args(["--variant=minbase", "bookworm"])
        .arg(&making)
        .stdin(Stdio::null())
        .output();
    match done {
        Ok(done) if done.status.success() => {
            std::fs::rename(&making, &root).unwrap();
            Some(root)
        }
        Ok(done) => {
            let words = String::from_utf8_lossy(&done.stdout);
            let last = words.lines().last().unwrap_or_default();
            eprintln!("SKIPPED: debootstrap failed ({}): {last}", done.status);
            None
        }
        Err(e) => {
            eprintln!("SKIPPED: debootstrap (Debian: debootstrap): {e}");
            None
        }
    }
}

#[test]
fn a_real_debian_runs_real_programs() {
    if common::kernel().is_none() || common::initrd().is_none() {
        return;
    }
    let Some(root) = debian() else {
        return;
    };
    let script = "apt --version | cut -d' ' -f1; perl -e 'print 6*7, qq(\\n)'; \
        stat -c '%a %U %G' /usr/bin/passwd /var/mail; echo x > /usr/x && dpkg -L dash | grep -c bin";
    let root = root.to_str().unwrap();
    let done = run(&["--image", root, "--", "sh", "-c", script], b"").unwrap();
    said(&done, 0, "apt\n42\n4755 root root\n2775 root mail\n4\n");
}
