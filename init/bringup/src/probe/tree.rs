//! Where the probe reads: this machine, a directory with a copy of its `/sys` and `/proc`, or a
//! record that somebody sent. All three answer the same three questions.
//!
//! What no file tells (CPUID, the own vsock address) stands in files below [`FACTS`], which
//! [`Machine`] makes up when they are asked for and a record holds like any other.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{config, cpu, machine};

/// Registers of CPUID, one leaf a line: leaf, subleaf, EAX, EBX, ECX, EDX in hexadecimal.
pub const CPUID: &str = "/probe/cpuid";
/// The machine's own context id (vsock(7)), in decimal.
pub const CID: &str = "/probe/cid";
/// The kernel's configuration: the lines that are not comments.
pub const CONFIG: &str = "/probe/config";
const CONFIG_GZ: &str = "/proc/config.gz";

/// Nothing that is read here is larger; what is, is cut.
const MOST_BYTES: u64 = 1 << 20;
/// Of ACPI tables only the header is looked at, and recorded.
const ACPI_HEADER: u64 = 36;

/// Files, directories and links by absolute path. What is not there, or cannot be read, is `None`
/// or empty: the probe reports what it finds and never fails over it.
pub trait Tree {
    fn read(&self, path: &str) -> Option<Vec<u8>>;
    /// Names in a directory, sorted.
    fn list(&self, path: &str) -> Vec<String>;
    /// The last component of where a link leads.
    fn link(&self, path: &str) -> Option<String>;

    /// A file as text, without the white space at its ends.
    fn text(&self, path: &str) -> Option<String> {
        let bytes = self.read(path)?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    fn has(&self, path: &str) -> bool {
        let (directory, name) = path.rsplit_once('/').unwrap_or_default();
        self.list(directory).iter().any(|found| found == name)
    }
}

/// A directory that stands for `/`.
pub struct Directory(pub PathBuf);

impl Directory {
    fn at(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }
}

impl Tree for Directory {
    fn read(&self, path: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = File::open(self.at(path)).ok()?;
        let most = match path.starts_with(machine::ACPI_TABLES) {
            true => ACPI_HEADER,
            false => MOST_BYTES,
        };
        file.take(most).read_to_end(&mut bytes).ok()?;
        match path {
            // A copied tree has it as the kernel packs it.
            CONFIG_GZ => config::unpack(&bytes),
            _ => Some(bytes),
        }
    }

    fn list(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.at(path)).into_iter().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        names
    }

    fn link(&self, path: &str) -> Option<String> {
        let target = std::fs::read_link(self.at(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }
}

/// This machine.
pub struct Machine(Directory);

impl Machine {
    pub fn new() -> Self {
        Self(Directory(Path::new("/").to_owned()))
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree for Machine {
    fn read(&self, path: &str) -> Option<Vec<u8>> {
        match path {
            CPUID => Some(cpu::registers().into_bytes()),
            // Asks the driver for our own address; nothing is dialled.
            CID => Some(vsock::get_local_cid().ok()?.to_string().into_bytes()),
            CONFIG => {
                let text = self.0.read(CONFIG_GZ)?;
                Some(config::lines(&String::from_utf8_lossy(&text)).into_bytes())
            }
            _ => self.0.read(path),
        }
    }

    fn list(&self, path: &str) -> Vec<String> {
        self.0.list(path)
    }

    fn link(&self, path: &str) -> Option<String> {
        self.0.link(path)
    }
}

/// What was read of a machine, to be sent and looked at elsewhere. Bytes that are no text are
/// `hex:` and digits.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Record {
    /// Where it comes from; for people.
    #[serde(default)]
    pub origin: String,
    files: BTreeMap<String, String>,
    lists: BTreeMap<String, Vec<String>>,
    links: BTreeMap<String, String>,
}

const HEX: &str = "hex:";

impl Tree for Record {
    fn read(&self, path: &str) -> Option<Vec<u8>> {
        let text = self.files.get(path)?;
        let Some(digits) = text.strip_prefix(HEX) else {
            return Some(text.clone().into_bytes());
        };
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        digits.as_bytes().chunks(2).map(byte).collect()
    }

    fn list(&self, path: &str) -> Vec<String> {
        self.lists.get(path).cloned().unwrap_or_default()
    }

    fn link(&self, path: &str) -> Option<String> {
        self.links.get(path).cloned()
    }
}

/// Notes everything that is read of another tree.
pub struct Recorder<'a> {
    tree: &'a dyn Tree,
    record: RefCell<Record>,
}

impl<'a> Recorder<'a> {
    pub fn new(tree: &'a dyn Tree) -> Self {
        Self {
            tree,
            record: RefCell::default(),
        }
    }

    pub fn into_record(self) -> Record {
        self.record.into_inner()
    }
}

impl Tree for Recorder<'_> {
    fn read(&self, path: &str) -> Option<Vec<u8>> {
        let bytes = self.tree.read(path)?;
        let text = match std::str::from_utf8(&bytes) {
            Ok(text) if !text.contains('\0') => text.to_owned(),
            _ => {
                let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{HEX}{digits}")
            }
        };
        self.record.borrow_mut().files.insert(path.into(), text);
        Some(bytes)
    }

    fn list(&self, path: &str) -> Vec<String> {
        let names = self.tree.list(path);
        if !names.is_empty() {
            let mut record = self.record.borrow_mut();
            record.lists.insert(path.into(), names.clone());
        }
        names
    }

    fn link(&self, path: &str) -> Option<String> {
        let target = self.tree.link(path)?;
        let mut record = self.record.borrow_mut();
        record.links.insert(path.into(), target.clone());
        Some(target)
    }
}
