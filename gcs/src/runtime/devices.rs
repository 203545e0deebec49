//! Device rules: from the OCI list to what the kernel enforces.
//!
//! v1 gets the list itself. v2 has no list; the kernel asks a program at every open and mknod;
//! [`program`] makes one that answers as v1 would: rules in order, each bit of access on its own,
//! the last rule that speaks of it wins, denied when none does.

use serde::Deserialize;
use serde_json::{json, Value};

use crate::sys::bpf::Insn;

/// `bpf_cgroup_dev_ctx`: access bits (`BPF_DEVCG_ACC_*`) and types (`BPF_DEVCG_DEV_*`).
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const ALL: i32 = MKNOD | READ | WRITE;
const BLOCK: i32 = 1;
const CHAR: i32 = 2;

/// One entry of OCI `linux.resources.devices`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Rule {
    pub allow: bool,
    #[serde(rename = "type", default)]
    pub kind: Option<String>,
    #[serde(default)]
    pub major: Option<i64>,
    #[serde(default)]
    pub minor: Option<i64>,
    #[serde(default)]
    pub access: Option<String>,
}

/// What every container may use, as in other runtimes: (type, major, minor, access), -1 = any.
/// Making a node is harmless, opening it is what counts.
const DEFAULTS: [(&str, i64, i64, &str); 10] = [
    ("c", -1, -1, "m"),
    ("b", -1, -1, "m"),
    ("c", 1, 3, "rwm"),    // null
    ("c", 1, 5, "rwm"),    // zero
    ("c", 1, 7, "rwm"),    // full
    ("c", 1, 8, "rwm"),    // random
    ("c", 1, 9, "rwm"),    // urandom
    ("c", 5, 0, "rwm"),    // tty
    ("c", 5, 2, "rwm"),    // ptmx
    ("c", 136, -1, "rwm"), // pts
];

/// The complete list for a container: nothing, then what its spec says, then [`DEFAULTS`].
pub(super) fn complete(given: &[Value]) -> Vec<Value> {
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    rules.extend(given.iter().cloned());
    for (kind, major, minor, access) in DEFAULTS {
        let mut rule = json!({"allow": true, "type": kind, "access": access});
        if major >= 0 {
            rule["major"] = major.into();
        }
        if minor >= 0 {
            rule["minor"] = minor.into();
        }
        rules.push(rule);
    }
    rules
}

/// The rules typed; the error names the entry.
pub(super) fn parse(rules: &[Value]) -> Result<Vec<Rule>, String> {
    rules
        .iter()
        .map(|value| {
            let rule = Rule::deserialize(value)
                .map_err(|e| format!("linux.resources.devices: {e} in {value}"))?;
            kinds(&rule)?;
            access(&rule)?;
            Ok(rule)
        })
        .collect()
}

/// The type bits a rule speaks of; empty = every type.
fn kinds(rule: &Rule) -> Result<Option<i32>, String> {
    match rule.kind.as_deref() {
        None | Some("" | "a") => Ok(None),
        Some("c" | "u") => Ok(Some(CHAR)),
        Some("b") => Ok(Some(BLOCK)),
        Some(other) => Err(format!(
            "linux.resources.devices: type {other:?} is none of a, b, c, u"
        )),
    }
}

fn access(rule: &Rule) -> Result<i32, String> {
    let text = rule.access.as_deref().unwrap_or("rwm");
    text.chars().try_fold(0, |bits, c| match c {
        'm' => Ok(bits | MKNOD),
        'r' => Ok(bits | READ),
        'w' => Ok(bits | WRITE),
        _ => Err(format!(
            "linux.resources.devices: access {text:?} holds other letters than r, w, m"
        )),
    })
}

/// Major or minor as the kernel compares it; absent and -1 mean any.
fn number(n: Option<i64>) -> Option<i32> {
    n.filter(|n| *n >= 0)
        .map(|n| u32::try_from(n).unwrap_or(u32::MAX).cast_signed())
}

/// The `BPF_PROG_TYPE_CGROUP_DEVICE` program for `rules`.
///
/// r2 type, r3 wanted access, r4 major, r5 minor, r6 granted access.
pub(super) fn program(rules: &[Rule]) -> Result<Vec<Insn>, String> {
    use Insn as I;
    let mut code = vec![
        I::load32(2, 1, 0),
        I::mov_reg(3, 2),
        I::and(2, 0xffff),
        I::shift_right(3, 16),
        I::load32(4, 1, 4),
        I::load32(5, 1, 8),
        I::mov(6, 0),
    ];
    for rule in rules {
        let access = access(rule)?;
        let tests: Vec<(u8, i32)> = [
            (2, kinds(rule)?),
            (4, number(rule.major)),
            (5, number(rule.minor)),
        ]
        .into_iter()
        .filter_map(|(register, value)| Some((register, value?)))
        .collect();
        // Each test jumps over the tests after it and the one change.
        for (nth, (register, value)) in tests.iter().enumerate() {
            let over = i16::try_from(tests.len() - nth).expect("at most three tests");
            code.push(I::jump_if_ne32(*register, *value, over));
        }
        code.push(if rule.allow {
            I::or(6, access)
        } else {
            I::and(6, ALL & !access)
        });
    }
    code.extend([
        I::xor(6, ALL),
        I::and_reg(3, 6),
        I::mov(0, 0),
        I::jump_if_ne32(3, 0, 1),
        I::mov(0, 1),
        I::exit(),
    ]);
    Ok(code)
}

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;
