//! `linux.resources.devices`: from the OCI list to what the kernel enforces.
//!
//! ```text
//! JSON ─ DeviceRule (typed) ─┬─ program ─▶ Programs (loaded once) ─ attach ─▶ cgroup v2
//!                      └─ v1 ─▶ lines for devices.deny and devices.allow
//! ```
//!
//! Both answer alike: rules in order, each bit of access on its own, the last rule that speaks
//! of it wins, denied when none does.

mod program;
mod programs;
mod v1;

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

pub use program::program;
pub use programs::Programs;
pub use v1::{lines, Line};

/// How many entries a list may have. Each takes up to three jumps, and the kernel gives up on a
/// program with a way through it of more than 8192 (`BPF_COMPLEXITY_LIMIT_JMP_SEQ`).
const MOST: usize = 2000;

/// Bits of access: `BPF_DEVCG_ACC_*` of linux/bpf.h.
const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    Block,
    Char,
}

/// One entry; `None` stands for any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    allow: bool,
    kind: Option<DeviceKind>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u8,
}

/// What every container may use, as in other runtimes. Making a node is harmless, opening it is
/// what counts.
const DEFAULTS: [DeviceRule; 10] = [
    allowed(DeviceKind::Char, None, None, MKNOD),
    allowed(DeviceKind::Block, None, None, MKNOD),
    allowed(DeviceKind::Char, Some(1), Some(3), ALL), // null
    allowed(DeviceKind::Char, Some(1), Some(5), ALL), // zero
    allowed(DeviceKind::Char, Some(1), Some(7), ALL), // full
    allowed(DeviceKind::Char, Some(1), Some(8), ALL), // random
    allowed(DeviceKind::Char, Some(1), Some(9), ALL), // urandom
    allowed(DeviceKind::Char, Some(5), Some(0), ALL), // tty
    allowed(DeviceKind::Char, Some(5), Some(2), ALL), // ptmx
    allowed(DeviceKind::Char, Some(136), None, ALL),  // pts
];

const fn allowed(
    kind: DeviceKind,
    major: Option<u32>,
    minor: Option<u32>,
    access: u8,
) -> DeviceRule {
    DeviceRule {
        allow: true,
        kind: Some(kind),
        major,
        minor,
        access,
    }
}

/// The complete rules of a container: nothing, then what its spec says (runtime-spec,
/// config-linux.md, "Allowed Device list"), then what every container may use. The error names
/// the entry.
pub fn rules(given: &[Value]) -> Result<Vec<DeviceRule>, String> {
    if given.len() > MOST {
        return Err(format!(
            "linux.resources.devices: {} entries are more than the {MOST} that can be enforced",
            given.len()
        ));
    }
    let nothing = DeviceRule {
        allow: false,
        kind: None,
        major: None,
        minor: None,
        access: ALL,
    };
    let given = given.iter().enumerate().map(|(at, entry)| {
        DeviceRule::of(entry).map_err(|why| format!("linux.resources.devices[{at}]: {why}"))
    });
    let all = [Ok(nothing)].into_iter().chain(given);
    all.chain(DEFAULTS.map(Ok)).collect()
}

#[derive(Deserialize)]
struct DeviceEntry<'a> {
    allow: bool,
    #[serde(rename = "type")]
    kind: Option<&'a str>,
    major: Option<i64>,
    minor: Option<i64>,
    access: Option<&'a str>,
}

impl DeviceRule {
    fn of(entry: &Value) -> Result<Self, String> {
        let entry = DeviceEntry::deserialize(entry).map_err(|e| e.to_string())?;
        let kind = match entry.kind {
            None | Some("" | "a") => None,
            Some("c" | "u") => Some(DeviceKind::Char),
            Some("b") => Some(DeviceKind::Block),
            Some(other) => return Err(format!("type {other:?} is none of a, b, c, u")),
        };
        Ok(Self {
            allow: entry.allow,
            kind,
            major: number("major", entry.major)?,
            minor: number("minor", entry.minor)?,
            access: access(
                entry
                    .access
                    .filter(|text| !text.is_empty())
                    .unwrap_or("rwm"),
            )?,
        })
    }

    /// Whether it speaks of every device and every access.
    fn is_total(self) -> bool {
        self.access == ALL && self.kind.is_none() && self.major.is_none() && self.minor.is_none()
    }
}

/// Absent and negative mean any, as in other runtimes.
fn number(name: &str, number: Option<i64>) -> Result<Option<u32>, String> {
    match number {
        Some(number @ 0..) => u32::try_from(number)
            .map(Some)
            .map_err(|_| format!("{name} {number} does not fit into 32 bits")),
        _ => Ok(None),
    }
}

fn access(text: &str) -> Result<u8, String> {
    text.chars().try_fold(0, |bits, letter| match letter {
        'm' => Ok(bits | MKNOD),
        'r' => Ok(bits | READ),
        'w' => Ok(bits | WRITE),
        _ => Err(format!("access {text:?} holds other letters than r, w, m")),
    })
}

/// As the files of cgroup v1 have it, after the word that allows or denies.
impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            None => 'a',
            Some(DeviceKind::Block) => 'b',
            Some(DeviceKind::Char) => 'c',
        };
        write!(f, "{kind} ")?;
        for (number, end) in [(self.major, ':'), (self.minor, ' ')] {
            match number {
                Some(number) => write!(f, "{number}{end}")?,
                None => write!(f, "*{end}")?,
            }
        }
        let letters = [(READ, "r"), (WRITE, "w"), (MKNOD, "m")];
        let granted = letters.iter().filter(|(bit, _)| self.access & bit != 0);
        granted
            .into_iter()
            .try_for_each(|(_, letter)| f.write_str(letter))
    }
}

#[cfg(test)]
mod tests;
