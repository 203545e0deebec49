//! The probe on recorded machines: one recorded under QEMU, one of Hyper-V's shape that was made
//! up from documentation. What it says of them is kept in files beside their records;
//! `GOLDEN=write` writes them anew, to be read before they are committed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::tree::{Directory, Record};
use super::verdict::Level;
use super::{report, run, Report};

const REQUIREMENTS: &str = include_str!("../../../../kernel-config/lcow.requirements");
const CONFIG: &str = "/probe/config";
const HYPERV: &str = "hyperv-made-up";

fn beside(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("machines")
        .join(name)
}

/// A configuration that has everything that is asked for, except for some options.
fn config(without: &[&str]) -> String {
    let mut set = BTreeSet::new();
    let rows = REQUIREMENTS.lines().filter(|line| !line.starts_with('#'));
    for option in rows.filter_map(|line| line.split(' ').nth(2)) {
        set.extend(
            option
                .split('|')
                .filter(|o| !o.starts_with('!') && !without.contains(o)),
        );
    }
    set.into_iter()
        .map(|option| format!("{option}=y\n"))
        .collect()
}

fn document(name: &str) -> Value {
    let text = std::fs::read(beside(&format!("{name}.record.json"))).unwrap();
    let mut record: Value = serde_json::from_slice(&text).unwrap();
    record["files"][CONFIG] = config(&[]).into();
    record
}

fn load(document: Value) -> Record {
    serde_json::from_value(document).unwrap()
}

fn changed(name: &str, change: impl FnOnce(&mut Value)) -> Report {
    let mut record = document(name);
    change(&mut record);
    report(&load(record))
}

fn same_as_kept(file: &str, text: &str) {
    let path = beside(file);
    if std::env::var_os("GOLDEN").is_some_and(|value| value == "write") {
        std::fs::write(&path, text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == kept, "{file} has changed; it would be:\n{text}");
}

fn findings(report: &Report, level: Level) -> Vec<&str> {
    let of_level = report.verdict.iter().filter(|f| f.level == level);
    of_level.map(|finding| finding.what.as_str()).collect()
}

#[test]
fn reports_are_those_that_were_kept() {
    for name in ["qemu", HYPERV] {
        let report = report(&load(document(name)));
        same_as_kept(&format!("{name}.report.txt"), &report.text());
        same_as_kept(
            &format!("{name}.report.json"),
            &format!("{:#}\n", report.document()),
        );
    }
}

#[test]
fn a_utility_vm_of_hyperv_lacks_nothing() {
    let report = changed(HYPERV, |_| ());
    assert_eq!(findings(&report, Level::Missing), [""; 0]);
    assert_eq!(findings(&report, Level::Warning), [""; 0]);
    let hosts: Vec<_> = report
        .scsi
        .controllers
        .iter()
        .map(|c| c.host.as_deref())
        .collect();
    assert_eq!(hosts, [Some("host0"), Some("host1")]);
}

fn links(record: &mut Value) -> &mut serde_json::Map<String, Value> {
    record["links"].as_object_mut().unwrap()
}

type Change = fn(&mut Value);

/// What is taken from a machine that lacks nothing, and the finding that follows.
const LOSSES: &[(Change, Level, &str)] = &[
    (
        |record| {
            let drivers = record["lists"]["/sys/bus/vmbus/drivers"]
                .as_array_mut()
                .unwrap();
            drivers.retain(|driver| driver != "hv_sock");
        },
        Level::Missing,
        "vsock leads nowhere: there is no transport to the host",
    ),
    (
        |record| {
            let cpuid = record["files"]["/probe/cpuid"].as_str().unwrap();
            // Without the hypercall MSRs and the synthetic interrupt controller.
            record["files"]["/probe/cpuid"] = cpuid.replace("00002e7f", "00002e5b").into();
        },
        Level::Missing,
        "Hyper-V does not give this VM: synic, hypercall-msrs",
    ),
    (
        |record| record["lists"]["/sys/bus/vmbus/devices"] = Value::Array(Vec::new()),
        Level::Missing,
        "there are no VMBus devices",
    ),
    (
        |record| {
            links(record).retain(|path, _| !path.contains("1c2d3e4f-0001"));
        },
        Level::Warning,
        "no driver has taken the network adapter 1c2d3e4f-0001-4a5b-8c6d-000000000001",
    ),
    (
        |record| record["files"]["/sys/class/ptp/ptp0/clock_name"] = "KVM\n".into(),
        Level::Warning,
        "there is no PTP clock named hyperv",
    ),
    (
        |record| {
            let clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
            record["files"][clock] = "acpi_pm\n".into();
        },
        Level::Warning,
        "the kernel counts time by \"acpi_pm\"",
    ),
    (
        |record| record["files"][CONFIG] = config(&["CONFIG_OVERLAY_FS"]).into(),
        Level::Missing,
        "the kernel lacks CONFIG_OVERLAY_FS",
    ),
    (
        |record| {
            let cpuid = record["files"]["/probe/cpuid"].as_str().unwrap();
            let isolated = cpuid.replace(
                "4000000c 00000000 00000000 00000000",
                "4000000c 00000000 00000000 00000002",
            );
            record["files"]["/probe/cpuid"] = isolated.into();
        },
        Level::Note,
        "the VM is isolated from its host (snp)",
    ),
    (
        |record| record["files"]["/proc/cmdline"] = "quiet\n".into(),
        Level::Note,
        "the kernel line has no panic=",
    ),
];

#[test]
fn what_is_taken_away_is_missed() {
    for (change, level, what) in LOSSES {
        let report = changed(HYPERV, change);
        assert!(
            findings(&report, *level).contains(what),
            "{what}: {:?}",
            report.verdict
        );
    }
}

#[test]
fn controllers_of_other_instances_are_counted_and_that_is_said() {
    let report = changed(HYPERV, |record| {
        let text = record.to_string();
        let text = text
            .replace("df6d0690-79e5", "aa6d0690-79e5")
            .replace("0110f83b-de10", "aa10f83b-de10");
        *record = serde_json::from_str(&text).unwrap();
    });
    let what = "none of the SCSI controllers has an instance that hcsshim gives its own";
    assert_eq!(findings(&report, Level::Warning), [what]);
    assert!(report
        .scsi
        .controllers
        .iter()
        .all(|c| c.vmbus.is_none() && c.host.is_some()));
}

#[test]
fn a_kernel_without_its_configuration_is_asked_by_what_it_shows() {
    let report = changed(HYPERV, |record| {
        record["files"].as_object_mut().unwrap().remove(CONFIG);
        record["files"]["/proc/filesystems"] = "nodev\tsysfs\n\text4\nnodev\tcgroup2\n".into();
        record["files"]["/proc/cgroups"] =
            "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t0\t1\t1\n".into();
        record["lists"]["/sys/bus"] = vec!["scsi", "vmbus"].into();
    });
    let missing: Vec<&str> = report
        .options
        .required_missing
        .iter()
        .map(|m| m.option.as_str())
        .collect();
    for absent in ["CONFIG_OVERLAY_FS", "CONFIG_CGROUP_PIDS", "CONFIG_9P_FS"] {
        assert!(missing.contains(&absent), "{absent}: {missing:?}");
    }
    for there in [
        "CONFIG_EXT4_FS",
        "CONFIG_MEMCG",
        "CONFIG_HYPERV",
        "CONFIG_HYPERV_STORAGE",
    ] {
        assert!(!missing.contains(&there), "{there}: {missing:?}");
    }
    assert!(report
        .options
        .unknown
        .iter()
        .any(|option| option == "CONFIG_EPOLL"));
    assert_eq!(report.document()["options"]["source"], "behaviour");
}

#[test]
fn modules_count_as_there_and_are_named() {
    let report = changed(HYPERV, |record| {
        let config = config(&[]).replace("CONFIG_OVERLAY_FS=y", "CONFIG_OVERLAY_FS=m");
        record["files"][CONFIG] = config.into();
    });
    assert_eq!(report.options.modules, ["CONFIG_OVERLAY_FS"]);
    assert_eq!(findings(&report, Level::Missing), [""; 0]);
}

/// A record laid out as the files it was read from, `/proc/config.gz` packed as the kernel does.
#[test]
fn a_copied_tree_gives_the_same_report_as_its_record() {
    let dir = tempfile::tempdir().unwrap();
    let record = document(HYPERV);
    let at = |path: &str| dir.path().join(path.trim_start_matches('/'));
    for (path, names) in record["lists"].as_object().unwrap() {
        for name in names.as_array().unwrap() {
            std::fs::create_dir_all(at(path)).unwrap();
            let child = format!("{path}/{}", name.as_str().unwrap());
            let is_file = record["files"].get(&child).is_some();
            if !is_file && record["links"].get(&child).is_none() {
                std::fs::create_dir_all(at(&child)).unwrap();
            }
        }
    }
    for (path, text) in record["files"].as_object().unwrap() {
        let text = text.as_str().unwrap();
        let (path, bytes) = match (path.as_str(), text.strip_prefix("hex:")) {
            (CONFIG, _) => ("/proc/config.gz", gzip(text.as_bytes())),
            (path, Some(digits)) => (path, hex(digits)),
            (path, None) => (path, text.as_bytes().to_vec()),
        };
        std::fs::create_dir_all(at(path).parent().unwrap()).unwrap();
        std::fs::write(at(path), bytes).unwrap();
    }
    for (path, target) in record["links"].as_object().unwrap() {
        std::fs::create_dir_all(at(path).parent().unwrap()).unwrap();
        let target = format!("../../drivers/{}", target.as_str().unwrap());
        std::os::unix::fs::symlink(target, at(path)).unwrap();
    }
    let copied = report(&Directory(dir.path().to_owned()));
    let recorded = report(&load(record));
    assert_eq!(copied.document(), recorded.document());
}

fn hex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    pairs.map(byte).collect()
}

/// One stored block each 65,535 bytes (RFC 1951, 3.2.4).
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 3];
    let mut blocks = bytes.chunks(65_535).peekable();
    while let Some(block) = blocks.next() {
        let length = u16::try_from(block.len()).unwrap();
        out.push(u8::from(blocks.peek().is_none()));
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend(block);
    }
    out.extend([0; 8]);
    out
}

fn command(args: &[&str]) -> (i32, String, String) {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let (mut out, mut complaints) = (Vec::new(), Vec::new());
    let code = run(&args, &mut out, &mut complaints);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (code, text(out), text(complaints))
}

#[test]
fn the_command_ends_with_what_scripts_need() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, record: Value| {
        let path = dir.path().join(name);
        std::fs::write(&path, record.to_string()).unwrap();
        path.into_os_string().into_string().unwrap()
    };
    let good = file("good", document(HYPERV));
    let mut broken = document(HYPERV);
    broken["lists"]["/sys/bus/vmbus/devices"] = Value::Array(Vec::new());
    let bad = file("bad", broken);
    let nothing = file("nothing", Value::Null);

    let (code, json, _) = command(&["--json", "--from", &good]);
    assert_eq!(code, 0);
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["schema"], 1);
    let (code, text, _) = command(&["--from", &bad]);
    assert_eq!(code, 1);
    assert!(
        text.contains("  MISSING  there are no VMBus devices\n"),
        "{text}"
    );
    // A record of a record has the same in it.
    let (code, again, _) = command(&["--record", "--from", &good]);
    assert_eq!(code, 0);
    let again = load(serde_json::from_str(&again).unwrap());
    assert_eq!(
        report(&again).document(),
        report(&load(document(HYPERV))).document()
    );

    for (args, complaint) in [
        (&["--nonsense"][..], "there is no option \"--nonsense\""),
        (&["--from"], "--from needs a value"),
        (&["--from", "/no/such/file"], "reading /no/such/file: "),
        (&["--from", &nothing], "is not what probe --record writes"),
    ] {
        let (code, out, said) = command(args);
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}");
        assert!(said.contains(complaint), "{args:?}: {said}");
    }
    let (code, usage, _) = command(&["--help"]);
    assert!(code == 0 && usage.starts_with("use: probe"));
}

#[test]
fn an_empty_tree_is_reported_and_not_stumbled_over() {
    let dir = tempfile::tempdir().unwrap();
    let report = report(&Directory(dir.path().to_owned()));
    assert!(findings(&report, Level::Missing)
        .contains(&"vsock leads nowhere: there is no transport to the host"));
    assert!(report.text().contains("verdict\n"));
}
