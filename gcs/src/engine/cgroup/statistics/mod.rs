//! The statistics of one container in the layout of cgroup v1 (protocol 4.9.1), from v1 or v2.
//!
//! ```text
//! directory of a controller ─ read(file name) ─▶ text ─ pure functions ─▶ prot::stats
//! ```
//!
//! Holds: a missing controller or file leaves its members out and costs no other (the kernel
//! and its options decide what there is); what does not parse counts as missing.

mod v1;
mod v2;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use super::Group;
use crate::error::Failure;
use crate::prot::stats::{BlkioEntry, Metrics, RdmaEntry};

/// The text of the file of this name in the directory of one controller.
type Read<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What cgroup v1 says where there is no limit: the largest multiple of the page size.
const UNLIMITED: u64 = 0x7fff_ffff_ffff_f000;

/// Reads what there is. Blocks: run it in a task.
///
/// # Errors
/// `FAIL` when the container has no cgroup in any hierarchy.
pub(super) fn collect(group: &Group) -> Result<Metrics, Failure> {
    if !group.exists() {
        return Err(Failure::unspecified(
            "read the statistics: the container has no control group; it may have been deleted",
        ));
    }
    let partitions = fs::read_to_string("/proc/partitions").unwrap_or_default();
    let devices = Devices::new(&partitions);
    Ok(match group.unified() {
        Some(dir) => {
            let limits = limits_above(dir, group.mount());
            v2::metrics(&|name| text(dir, name), &limits, &names(dir), &devices)
        }
        None => v1::metrics(group, &devices),
    })
}

fn text(dir: &Path, name: &str) -> Option<String> {
    fs::read_to_string(dir.join(name)).ok()
}

/// The file names of a directory.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// The texts of `memory.max` of the groups above `dir`, which bound it as well.
fn limits_above(dir: &Path, mount: &Path) -> Vec<String> {
    let above = dir.ancestors().skip(1).take_while(|dir| *dir != mount);
    above.filter_map(|dir| text(dir, "memory.max")).collect()
}

/// The page sizes for which there is a file `hugetlb.<size>.<suffix>`.
fn page_sizes<'a>(names: &'a [String], suffix: &'a str) -> impl Iterator<Item = &'a str> {
    names.iter().filter_map(move |name| {
        let size = name.strip_prefix("hugetlb.")?.strip_suffix(suffix)?;
        let size = size.strip_suffix('.')?;
        // `hugetlb.2MB.rsvd.max` counts reservations.
        (!size.contains('.')).then_some(size)
    })
}

/// One number; `max` means that there is no limit.
fn number(text: Option<String>, unlimited: u64) -> u64 {
    match text.as_deref().map(str::trim) {
        Some("max") => unlimited,
        Some(text) => text.parse().unwrap_or_default(),
        None => 0,
    }
}

/// Lines of `key number`.
fn table(text: Option<String>) -> HashMap<String, u64> {
    let text = text.unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), value.trim().parse().ok()?))
    });
    lines.collect()
}

/// Lines of `device hca_handle=N hca_object=N`, the same in both versions.
fn rdma(text: Option<String>) -> Vec<RdmaEntry> {
    let text = text.unwrap_or_default();
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let mut entry = RdmaEntry {
            device: words.next()?.to_owned(),
            ..RdmaEntry::default()
        };
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let value = match value {
                "max" => u32::MAX,
                value => value.parse().unwrap_or_default(),
            };
            match name {
                "hca_handle" => entry.hca_handles = value,
                "hca_object" => entry.hca_objects = value,
                _ => {}
            }
        }
        Some(entry)
    };
    text.lines().filter_map(line).collect()
}

/// Names of block devices by number.
struct Devices(HashMap<(u64, u64), String>);

impl Devices {
    /// From `/proc/partitions`: major, minor, blocks, name.
    fn new(partitions: &str) -> Self {
        let line = |line: &str| {
            let mut words = line.split_whitespace();
            let major = words.next()?.parse().ok()?;
            let minor = words.next()?.parse().ok()?;
            Some(((major, minor), format!("/dev/{}", words.nth(1)?)))
        };
        Self(partitions.lines().filter_map(line).collect())
    }

    /// An entry for the device `number`, such as `8:0`.
    fn entry(&self, number: &str, op: &str, value: u64) -> Option<BlkioEntry> {
        let (major, minor) = number.split_once(':')?;
        let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
        Some(BlkioEntry {
            op: op.to_owned(),
            device: self.0.get(&(major, minor)).cloned().unwrap_or_default(),
            major,
            minor,
            value,
        })
    }
}

#[cfg(test)]
mod tests;
