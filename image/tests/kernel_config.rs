//! What is said of a kernel: whether it has what LCOW needs, and what each of its options costs. The
//! sums are made of a small tree with makefiles like the kernel's, compiled here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

fn script(name: &str) -> PathBuf {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    top.join("kernel-config").join(name)
}

fn run(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

fn done(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Sources with a marked number of bytes each, and the makefiles that say what they are for.
const SOURCES: [(&str, u32); 14] = [
    ("init/main", 1000),
    ("fs/inode", 2000),
    ("fs/quota", 300),
    ("fs/big/super", 4000),
    ("fs/big/lib/tree", 5000),
    ("fs/big/acl", 60),
    ("net/core/sock", 700),
    ("net/core/filter", 80),
    ("net/six", 90),
    ("net/shared", 110),
    ("net/cond", 120),
    ("net/far/away", 130),
    ("arch/x86/pci/bus", 140),
    ("net/mod", 150),
];
const MAKEFILES: [(&str, &str); 6] = [
    (
        "Kbuild",
        "obj-y += init/\nobj-y += fs/\nobj-$(CONFIG_NET) += net/ # the lot\n",
    ),
    (
        "fs/Makefile",
        "obj-y := inode.o \\\n\t missing.o\nobj-$(CONFIG_QUOTA) += quota.o\nobj-$(CONFIG_BIG) += big/\n",
    ),
    (
        "fs/big/Makefile",
        "obj-$(CONFIG_BIG) += big.o\nbig-y += super.o $(addprefix lib/, tree.o \\\n gone.o)\n\
         big-$(CONFIG_BIG_ACL) += acl.o\n",
    ),
    (
        "net/Makefile",
        "obj-y += core/ far/away.o\nobj-$(subst m,y,$(CONFIG_SIX)) += six.o\n\
         obj-$(CONFIG_ONE) += shared.o\nobj-$(CONFIG_TWO) += shared.o\nobj-$(CONFIG_OFF) += shared.o\n\
         ifeq ($(CONFIG_COND),y)\nobj-y += cond.o\nelse\nobj-y += other.o\nendif\n\
         ifdef CONFIG_MOD\nmod-objs := mod.o\nendif\n",
    ),
    (
        "net/core/Makefile",
        "obj-y += sock.o\nobj-$(CONFIG_FILTER) += filter.o\n",
    ),
    (
        "arch/x86/Makefile",
        "drivers-$(CONFIG_PCI) += arch/x86/pci/\nCFLAGS-$(CONFIG_NET) += -DX\n",
    ),
];
const CONFIG: &str = "CONFIG_NET=y\nCONFIG_QUOTA=y\nCONFIG_BIG=y\nCONFIG_BIG_ACL=y\nCONFIG_SIX=m\n\
    CONFIG_ONE=y\nCONFIG_TWO=y\n# CONFIG_OFF is not set\nCONFIG_COND=y\nCONFIG_FILTER=y\nCONFIG_MOD=y\n\
    CONFIG_PCI=y\n";

/// A tree as a build of the kernel leaves it.
fn built_tree() -> TempDir {
    let tree = TempDir::new().unwrap();
    let top = tree.path();
    let write = |name: &str, text: &str| {
        let path = top.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    for (name, text) in MAKEFILES {
        write(name, text);
    }
    write(".config", CONFIG);
    for (number, (name, bytes)) in SOURCES.iter().enumerate() {
        let source = format!("char object_{number}[{bytes}] = {{1}};\n");
        write(&format!("{name}.c"), &source);
        let object = format!("{name}.o");
        done(
            Command::new("cc")
                .current_dir(top)
                .args(["-c", "-fno-asynchronous-unwind-tables"])
                .args([&format!("{name}.c"), "-o", &object]),
        );
        done(
            Command::new("ar")
                .current_dir(top)
                .args(["cDPrST", "vmlinux.a", &object]),
        );
    }
    let link = ["-e", "0", "-o", "vmlinux", "--whole-archive", "vmlinux.a"];
    done(Command::new("ld").current_dir(top).args(link));
    tree
}

fn costs(tree: &Path) -> String {
    done(Command::new(script("costs.sh")).arg(tree))
}

/// Name → data bytes.
fn data(table: &str) -> BTreeMap<String, i64> {
    let row = |line: &str| {
        let words: Vec<&str> = line.split('\t').collect();
        assert_eq!(words.len(), 5, "{line}");
        (words[0].to_owned(), words[2].parse().unwrap())
    };
    table.lines().map(row).collect()
}

#[test]
fn every_object_is_counted_once_for_the_innermost_option_it_is_compiled_for() {
    let tree = built_tree();
    let table = costs(tree.path());
    let mut found = data(&table);
    let link = found.remove("link").unwrap();
    let expected = [
        ("always", 3000),
        ("CONFIG_BIG", 9000),
        ("CONFIG_BIG_ACL", 60),
        ("CONFIG_COND", 120),
        ("CONFIG_FILTER", 80),
        // Its directories, where nothing else was said.
        ("CONFIG_NET", 700 + 130),
        ("CONFIG_MOD", 150),
        ("CONFIG_ONE,CONFIG_TWO", 110),
        ("CONFIG_PCI", 140),
        ("CONFIG_QUOTA", 300),
        ("CONFIG_SIX", 90),
    ];
    let expected: BTreeMap<String, i64> = expected.map(|(name, n)| (name.to_owned(), n)).into();
    assert_eq!(found, expected, "{table}");
    let whole = done(Command::new("size").arg(tree.path().join("vmlinux")));
    let whole: i64 = whole
        .lines()
        .nth(1)
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(link + found.values().sum::<i64>(), whole, "{table}");
}

#[test]
fn costs_are_shown_by_section_of_the_fragments_that_ask() {
    let tree = built_tree();
    let path = |name: &str| tree.path().join(name);
    fs::write(path("costs"), costs(tree.path())).unwrap();
    let fragment = "CONFIG_NET=y\n# --- disks ---\n# Why.\nCONFIG_QUOTA=y\nCONFIG_BIG=y\nCONFIG_NONE=y\nCONFIG_PCI=n\n";
    fs::write(path("a.config"), fragment).unwrap();
    let shown = done(Command::new(script("show-costs.sh")).args([path("costs"), path("a.config")]));
    let words: Vec<Vec<&str>> = shown
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let at = |name: &str| {
        let found = words.iter().position(|words| words.last() == Some(&name));
        found.unwrap_or_else(|| panic!("no {name} in {shown}"))
    };
    assert!(
        at("disks") < at("CONFIG_BIG") && at("CONFIG_BIG") < at("CONFIG_QUOTA"),
        "{shown}"
    );
    assert!(at("CONFIG_NET") < at("disks"), "{shown}");
    // Not asked for, so below what was.
    assert!(at("CONFIG_PCI") > at("CONFIG_QUOTA"), "{shown}");
    assert_eq!(
        words[at("disks")][0].parse::<i64>().unwrap() / 100,
        93,
        "{shown}"
    );
    assert!(
        shown.contains("1 options that were asked for have no object"),
        "{shown}"
    );

    let missing = run(Command::new(script("show-costs.sh")).args([path("gone"), path("a.config")]));
    assert!(!missing.status.success());
    assert!(
        stderr(&missing).contains("filled before costs were measured"),
        "{}",
        stderr(&missing)
    );
}

/// Checks `config` against `table`, or against the shipped one.
fn require(arguments: &[&str], config: &[u8], table: Option<&str>) -> Output {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("config"), config).unwrap();
    let mut command = Command::new(script("require.sh"));
    command.args(arguments).arg(dir.path().join("config"));
    if let Some(table) = table {
        fs::write(dir.path().join("table"), table).unwrap();
        command.arg(dir.path().join("table"));
    }
    run(&mut command)
}

#[test]
fn what_a_configuration_lacks_is_named_with_what_is_lost() {
    let table = "# words\n\nmust boot CONFIG_A the kernel starts\nwant disks CONFIG_B|CONFIG_C disks of cheese\n\
                 want hardening !CONFIG_D a door stays shut\n";
    let check = |arguments: &[&str], config: &str| {
        let output = require(arguments, config.as_bytes(), Some(table));
        (output.status.code() == Some(0), stderr(&output))
    };
    let (ok, said) = check(
        &["--all"],
        "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=m\n",
    );
    assert!(
        ok && said.contains("1 of 1 options") && said.contains("2 of 2 that are wanted"),
        "{said}"
    );
    assert!(said.contains("1 are modules"), "{said}");

    let (ok, said) = check(&[], "CONFIG_A=y\nCONFIG_D=y\n");
    assert!(ok, "only wanted ones are missing: {said}");
    assert!(
        said.contains("CONFIG_B or CONFIG_C is missing: disks of cheese"),
        "{said}"
    );
    assert!(said.contains("CONFIG_D is on: a door stays shut"), "{said}");
    assert!(!check(&["--all"], "CONFIG_A=y\nCONFIG_D=y\n").0);

    let (ok, said) = check(&[], "CONFIG_AA=y\nCONFIG_B=y\n");
    assert!(
        !ok && said.contains("must  boot")
            && said.contains("CONFIG_A is missing: the kernel starts"),
        "{said}"
    );
    let (ok, said) = check(&[], "no words of a kernel\n");
    assert!(!ok && said.contains("is no kernel configuration"), "{said}");

    for bad in [
        "must boot A reason\n",
        "maybe boot CONFIG_A r\n",
        "must boot CONFIG_A\n",
        "want a CONFIG_A r\nwant b CONFIG_A r\n",
    ] {
        let output = require(&[], b"CONFIG_A=y\n", Some(bad));
        assert!(
            !output.status.success() && stderr(&output).contains("table:"),
            "{bad}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn the_shipped_table_is_read_and_a_packed_configuration_too() {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, b"CONFIG_X86_64=y\n").unwrap();
    let output = require(&[], &packed.finish().unwrap(), None);
    let said = stderr(&output);
    assert!(!output.status.success());
    for missing in [
        "CONFIG_HYPERV is missing",
        "CONFIG_OVERLAY_FS is missing",
        "CONFIG_9P_FS is missing",
    ] {
        assert!(said.contains(missing), "{said}");
    }
    assert!(!said.contains("CONFIG_X86_64"), "{said}");
}
