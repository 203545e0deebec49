//! What can be said about a command without running it.

use std::path::Path;
use std::process::Command;

/// Whether what the command names is there: targets of make, options of `uvm`, tests of cargo.
/// Of a block that runs elsewhere, only `uvm` is ours.
pub fn command(root: &Path, line: &str, word: Option<&str>) -> Result<(), String> {
    // A comment does not end in the middle of a word, and no page quotes one.
    let line = line.split(" #").next().expect("a split has a first part");
    for part in line.split([';', '|', '&']) {
        let Some(args) = shlex::split(part) else {
            continue;
        };
        let skip = args
            .iter()
            .take_while(|arg| is_assignment(arg) || *arg == "do")
            .count();
        let args: Vec<&str> = args[skip..].iter().map(String::as_str).collect();
        match args.split_first() {
            Some((&"make", rest)) if word != Some("elsewhere") => make(root, rest)?,
            Some((&"cargo", rest)) => cargo(root, rest)?,
            Some((program, rest)) if program.rsplit('/').next() == Some("uvm") => uvm(rest)?,
            _ => {}
        }
    }
    Ok(())
}

fn is_assignment(arg: &str) -> bool {
    arg.split_once('=')
        .is_some_and(|(name, _)| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
}

fn make(root: &Path, args: &[&str]) -> Result<(), String> {
    let args: Vec<&str> = args.iter().copied().take_while(|arg| *arg != "<").collect();
    let done = Command::new("make")
        .arg("-n")
        .args(args)
        .current_dir(root)
        .output()
        .unwrap();
    if done.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&done.stderr).trim().to_owned())
}

/// `cargo build -p PACKAGE` and `cargo test -p PACKAGE --test FILE [NAME]`.
fn cargo(root: &Path, args: &[&str]) -> Result<(), String> {
    let args: Vec<&str> = args
        .iter()
        .copied()
        .take_while(|arg| *arg != "--")
        .collect();
    let value = |name: &str| {
        let at = args.iter().position(|arg| *arg == name)?;
        args.get(at + 1).copied()
    };
    let package = value("-p").ok_or("no package is named")?;
    if args.first() == Some(&"build") {
        return is_package(root, package);
    }
    let folder = package.strip_prefix("uvm-").unwrap_or(package);
    let tests = ["", "qemu/"].map(|above| root.join(format!("{above}{folder}/tests")));
    let tests = tests
        .iter()
        .find(|dir| dir.is_dir())
        .ok_or(format!("no package {package} has tests"))?;
    let Some(test) = value("--test") else {
        return Ok(());
    };
    let file = tests.join(format!("{test}.rs"));
    let files = if file.exists() {
        vec![file]
    } else {
        let dir = tests.join(test);
        let entries = std::fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let name = args.last().expect("there are at least two");
    if *name == test {
        return Ok(());
    }
    let declared = format!("fn {name}(");
    let is_there = |file: &std::path::PathBuf| {
        std::fs::read_to_string(file).is_ok_and(|text| text.contains(&declared))
    };
    if files.iter().any(is_there) {
        return Ok(());
    }
    Err(format!("{package} has no test {name} in {test}"))
}

fn is_package(root: &Path, package: &str) -> Result<(), String> {
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).map_err(|e| e.to_string())?;
    let entry = format!("[[package]]\nname = \"{package}\"\n");
    if lock.contains(&entry) {
        return Ok(());
    }
    Err(format!("there is no package {package}"))
}

/// The subcommand and its options, as its own help tells them.
fn uvm(args: &[&str]) -> Result<(), String> {
    let own: Vec<&str> = args
        .iter()
        .copied()
        .take_while(|arg| *arg != "--")
        .collect();
    let commands: Vec<&str> = match own.first() {
        Some(&"attach") => own.iter().copied().take(2).collect(),
        _ => own.iter().copied().take(1).collect(),
    };
    let help = Command::new(env!("CARGO_BIN_EXE_uvm"))
        .args(&commands)
        .arg("--help")
        .output()
        .unwrap();
    if !help.status.success() {
        return Err(format!("there is no uvm {}", commands.join(" ")));
    }
    let help = String::from_utf8_lossy(&help.stdout);
    let known: Vec<&str> = help
        .split(|c: char| c.is_whitespace() || ",=[".contains(c))
        .collect();
    for option in own
        .iter()
        .filter(|arg| arg.starts_with('-') && arg.len() > 1)
    {
        let name = option.split('=').next().expect("a split has a first part");
        // `--gcs-flags -x`: the value of an option, which is none itself.
        let is_value = !known.contains(&name)
            && own
                .windows(2)
                .any(|pair| pair[1] == *option && pair[0] == "--gcs-flags");
        if !is_value && !known.contains(&name) {
            return Err(format!("uvm {} has no option {name}", commands.join(" ")));
        }
    }
    Ok(())
}
