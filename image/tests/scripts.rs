//! The set-up scripts, in a copied tree with stand-ins for the programs that they choose between:
//! the order of toolchains, what `make run` passes on, what is said when something is missing.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A tree with the real scripts and Makefile, and a `bin` that is searched first.
struct Tree(TempDir);

impl Tree {
    fn new() -> Self {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let tree = Self(TempDir::new().unwrap());
        for folder in ["bin", "out"] {
            fs::create_dir(tree.path(folder)).unwrap();
        }
        for folder in [".ci", "image/scripts", "init", "kernel-config", "qemu"] {
            fs::create_dir_all(tree.path(folder)).unwrap();
            for file in fs::read_dir(top.join(folder)).unwrap() {
                let file = file.unwrap();
                if file.file_type().unwrap().is_file() {
                    fs::copy(file.path(), tree.path(folder).join(file.file_name())).unwrap();
                }
            }
        }
        fs::copy(top.join("Makefile"), tree.path("Makefile")).unwrap();
        tree
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn script(&self, name: &str, body: &str) {
        fs::write(self.path(name), format!("#!/bin/bash\n{body}\n")).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A toolchain of the given minor version, with or without std for musl.
    fn rust(&self, minor: u32, target: bool) {
        let sysroot = self.path("sysroot");
        if target {
            self.add_target();
        }
        let version = format!("echo \"$(basename $0) 1.{minor}.0 (0123abc 2026-01-01)\"");
        self.script("bin/cargo", &version);
        let print = format!(
            "[ \"$1\" = --print ] && echo {} || {version}",
            sysroot.display()
        );
        self.script("bin/rustc", &print);
    }

    fn add_target(&self) {
        let lib = self.path("sysroot/lib/rustlib/x86_64-unknown-linux-musl/lib");
        fs::create_dir_all(&lib).unwrap();
        fs::write(lib.join("libstd-0123456789abcdef.rlib"), "").unwrap();
    }

    fn run(&self, program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
        Command::new(self.path(program))
            .args(arguments)
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.0.path())
            .envs(environment.iter().copied())
            .output()
            .unwrap()
    }

    fn guest_toolchain(&self) -> Output {
        self.run(".ci/toolchain.sh", &["guest"], &[])
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn an_installed_musl_target_is_used_and_nobody_else_is_asked() {
    let tree = Tree::new();
    tree.rust(95, true);
    tree.script("bin/rustup", "echo asked >>$(dirname $0)/../asked; exit 1");
    tree.script(".ci/packages.sh", "echo packages >>$(dirname $0)/../asked");
    let output = tree.guest_toolchain();
    assert_eq!(
        stdout(&output),
        format!("target {}\n", tree.path("bin/cargo").display())
    );
    assert!(!tree.path("asked").exists());
}

#[test]
fn a_missing_musl_target_is_asked_of_rustup() {
    let tree = Tree::new();
    tree.rust(95, false);
    let lib = tree.path("sysroot/lib/rustlib/x86_64-unknown-linux-musl/lib");
    let install = format!(
        "[ \"$*\" = 'target add x86_64-unknown-linux-musl' ] || exit 1
        mkdir -p {0} && touch {0}/libstd-00.rlib",
        lib.display()
    );
    tree.script("bin/rustup", &install);
    let output = tree.guest_toolchain();
    assert_eq!(
        stdout(&output),
        format!("target {}\n", tree.path("bin/cargo").display())
    );
}

#[test]
fn debian_builds_std_when_rustup_refuses_and_rustup_is_asked_once() {
    let tree = Tree::new();
    tree.rust(95, false);
    tree.script("bin/rustup", "echo asked >>$(dirname $0)/../asked; exit 1");
    tree.script(".ci/packages.sh", "echo \"packages $*\" >&2; exit 9");
    for _ in 0..2 {
        let output = tree.guest_toolchain();
        assert_eq!(output.status.code(), Some(9));
        assert!(
            stderr(&output).contains("packages guest"),
            "{}",
            stderr(&output)
        );
    }
    assert_eq!(fs::read_to_string(tree.path("asked")).unwrap(), "asked\n");
}

#[test]
fn an_old_toolchain_is_not_used_even_with_the_target() {
    let tree = Tree::new();
    tree.rust(63, true);
    tree.script(".ci/packages.sh", "echo \"packages $*\" >&2; exit 9");
    assert!(stderr(&tree.guest_toolchain()).contains("packages guest"));
    let host = tree.run(".ci/toolchain.sh", &["host"], &[]);
    assert!(stderr(&host).contains("packages rust"));
}

#[test]
fn without_apt_the_missing_commands_are_named() {
    let tree = Tree::new();
    for tool in ["bash", "dirname", "mkdir", "grep", "env"] {
        let found = ["/usr/bin", "/bin"].map(|dir| Path::new(dir).join(tool));
        let found = found.iter().find(|path| path.exists()).unwrap();
        symlink(found, tree.path("bin").join(tool)).unwrap();
    }
    let path = tree.path("bin");
    let environment = [("PATH", path.to_str().unwrap())];
    let output = tree.run(".ci/packages.sh", &["qemu"], &environment);
    let error = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(
        error.contains("not Debian") && error.contains("qemu-system-x86_64"),
        "{error}"
    );
}

#[test]
fn make_run_hands_the_command_over_as_typed_and_keeps_stdout_clean() {
    if Command::new("make").arg("--version").output().is_err() {
        println!("SKIPPED: make is not installed");
        return;
    }
    let tree = Tree::new();
    for script in ["init/guest.sh", "qemu/host.sh", "image/scripts/image.sh"] {
        // Set-up that would eat stdin if it were given any.
        tree.script(script, ". .ci/common.sh; say set-up; cat >/dev/null");
    }
    tree.script("kernel-config/build.sh", ":");
    tree.script(".ci/packages.sh", ":");
    let body = "printf '%s\\n' \"$@\" >$(dirname $0)/arguments; cat; exit 7";
    tree.script("out/uvm", body);
    let words = [
        r#"sh -c "cat; exit 7""#,
        r#"sh -c 'echo $HOME $$ `id` \$x'; # "%s""#,
        "echo $(shell false) ${CMD} tail\\",
    ];
    for word in words {
        let mut make = Command::new("make")
            .args(["-s", "run", &format!("CMD={word}"), "IMAGE=/some where/$x"])
            .current_dir(tree.0.path())
            .env_remove("MAKEFLAGS")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        make.stdin
            .take()
            .unwrap()
            .write_all(b"the file\0\n")
            .unwrap();
        let output = make.wait_with_output().unwrap();
        assert_eq!(output.stdout, b"the file\0\n", "{word}");
        assert!(stderr(&output).contains("Error 7"), "{}", stderr(&output));
        let arguments = fs::read_to_string(tree.path("out/arguments")).unwrap();
        let expected = format!("--image\n/some where/$x\n--command\n{word}\n");
        assert!(arguments.ends_with(&expected), "{arguments}");
    }
}

#[test]
fn the_kernel_check_names_each_option_that_did_not_survive() {
    let tree = Tree::new();
    let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_S=\"-x\"\nCONFIG_N=64\n";
    fs::write(tree.path("config"), config).unwrap();
    let check = |fragment: &str| {
        fs::write(tree.path("fragment"), fragment).unwrap();
        let (config, fragment) = (tree.path("config"), tree.path("fragment"));
        let arguments = [config.to_str().unwrap(), fragment.to_str().unwrap()];
        tree.run("kernel-config/check.sh", &arguments, &[])
    };
    let fine = "# reason\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_C=n\nCONFIG_S=\"-x\"\nCONFIG_N=64\n";
    assert!(check(fine).status.success(), "{}", stderr(&check(fine)));
    let wrong = [
        ("CONFIG_A=n\n", "CONFIG_A=n asked, y built"),
        ("CONFIG_B=y\n", "CONFIG_B=y asked, n built"),
        ("CONFIG_GONE=y\n", "CONFIG_GONE=y asked, n built"),
        ("CONFIG_S=\"-y\"\n", "CONFIG_S=\"-y\" asked, \"-x\" built"),
        ("CONFIG_A=y\nCONFIG_A=y\n", "CONFIG_A is named twice"),
        ("CONFIG_A y\n", "not a CONFIG_NAME=value line"),
    ];
    for (fragment, says) in wrong {
        let output = check(fragment);
        assert!(!output.status.success(), "{fragment}");
        assert!(
            stderr(&output).contains(says),
            "{fragment}: {}",
            stderr(&output)
        );
    }
}
