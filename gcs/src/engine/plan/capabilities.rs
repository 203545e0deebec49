//! `process.capabilities`: names to masks.

use serde::{Deserialize, Serialize};

use crate::engine::json::At;

/// By number (capabilities(7)).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// How many capabilities there are.
pub const COUNT: u32 = NAMES.len() as u32;
pub const SYS_ADMIN: u64 = 1 << 21;

/// Those that this engine knows, without the prefix.
pub fn names() -> &'static [&'static str] {
    &NAMES
}

/// The five sets, bit by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capabilities {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

impl Capabilities {
    /// Absent sets are empty: no mention of capabilities means none, not all. What this engine
    /// does not know is left out with a warning, as the specification says.
    pub fn of(sets: &At<'_>, warnings: &mut Vec<String>) -> Result<Self, String> {
        let mut set = |name: &'static str| {
            let list = sets.member(name)?;
            let mut mask = 0;
            for entry in list.list()? {
                let text = entry.text()?;
                match text.strip_prefix("CAP_").and_then(number) {
                    Some(number) => mask |= 1 << number,
                    None => warnings.push(entry.refuse(format_args!(
                        "{text:?} is no capability of this kernel; it is left out"
                    ))),
                }
            }
            Ok::<u64, String>(mask)
        };
        let mut all = Self {
            bounding: set("bounding")?,
            effective: set("effective")?,
            permitted: set("permitted")?,
            inheritable: set("inheritable")?,
            ambient: set("ambient")?,
        };
        let possible = all.permitted & all.inheritable;
        if all.ambient & !possible != 0 {
            warnings.push(format!(
                "{sets}.ambient: what is not permitted and inheritable as well is left out"
            ));
            all.ambient &= possible;
        }
        Ok(all)
    }
}

fn number(name: &str) -> Option<usize> {
    NAMES.iter().position(|known| *known == name)
}
