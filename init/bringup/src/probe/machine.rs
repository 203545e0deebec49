//! The machine around the devices: kernel, firmware, memory.

use serde::Serialize;

use super::tree::Tree;

const CLOCK: &str = "/sys/devices/system/clocksource/clocksource0";

#[derive(Debug, Serialize)]
pub struct Kernel {
    pub release: Option<String>,
    pub version: Option<String>,
    pub command_line: Option<String>,
    pub clock_source: Option<String>,
    pub clock_sources: Option<String>,
}

pub fn kernel(tree: &dyn Tree) -> Kernel {
    Kernel {
        release: tree.text("/proc/sys/kernel/osrelease"),
        version: tree.text("/proc/version"),
        command_line: tree.text("/proc/cmdline"),
        clock_source: tree.text(&format!("{CLOCK}/current_clocksource")),
        clock_sources: tree.text(&format!("{CLOCK}/available_clocksource")),
    }
}

#[derive(Debug, Serialize)]
pub struct Firmware {
    /// The kernel was started by UEFI and still knows it.
    pub uefi: bool,
    pub vendor: Option<String>,
    pub product: Option<String>,
    pub version: Option<String>,
    pub bios_vendor: Option<String>,
    pub bios_version: Option<String>,
    pub bios_date: Option<String>,
    pub asset_tag: Option<String>,
    pub acpi: Vec<AcpiTable>,
}

#[derive(Debug, Serialize)]
pub struct AcpiTable {
    pub name: String,
    pub bytes: u32,
    pub oem: String,
    pub oem_table: String,
}

pub const ACPI_TABLES: &str = "/sys/firmware/acpi/tables";
/// Bytes of a table's header: signature, length, revision, checksum, six letters of the maker,
/// eight of the table (ACPI specification, 5.2.6).
const HEADER: usize = 36;
/// What the firmware says of itself; `/sys/class/dmi/id` is optional in the kernel, this is not.
const SMBIOS: &str = "/sys/firmware/dmi/tables/DMI";
/// Kinds of structures in it.
const BIOS: u8 = 0;
const SYSTEM: u8 = 1;
const CHASSIS: u8 = 3;
/// The one table that has another header.
const FACS: &str = "FACS";

pub fn firmware(tree: &dyn Tree) -> Firmware {
    let table = |name: String| {
        let bytes = tree.read(&format!("{ACPI_TABLES}/{name}"))?;
        let length = bytes.get(4..8)?.try_into().ok()?;
        let named = bytes.first_chunk::<HEADER>().filter(|_| name != FACS);
        Some(AcpiTable {
            bytes: u32::from_le_bytes(length),
            oem: named.map_or_else(String::new, |header| letters(&header[10..16])),
            oem_table: named.map_or_else(String::new, |header| letters(&header[16..24])),
            name,
        })
    };
    let tables = tree.list(ACPI_TABLES);
    let smbios = tree.read(SMBIOS).unwrap_or_default();
    let text = |kind, offset| smbios_text(&smbios, kind, offset);
    Firmware {
        uefi: tree.has("/sys/firmware/efi"),
        vendor: text(SYSTEM, 4),
        product: text(SYSTEM, 5),
        version: text(SYSTEM, 6),
        bios_vendor: text(BIOS, 4),
        bios_version: text(BIOS, 5),
        bios_date: text(BIOS, 8),
        asset_tag: text(CHASSIS, 8),
        acpi: tables.into_iter().filter_map(table).collect(),
    }
}

fn letters(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim_matches(['\0', ' ']).to_owned()
}

/// The text whose number stands at the offset of the first structure of that kind. A structure is
/// its kind, its length, two bytes, fields up to that length, and then the texts that they count,
/// each ended by a zero, the last by two (SMBIOS specification, 6.1).
fn smbios_text(table: &[u8], kind: u8, offset: usize) -> Option<String> {
    let mut rest = table;
    loop {
        let (&found, &length) = (rest.first()?, rest.get(1)?);
        let (fields, texts) = rest.split_at_checked(usize::from(length).max(4))?;
        if found == kind {
            let number = usize::from(*fields.get(offset)?).checked_sub(1)?;
            let text = texts.split(|byte| *byte == 0).nth(number)?;
            return Some(letters(text)).filter(|text| !text.is_empty());
        }
        let end = texts.windows(2).position(|pair| pair == [0, 0])?;
        rest = &texts[end + 2..];
    }
}

#[derive(Debug, Serialize)]
pub struct Memory {
    pub total_kib: Option<u64>,
    pub available_kib: Option<u64>,
    /// As the firmware gave it.
    pub map: Vec<Range>,
}

#[derive(Debug, Serialize)]
pub struct Range {
    /// Hexadecimal, the first and the last byte.
    pub start: String,
    pub end: String,
    pub kind: String,
}

pub fn memory(tree: &dyn Tree) -> Memory {
    let info = tree.text("/proc/meminfo").unwrap_or_default();
    let kib = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let mut numbers: Vec<u32> = tree
        .list("/sys/firmware/memmap")
        .iter()
        .filter_map(|name| name.parse().ok())
        .collect();
    numbers.sort_unstable();
    let range = |number: &u32| {
        let file = |file: &str| tree.text(&format!("/sys/firmware/memmap/{number}/{file}"));
        Some(Range {
            start: file("start")?,
            end: file("end")?,
            kind: file("type")?,
        })
    };
    Memory {
        total_kib: kib("MemTotal:"),
        available_kib: kib("MemAvailable:"),
        map: numbers.iter().filter_map(range).collect(),
    }
}
