//! The `image` command from the outside: the same bytes anywhere, an archive that the real cpio
//! reads, a manifest that tells when something changed, errors that name the entry.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const PROFILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/profiles");
const VALUES: [&str; 7] = [
    "image", "version", "commit", "branch", "date", "profile", "rustc",
];

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        std::fs::write(
            dir.path().join("init"),
            b"\x7fELF not really\n".repeat(1000),
        )
        .unwrap();
        std::fs::write(dir.path().join("busybox"), b"#!busybox").unwrap();
        std::fs::write(dir.path().join("bringup"), b"#!bringup").unwrap();
        std::fs::write(dir.path().join("applets"), "sh\ncat\ngcs\nls\ntest\n").unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `image build` through a shell prelude, such as another umask or time zone.
    fn build(&self, prelude: &str, profile: &Path, extra: &[&str]) -> Output {
        let mut command = Command::new("sh");
        command.current_dir(self.dir.path());
        command.args(["-c", &format!("{prelude} exec \"$@\""), "sh"]);
        command.arg(env!("CARGO_BIN_EXE_image")).arg("build");
        command.arg("--profile").arg(profile);
        command.args(["--input", "init=init", "--input", "busybox=busybox"]);
        command.args(["--input", "bringup=bringup"]);
        command.args([
            "--input",
            "busybox-applets=applets",
            "--output",
            "initrd.img",
        ]);
        for name in VALUES {
            command.args(["--value", &format!("{name}=the {name}")]);
        }
        command
            .args(["--epoch", "1700000000"])
            .args(extra)
            .output()
            .unwrap()
    }

    fn built(&self, prelude: &str, profile: &str, extra: &[&str]) -> (Vec<u8>, serde_json::Value) {
        let output = self.build(prelude, &Path::new(PROFILES).join(profile), extra);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let manifest = std::fs::read(self.path("initrd.manifest.json")).unwrap();
        let image = std::fs::read(self.path("initrd.img")).unwrap();
        (image, serde_json::from_slice(&manifest).unwrap())
    }

    fn verify(&self) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_image"));
        command
            .arg("verify")
            .arg(self.path("initrd.img"))
            .output()
            .unwrap()
    }
}

#[test]
fn the_same_inputs_give_the_same_bytes_anywhere() {
    for format in ["none", "gzip", "zstd"] {
        let (here, there) = (Place::new(), Place::new());
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
        std::fs::File::open(there.path("init"))
            .unwrap()
            .set_modified(old)
            .unwrap();
        let one = here.built("umask 022; TZ=UTC;", "debug.json", &["--format", format]);
        let prelude = "umask 077; chmod 600 init; export TZ=Asia/Tokyo LC_ALL=C;";
        let two = there.built(prelude, "debug.json", &["--format", format]);
        assert_eq!(one.0, two.0, "{format}: the images differ");
        assert_eq!(one.1, two.1, "{format}: the manifests differ");
        let mode = std::fs::metadata(there.path("initrd.img")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o644, "the umask shows");
    }
}

#[test]
fn one_changed_value_changes_the_image() {
    let place = Place::new();
    let before = place.built("", "ship.json", &[]).0;
    let after = place
        .built("", "ship.json", &["--value", "commit=another"])
        .0;
    assert_ne!(before, after);
}

#[test]
fn cpio_lists_and_unpacks_what_the_manifest_says() {
    if Command::new("cpio").arg("--version").output().is_err() {
        println!("SKIPPED: cpio is not installed, so the archive was not read by another program");
        return;
    }
    let place = Place::new();
    let (_, manifest) = place.built("", "debug.json", &["--format", "none"]);
    let shell = |script: &str| {
        let output = Command::new("sh")
            .args(["-ec", script])
            .current_dir(place.dir.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let listed: Vec<String> = shell("cpio -t --quiet <initrd.img")
        .lines()
        .map(|line| format!("/{line}"))
        .collect();
    let told: Vec<&str> = manifest["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["path"].as_str().unwrap())
        .collect();
    assert_eq!(listed, told);
    assert!(told.is_sorted(), "entries are in path order");

    shell("mkdir root; cd root; cpio -idm --quiet --no-preserve-owner init 'bin*' 'sbin*' var 'var/*' <../initrd.img");
    let root = place.path("root");
    let init = std::fs::metadata(root.join("init")).unwrap();
    assert_eq!(
        std::fs::read(root.join("init")).unwrap(),
        std::fs::read(place.path("init")).unwrap()
    );
    assert_eq!((init.mode() & 0o7777, init.mtime()), (0o755, 1_700_000_000));
    for name in [
        "bin/gcs",
        "bin/vsockexec",
        "bin/generichook",
        "sbin/mkfs.ext4",
    ] {
        assert_eq!(
            std::fs::metadata(root.join(name)).unwrap().ino(),
            init.ino(),
            "{name}"
        );
    }
    let link = |name: &str| std::fs::read_link(root.join(name)).unwrap();
    assert_eq!(link("var/run"), Path::new("/run"));
    for name in ["bin/sh", "bin/ls", "bin/test"] {
        assert_eq!(link(name), Path::new("busybox"), "{name}");
    }
}

#[test]
fn verify_accepts_each_format_and_refuses_any_change() {
    let place = Place::new();
    for format in ["none", "gzip", "zstd"] {
        place.built("", "debug.json", &["--format", format]);
        let output = place.verify();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let (image, _) = place.built("", "ship.json", &["--format", "none"]);
    let find = |text: &[u8]| {
        image
            .windows(text.len())
            .position(|part| part == text)
            .unwrap()
    };
    for (text, says) in [
        (&b"not really"[..], "other content"),
        (b"etc/passwd", "is missing"),
    ] {
        let mut changed = image.clone();
        changed[find(text)] ^= 1;
        std::fs::write(place.path("initrd.img"), changed).unwrap();
        let output = place.verify();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(says), "{error}");
    }
    std::fs::write(place.path("initrd.img"), &image[..image.len() / 2]).unwrap();
    assert!(!place.verify().status.success(), "half an image passes");
}

#[test]
fn a_wrong_profile_is_refused_with_its_entry_named() {
    let cases = [
        (
            r#"{"path": "/a", "file": "nowhere", "mode": "0644"}"#,
            "/a: no input \"nowhere\"",
        ),
        (
            r#"{"path": "/a", "text": "{secret}"}"#,
            "/a: no value \"secret\"",
        ),
        (
            r#"{"path": "/a/b", "text": ""}"#,
            "/a/b: its parent /a is not in the profile",
        ),
        (
            r#"{"path": "/a", "text": ""}, {"path": "/a", "dir": "0755"}"#,
            "/a: the path is there",
        ),
        (
            r#"{"path": "/a/../b", "dir": "0755"}"#,
            "/a/../b: a path must be absolute",
        ),
        (
            r#"{"path": "a", "dir": "0755"}"#,
            "a: a path must be absolute",
        ),
        (r#"{"path": "/a", "dir": "10755"}"#, "/a: mode 10755"),
        (r#"{"path": "/a", "same": "/b"}"#, "/a: /b is no file"),
        (r#"{"path": "/a", "dir": "rwx"}"#, "cannot be read"),
        (r#"{"path": "/a", "dirr": "0755"}"#, "cannot be read"),
    ];
    let place = Place::new();
    let profile = place.path("profile.json");
    for (entries, says) in cases {
        let text = format!(r#"{{"name": "test", "entries": [{entries}]}}"#);
        std::fs::write(&profile, text).unwrap();
        let output = place.build("", &profile, &[]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && error.contains(says),
            "{entries}: {error}"
        );
        assert!(
            !place.path("initrd.img").exists(),
            "{entries}: an image was left"
        );
    }
}

/// What `image sizes` says of a directory with a guest of this size, built with this profile.
fn sizes(guest: usize, profile: &str) -> Output {
    let place = Place::new();
    // Bytes that do not compress: a linear congruential generator's upper bits.
    let mut state = 1_u64;
    let bytes = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    });
    let bytes: Vec<u8> = bytes.take(guest).collect();
    std::fs::write(place.path("init"), bytes).unwrap();
    place.built("", "ship.json", &["--value", &format!("profile={profile}")]);
    std::fs::copy(place.path("initrd.img"), place.path("initrd-other.img")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_image"));
    command.arg("sizes").arg(place.path("")).output().unwrap()
}

#[test]
fn a_guest_over_its_budget_fails_and_is_named() {
    let said = |output: &Output| {
        let table = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), table, error)
    };
    let (passes, table, _) = said(&sizes(1 << 20, "guest"));
    assert!(passes, "{table}");
    for name in ["init ", "initrd.img ", "initrd-other.img "] {
        assert!(
            table.lines().any(|line| line.starts_with(name)),
            "{name} is not in\n{table}"
        );
    }
    // Fits as it is, not when compressed; does not fit at all.
    let (passes, _, error) = said(&sizes(2 << 20, "guest"));
    assert!(
        !passes && error.contains("initrd.img: 2") && !error.contains("init:"),
        "{error}"
    );
    let (passes, _, error) = said(&sizes((3 << 20) + 1, "guest"));
    assert!(
        !passes && error.contains("init: 3145729 bytes, 1 more"),
        "{error}"
    );
    // Nobody ships that one.
    let (passes, table, _) = said(&sizes(5 << 20, "guest-dev"));
    assert!(passes && table.contains("not the shipped build"), "{table}");
}
