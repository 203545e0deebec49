//! The shipping set from the outside: the same bytes from two checkouts, all or nothing, and
//! nothing of this machine in what ships.
//!
//! The guest is compiled a second time too; the kernel is that of `make`, and `make dist-check`
//! builds it again.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

/// A built file, or nothing and a word.
fn built(name: &str) -> Option<PathBuf> {
    let path = top().join("out").join(name);
    if path.exists() {
        return Some(path);
    }
    println!("SKIPPED: out/{name} is not there: run `make`");
    None
}

/// A copy of the checkout's files, with what is built once.
struct Checkout(TempDir);

impl Checkout {
    fn new(parent: &Path) -> Option<Self> {
        let dir = tempfile::Builder::new()
            .prefix("checkout-")
            .tempdir_in(parent)
            .unwrap();
        let files = Command::new("git")
            .args([
                "-C",
                top().to_str().unwrap(),
                "ls-files",
                "-co",
                "--exclude-standard",
                "-z",
            ])
            .output()
            .unwrap();
        if !files.status.success() {
            println!("SKIPPED: no git checkout, so no second one was made");
            return None;
        }
        let files = String::from_utf8(files.stdout).unwrap();
        for file in files.split_terminator('\0') {
            copy(&top().join(file), &dir.path().join(file));
        }
        for name in [
            "init",
            "bringup",
            "bzImage",
            "vmlinux",
            "kernel.config",
            "kernel.source.json",
        ] {
            copy(&built(name)?, &dir.path().join("out").join(name));
        }
        // Only where the guest was linked with Debian's.
        let unwinder = "target/guest/lib";
        for file in ["libunwind.a", "version"].map(|file| Path::new(unwinder).join(file)) {
            if top().join(&file).exists() {
                copy(&top().join(&file), &dir.path().join(&file));
            }
        }
        copy(
            &top().join("target/guest/info"),
            &dir.path().join("target/guest/info"),
        );
        copy(
            Path::new(env!("CARGO_BIN_EXE_image")),
            &dir.path().join("target/image-tool"),
        );
        Some(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Packs the initrd and gathers the set, by the scripts that `make dist` runs.
    fn dist(&self, around: &[&str], prelude: &str) -> Output {
        let script = format!("{prelude} image/scripts/image.sh && image/scripts/dist.sh");
        let mut command = match around {
            [] => Command::new("bash"),
            [program, words @ ..] => {
                let mut command = Command::new(program);
                command.args(words).arg("bash");
                command
            }
        };
        // Without a commit to ask for, all that it says is from here.
        command.args(["-c", &script]).current_dir(self.path());
        command
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .env("CARGO_NET_OFFLINE", "true");
        command.env_remove("IMAGE_XFS").env_remove("IMAGE_FORMAT");
        command.output().unwrap()
    }

    /// With which cargo profile `make` compiled the guest.
    fn guest_profile(&self) -> String {
        let info = std::fs::read_to_string(self.path().join("target/guest/info")).unwrap();
        let profile = info.lines().find_map(|line| line.strip_prefix("profile="));
        profile.expect("a profile").to_owned()
    }

    /// Every file of the set, with mode, time and content.
    fn set(&self) -> Vec<(PathBuf, u32, i64, Vec<u8>)> {
        let (mut dirs, mut files) = (vec![self.path().join("out/dist")], Vec::new());
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                    continue;
                }
                let about = path.metadata().unwrap();
                let name = path.strip_prefix(self.path()).unwrap().to_path_buf();
                let bytes = std::fs::read(&path).unwrap();
                files.push((name, about.mode(), about.mtime(), bytes));
            }
        }
        files.sort();
        files
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::copy(from, to).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn shell(script: &str) -> Output {
    Command::new("bash").args(["-c", script]).output().unwrap()
}

/// Runs something as another user, who may read what root keeps for itself. Empty, with a word,
/// where this user cannot.
fn another_user() -> Vec<&'static str> {
    let words = [
        "setpriv",
        "--securebits=+no_setuid_fixup",
        "--reuid=nobody",
        "--regid=nogroup",
        "--clear-groups",
        "--inh-caps=-all,+dac_read_search",
        "--ambient-caps=+dac_read_search",
    ];
    let works = Command::new(words[0])
        .args(&words[1..])
        .arg("true")
        .status();
    if works.is_ok_and(|status| status.success()) {
        return words.to_vec();
    }
    println!("SKIPPED: not root, so both sets are made by one user");
    Vec::new()
}

#[test]
fn two_checkouts_give_the_same_set() {
    let (near, far) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let far = far.path().join("in/another/place");
    std::fs::create_dir_all(&far).unwrap();
    let (Some(one), Some(two)) = (Checkout::new(near.path()), Checkout::new(&far)) else {
        return;
    };
    let done = one.dist(&[], "umask 022; export TZ=UTC LC_ALL=C;");
    assert!(done.status.success(), "{}", told(&done));

    let user = another_user();
    let tree = two.path().display();
    let prepare = format!("find {tree} -type f -exec touch -d 2001-02-03 {{}} +");
    assert!(shell(&prepare).status.success());
    if !user.is_empty() {
        let give = format!("chown -R nobody: {tree}; chmod 755 {tree}/../../../..");
        assert!(shell(&give).status.success());
    }
    let again = format!(
        "umask 077; export TZ=Asia/Tokyo LC_ALL=C.UTF-8; rm out/init out/bringup; \
         GUEST_PROFILE={} init/guest.sh &&",
        two.guest_profile()
    );
    let done = two.dist(&user, &again);
    assert!(done.status.success(), "{}", told(&done));

    let (first, one, two) = (&one, one.set(), two.set());
    let names = |set: &[(PathBuf, u32, i64, Vec<u8>)]| -> Vec<PathBuf> {
        set.iter().map(|file| file.0.clone()).collect()
    };
    assert_eq!(names(&one), names(&two));
    assert!(one.len() > 14, "{:?}", names(&one));
    for (one, two) in one.iter().zip(&two) {
        let name = one.0.display();
        assert_eq!((one.1, one.2), (two.1, two.2), "mode and time of {name}");
        assert!(one.3 == two.3, "{name} differs");
    }
    says_what_it_is_made_of(first);
    a_failure_leaves_the_old_one(first);
}

fn a_failure_leaves_the_old_one(checkout: &Checkout) {
    let before = checkout.set();
    let out = checkout.path().join("out");
    let entries = || {
        let names = std::fs::read_dir(&out).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = (before, entries());
    let list = checkout.path().join("image/dist/dist.json");
    let text = std::fs::read_to_string(&list).unwrap();
    std::fs::write(&list, text.replace("\"out/vmlinux\"", "\"out/nowhere\"")).unwrap();
    let done = checkout.dist(&[], "");
    assert!(!done.status.success());
    assert!(
        told(&done).contains("cannot read") && told(&done).contains("out/nowhere"),
        "{}",
        told(&done)
    );
    assert!((checkout.set(), entries()) == before, "the set has changed");
}

fn says_what_it_is_made_of(checkout: &Checkout) {
    let dist = checkout.path().join("out/dist");
    let json = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(dist.join(name)).unwrap()).unwrap()
    };
    let manifest = json("manifest.json");
    for file in manifest["files"].as_array().unwrap() {
        let path = dist.join(file["path"].as_str().unwrap());
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(file["sha256"], image::sha256(&bytes), "{}", path.display());
        assert_eq!(file["size"], bytes.len());
        let mode = path.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(file["mode"], format!("{mode:04o}"));
        assert!(!file["origin"].as_str().unwrap().is_empty());
    }
    let root = manifest["root"].as_array().unwrap();
    let init = root.iter().find(|entry| entry["path"] == "/init").unwrap();
    assert!(init["origin"]
        .as_str()
        .unwrap()
        .starts_with("crate init, commit "));

    let bill = json("sbom.cdx.json");
    let components = bill["components"].as_array().unwrap();
    let has = |name: &str| components.iter().any(|component| component["name"] == name);
    for linked in [
        "init",
        "gcs",
        "oci-spec",
        "nix",
        "serde_json",
        "rust-std",
        "musl",
    ] {
        assert!(has(linked), "{linked} is linked and not in the bill");
    }
    // Of the tools, of tests, of build scripts, and macros.
    for other in [
        "clap",
        "proptest",
        "tempfile",
        "cc",
        "syn",
        "serde_derive",
        "image",
        "qemu",
    ] {
        assert!(!has(other), "{other} is not linked and in the bill");
    }
    let kernel = components
        .iter()
        .find(|component| component["type"] == "operating-system");
    let source = json("kernel.source.json");
    let kernel = kernel.unwrap();
    assert_eq!(kernel["version"], source["version"]);
    assert_eq!(kernel["hashes"][0]["content"], source["sha256"]);
    assert!(components
        .iter()
        .all(|component| component["licenses"].is_array()));

    // Every file of the page is there, and every file is on the page or a licence.
    let page = std::fs::read_to_string(dist.join("INSTALL.md")).unwrap();
    for file in manifest["files"].as_array().unwrap() {
        let name = file["path"].as_str().unwrap();
        let optional = name == "INSTALL.md" || name.starts_with("licences/");
        assert!(
            optional || page.contains(&format!("`{name}`")),
            "{name} is not on the page"
        );
    }
}

#[test]
fn nothing_of_this_machine_is_in_what_ships() {
    let (Some(init), Some(kernel)) = (built("init"), built("vmlinux")) else {
        return;
    };
    let home = std::env::var("HOME").unwrap_or_else(|_| "/root".into());
    let home = Path::new(&home);
    let places = [
        top(),
        home.join(".cargo"),
        home.join(".rustup"),
        std::env::temp_dir().join("cargo"),
    ];
    for file in [init, kernel] {
        let bytes = std::fs::read(&file).unwrap();
        for place in &places {
            let place = place.as_os_str().as_encoded_bytes();
            let found = bytes
                .windows(place.len())
                .position(|window| window == place);
            let end = found.map_or(0, |at| (at + 120).min(bytes.len()));
            assert!(
                found.is_none(),
                "{} has the path of a place on this machine: {:?}",
                file.display(),
                String::from_utf8_lossy(&bytes[found.unwrap_or(0)..end])
            );
        }
    }
}
