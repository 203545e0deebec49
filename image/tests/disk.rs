//! `image disk` from the outside: the root file system of an initrd as the programs of others see
//! it, and the same bytes whatever machine makes it.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

const NAMES: [&str; 3] = ["rootfs.vhd", "rootfs.hash.vhd", "rootfs.verity.json"];
const FOOTER: usize = 512;

fn image(dir: &Path, prelude: &str, words: &[&str]) -> Output {
    let mut command = Command::new("sh");
    command.current_dir(dir);
    command.args(["-c", &format!("{prelude} exec \"$@\""), "sh"]);
    let done = command
        .arg(env!("CARGO_BIN_EXE_image"))
        .args(words)
        .output();
    done.unwrap()
}

/// An initrd of the shipped profile with a made-up guest of three blocks and a bit.
fn initrd() -> TempDir {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("init"), b"\x7fELF not really\n".repeat(800)).unwrap();
    let profile = concat!(env!("CARGO_MANIFEST_DIR"), "/profiles/ship.json");
    let mut words = vec!["build", "--profile", profile, "--input", "init=init"];
    let values = [
        "image", "version", "commit", "branch", "date", "profile", "rustc",
    ];
    let values = values.map(|name| format!("{name}=the {name}"));
    for value in &values {
        words.extend(["--value", value]);
    }
    words.extend(["--epoch", "1700000000", "--output", "initrd.img"]);
    let done = image(dir.path(), "", &words);
    assert!(done.status.success(), "{done:?}");
    dir
}

fn disks(dir: &Path, prelude: &str) -> Option<[Vec<u8>; 3]> {
    let words = ["disk", "--initrd", "initrd.img", "--output", "disks"];
    let done = image(dir, prelude, &words);
    let said = String::from_utf8_lossy(&done.stderr);
    if said.contains("not installed") {
        println!("SKIPPED: no root file system was made: {}", said.trim());
        return None;
    }
    assert!(done.status.success(), "{said}");
    Some(NAMES.map(|name| std::fs::read(dir.join("disks").join(name)).unwrap()))
}

fn there(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    std::env::set_var("PATH", path);
    let found = Command::new(program).arg("-V").output().is_ok();
    if !found {
        println!("SKIPPED: {program} is not installed, so another program has not seen the disk");
    }
    found
}

#[test]
fn the_same_initrd_gives_the_same_disks_anywhere() {
    let (here, there) = (initrd(), initrd());
    let Some(one) = disks(here.path(), "umask 022; export TZ=UTC;") else {
        return;
    };
    let prelude = "umask 077; export TZ=Asia/Tokyo LC_ALL=C MKE2FS_CONFIG=/nowhere;";
    let two = disks(there.path(), prelude).unwrap();
    for (name, (one, two)) in NAMES.iter().zip(one.iter().zip(&two)) {
        assert_eq!(one, two, "{name} differs");
    }
}

#[test]
fn the_file_system_is_what_the_manifest_says() {
    let dir = initrd();
    if disks(dir.path(), "").is_none() || !there("debugfs") {
        return;
    }
    let debugfs = |request: &str| {
        let mut command = Command::new("debugfs");
        command.current_dir(dir.path());
        let done = command
            .args(["-R", request, "disks/rootfs.vhd"])
            .output()
            .unwrap();
        done.stdout
    };
    let manifest = std::fs::read(dir.path().join("initrd.manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let entries = manifest["entries"].as_array().unwrap();
    assert!(entries.len() > 20);
    for entry in entries {
        let path = entry["path"].as_str().unwrap();
        let text = String::from_utf8(debugfs(&format!("stat {path}"))).unwrap();
        let (kind, size) = match entry["type"].as_str().unwrap() {
            "file" => ("regular", entry["size"].as_u64()),
            "symlink" => ("symlink", None),
            "directory" => ("directory", None),
            "char" => ("character special", None),
            other => panic!("{path} is a {other}"),
        };
        let mode = entry["mode"].as_str().unwrap().trim_start_matches('0');
        let mode = format!("Type: {kind}    Mode:  0{mode} ");
        assert!(text.contains(&mode), "{path}: {mode:?} is not in\n{text}");
        assert!(
            text.contains("User:     0   Group:     0"),
            "{path}:\n{text}"
        );
        // 1700000000
        assert!(text.contains("mtime: 0x6553f100"), "{path}:\n{text}");
        if let Some(size) = size {
            assert!(text.contains(&format!("Size: {size}\n")), "{path}:\n{text}");
        }
    }
    // One file with as many names as in the initrd.
    let names = entries
        .iter()
        .filter(|entry| entry["same"] == "/init")
        .count();
    let text = String::from_utf8(debugfs("stat /bin/gcs")).unwrap();
    assert!(text.contains(&format!("Links: {} ", names + 1)), "{text}");
    let program = std::fs::read(dir.path().join("init")).unwrap();
    assert_eq!(debugfs("cat /startup.sh"), program);
}

#[test]
fn another_program_verifies_both_forms_and_refuses_a_changed_bit() {
    let dir = initrd();
    let Some([root, hashes, facts]) = disks(dir.path(), "") else {
        return;
    };
    if !there("veritysetup") {
        return;
    }
    let facts: serde_json::Value = serde_json::from_slice(&facts).unwrap();
    let digest = facts["root_hash"].as_str().unwrap();
    let offset = facts["data_blocks"].as_u64().unwrap() * 4096;
    let write = |name: &str, disk: &[u8]| {
        std::fs::write(dir.path().join(name), &disk[..disk.len() - FOOTER]).unwrap();
    };
    write("root", &root);
    write("hashes", &hashes);
    let verify = |words: &[&str]| {
        let mut command = Command::new("veritysetup");
        command.current_dir(dir.path()).arg("verify").args(words);
        command.arg(digest).output().unwrap().status.success()
    };
    let offset = format!("--hash-offset={offset}");
    assert!(verify(&[&offset, "root", "root"]), "the combined form");
    assert!(verify(&["root", "hashes"]), "the separate form");
    let mut changed = root.clone();
    changed[5000] ^= 1;
    write("root", &changed);
    assert!(!verify(&[&offset, "root", "root"]), "a changed bit passes");
}

#[test]
fn the_disks_are_fixed_vhds() {
    let dir = initrd();
    if disks(dir.path(), "").is_none() || !there("qemu-img") {
        return;
    }
    for name in &NAMES[..2] {
        let mut command = Command::new("qemu-img");
        command.current_dir(dir.path().join("disks"));
        let words = ["info", "--output=json", "-f", "vpc", name];
        let done = command.args(words).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        let info: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
        let bytes = std::fs::metadata(dir.path().join("disks").join(name))
            .unwrap()
            .len();
        assert_eq!(info["virtual-size"], bytes - FOOTER as u64, "{name}");
        assert_eq!(
            info["virtual-size"].as_u64().unwrap() % (2 << 20),
            0,
            "{name}"
        );
    }
}
