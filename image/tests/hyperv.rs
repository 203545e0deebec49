//! What `image/hyperv` has for Windows, as far as it can be checked without Windows: the documents'
//! shape, one kernel line and one set of ports in all of them, and a page that names every file.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("hyperv")
        .join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn document(name: &str) -> Value {
    serde_json::from_str(&text(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// As the host builds it with a serial console (protocol 10.3), but with the service started directly.
const LINE: &str = "8250_core.nr_uarts=1 8250_core.skip_txen_test=1 console=ttyS0,115200 pci=off nr_cpus=2 \
                    brd.rd_nr=0 pmtmr=0 -- -e 1 /bin/vsockexec -e 109 /bin/gcs -v4 -log-format json -loglevel debug";

#[test]
fn the_documents_are_of_schema_2_1_and_differ_in_what_is_started() {
    for name in ["uvm-direct.json", "uvm-uefi.json", "uvm-disk.json"] {
        let document = document(name);
        assert_eq!(
            document["SchemaVersion"],
            serde_json::json!({"Major": 2, "Minor": 1}),
            "{name}"
        );
        assert_eq!(
            document["ShouldTerminateOnLastHandleClosed"], true,
            "{name}"
        );
        let machine = &document["VirtualMachine"];
        assert_eq!(machine["StopOnReset"], true, "{name}");
        assert!(
            machine["ComputeTopology"]["Memory"]["SizeInMB"].as_u64() >= Some(256),
            "{name}"
        );
        let devices = &machine["Devices"];
        assert_eq!(
            devices["ComPorts"]["0"]["NamedPipe"], r"\\.\pipe\lcow-uvm",
            "{name}"
        );
        let socket = &devices["HvSocket"]["HvSocketConfig"];
        assert!(
            socket["DefaultBindSecurityDescriptor"].is_string(),
            "{name}: nobody may listen for the guest"
        );
        let chipset = machine["Chipset"].as_object().unwrap();
        assert_eq!(chipset.len(), 1, "{name} starts two things");
    }
    let chipset = |name| document(name)["VirtualMachine"]["Chipset"].clone();
    let direct = &chipset("uvm-direct.json")["LinuxKernelDirect"];
    assert_eq!(direct["KernelCmdLine"], LINE);
    let uefi = &chipset("uvm-uefi.json")["Uefi"]["BootThis"];
    assert_eq!(uefi["OptionalData"], format!(r"initrd=\initrd.img {LINE}"));
    assert_eq!(
        (&uefi["DeviceType"], &uefi["DevicePath"]),
        (&"VmbFs".into(), &r"\kernel".into())
    );
    // The name of a controller and a place on it.
    let boot = &chipset("uvm-disk.json")["Uefi"]["BootThis"];
    let disks = &document("uvm-disk.json")["VirtualMachine"]["Devices"]["Scsi"];
    let disk =
        &disks[boot["DevicePath"].as_str().unwrap()]["Attachments"][boot["DiskNumber"].to_string()];
    assert_eq!(disk["Path"], r"C:\uvm\uvm-gen2.vhdx");
}

#[test]
fn the_scripts_register_the_ports_of_the_guest() {
    let script = text("new-vm.ps1");
    let rows = script
        .lines()
        .filter_map(|line| line.trim().split_once(" = 'lcow-uvm "));
    let mut ports: Vec<u32> = rows.map(|(port, _)| port.trim().parse().unwrap()).collect();
    ports.sort_unstable();
    // Entropy, log, shells of the image for bringing up, bridge.
    assert_eq!(ports, [1, 109, 2323, 0x4000_0000]);
    for name in ["new-vm.ps1", "hvsock.ps1"] {
        assert!(
            text(name).contains("-facb-11e6-bd58-64006a7986d3'"),
            "{name}"
        );
    }
}

/// No PowerShell is here to parse them; what most often goes wrong is a bracket.
#[test]
fn the_scripts_close_what_they_open() {
    for name in ["new-vm.ps1", "hvsock.ps1", "start-uvm.ps1"] {
        let mut open = Vec::new();
        for (number, line) in text(name).lines().enumerate() {
            let mut quote = None;
            for c in line.chars() {
                match (quote, c) {
                    (Some(q), c) if q == c => quote = None,
                    (Some(_), _) => {}
                    (None, '#' | '/') => break,
                    (None, '"' | '\'') => quote = Some(c),
                    (None, '(' | '[' | '{') => open.push(c),
                    (None, ')' | ']' | '}') => {
                        let opened = open.pop();
                        let fits = matches!(
                            (opened, c),
                            (Some('('), ')') | (Some('['), ']') | (Some('{'), '}')
                        );
                        assert!(fits, "{name}:{}: {c} closes {opened:?}", number + 1);
                    }
                    _ => {}
                }
            }
            // Here-strings begin and end with a quote that is alone on its line.
            assert!(
                quote.is_none() || line.ends_with("@'") || line == "'@",
                "{name}:{}: a quote is open",
                number + 1
            );
        }
        assert!(open.is_empty(), "{name}: {open:?}");
    }
}

#[test]
fn the_page_names_every_file_and_marks_what_was_not_seen() {
    let page = text("README.md");
    for entry in fs::read_dir(file("")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            name == "README.md" || page.contains(&format!("`{name}`")),
            "{name} is not on the page"
        );
    }
    // The two ways, as a whole.
    for section in [
        "## A machine of its own (W)",
        "## A utility VM (W)",
        "## What is to be tried on Windows",
    ] {
        assert!(page.contains(section), "{section}");
    }
}
