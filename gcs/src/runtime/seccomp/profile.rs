//! The profile as typed rules.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::names;

/// What the kernel does with a call: the filter's return value (seccomp(2)).
pub(super) type Verdict = u32;

pub(super) const KILL_THREAD: Verdict = 0;
const KILL_PROCESS: Verdict = 0x8000_0000;
const TRAP: Verdict = 0x0003_0000;
pub(super) const ERRNO: Verdict = 0x0005_0000;
const TRACE: Verdict = 0x7ff0_0000;
pub(super) const LOG: Verdict = 0x7ffc_0000;
pub(super) const ALLOW: Verdict = 0x7fff_0000;
/// `MAX_ERRNO` of the kernel, which cuts larger ones down silently.
const LARGEST_ERRNO: u64 = 4095;

/// SCMP_ACT_...
const ACTIONS: [(&str, Verdict); 8] = [
    ("ALLOW", ALLOW),
    ("ERRNO", ERRNO),
    ("KILL", KILL_THREAD),
    ("KILL_THREAD", KILL_THREAD),
    ("KILL_PROCESS", KILL_PROCESS),
    ("TRAP", TRAP),
    ("TRACE", TRACE),
    ("LOG", LOG),
];

/// SECCOMP_FILTER_FLAG_...
const FLAGS: [(&str, u32); 3] = [("TSYNC", 1), ("LOG", 2), ("SPEC_ALLOW", 4)];

/// SCMP_ARCH_... of the runtime specification.
const ARCHITECTURES: [&str; 24] = [
    "NATIVE",
    "X86",
    "X86_64",
    "X32",
    "ARM",
    "AARCH64",
    "MIPS",
    "MIPS64",
    "MIPS64N32",
    "MIPSEL",
    "MIPSEL64",
    "MIPSEL64N32",
    "PPC",
    "PPC64",
    "PPC64LE",
    "S390",
    "S390X",
    "PARISC",
    "PARISC64",
    "RISCV64",
    "LOONGARCH64",
    "M68K",
    "SH",
    "SHEB",
];

/// How an argument is compared, both sides unsigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
    /// The bits of `mask` are `value`.
    Masked {
        mask: u64,
        value: u64,
    },
}

/// One comparison: argument 0 to 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    pub argument: u32,
    pub test: Test,
}

/// For calls of this number that meet all conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub number: u32,
    pub conditions: Vec<Condition>,
    pub verdict: Verdict,
}

/// A profile in which everything is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Profile {
    pub default: Verdict,
    /// Calls that always end the same way.
    pub always: BTreeMap<u32, Verdict>,
    /// For the other calls, in the order of the profile: the first that fits counts.
    pub rules: Vec<Rule>,
    /// The highest number the profile speaks of.
    pub newest: Option<u32>,
    /// What the 32-bit calls of the architecture list end with.
    pub x86: Verdict,
    pub x32: Verdict,
    /// Of seccomp(2).
    pub flags: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    default_action: String,
    default_errno_ret: Option<u64>,
    architectures: Option<Vec<String>>,
    flags: Option<Vec<String>>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    action: String,
    errno_ret: Option<u64>,
    args: Option<Vec<Argument>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    #[serde(default)]
    index: u64,
    #[serde(default)]
    value: u64,
    #[serde(default)]
    value_two: u64,
    #[serde(default)]
    op: String,
}

impl Profile {
    pub fn parse(document: &Value) -> Result<Self, String> {
        let document =
            Document::deserialize(document).map_err(|e| format!("linux.seccomp: {e}"))?;
        let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        if given(&document.listener_path) || given(&document.listener_metadata) {
            return Err(
                "linux.seccomp.listenerPath: this guest has no listeners for system calls".into(),
            );
        }
        let default = verdict(&document.default_action, document.default_errno_ret)
            .map_err(|why| format!("linux.seccomp.defaultAction: {why}"))?;
        let mut flags = 0;
        for name in document.flags.iter().flatten() {
            flags |= flag(name)?;
        }
        let architectures = document.architectures.unwrap_or_default();
        for name in &architectures {
            let known = name.strip_prefix("SCMP_ARCH_");
            if !known.is_some_and(|name| ARCHITECTURES.contains(&name)) {
                return Err(format!(
                    "linux.seccomp.architectures: {name:?} is not known"
                ));
            }
        }
        // The kernel of this guest has no 32-bit calls and would say so itself; calls of a
        // kind that is not listed must not even try.
        let of = |name: &str| {
            let listed = architectures.iter().any(|listed| listed == name);
            if listed {
                ERRNO | libc::ENOSYS.cast_unsigned()
            } else {
                KILL_THREAD
            }
        };
        let mut profile = Self {
            default,
            always: BTreeMap::new(),
            rules: Vec::new(),
            newest: None,
            x86: of("SCMP_ARCH_X86"),
            x32: of("SCMP_ARCH_X32"),
            flags,
        };
        for (at, entry) in document.syscalls.iter().flatten().enumerate() {
            profile
                .add(entry)
                .map_err(|why| format!("linux.seccomp.syscalls[{at}]: {why}"))?;
        }
        let always = &profile.always;
        profile
            .rules
            .retain(|rule| !always.contains_key(&rule.number));
        Ok(profile)
    }

    fn add(&mut self, entry: &Entry) -> Result<(), String> {
        let verdict = verdict(&entry.action, entry.errno_ret)?;
        let args = entry.args.as_deref().unwrap_or_default();
        let conditions = args.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
        let mut seen = [0_u32; 6];
        for condition in &conditions {
            seen[condition.argument as usize] += 1;
        }
        for name in &entry.names {
            let Some(number) = names::number(name) else {
                log::debug!("linux.seccomp: there is no system call {name:?} on this machine");
                continue;
            };
            self.newest = self.newest.max(Some(number));
            if verdict == self.default {
                continue;
            }
            let rule = |conditions| Rule {
                number,
                conditions,
                verdict,
            };
            if conditions.is_empty() {
                if self
                    .always
                    .insert(number, verdict)
                    .is_some_and(|other| other != verdict)
                {
                    return Err(format!("{name} has another action in an entry before"));
                }
            } else if seen.iter().any(|count| *count > 1) {
                // Two tests of one argument are alternatives, as in other runtimes.
                let each = conditions.iter().map(|condition| rule(vec![*condition]));
                self.rules.extend(each);
            } else {
                self.rules.push(rule(conditions.clone()));
            }
        }
        Ok(())
    }
}

/// An action with the number it carries.
fn verdict(action: &str, errno: Option<u64>) -> Result<Verdict, String> {
    if action == "SCMP_ACT_NOTIFY" {
        return Err("SCMP_ACT_NOTIFY needs a listener, and this guest has none".into());
    }
    let known = action.strip_prefix("SCMP_ACT_");
    let known = known.and_then(|name| ACTIONS.iter().find(|(other, _)| *other == name));
    let Some((_, verdict)) = known else {
        return Err(format!("action {action:?} is not known"));
    };
    match (*verdict, errno) {
        (ERRNO | TRACE, None) => Ok(verdict | libc::EPERM.cast_unsigned()),
        (ERRNO | TRACE, Some(errno @ 0..=LARGEST_ERRNO)) => Ok(verdict | errno as u32),
        (ERRNO | TRACE, Some(errno)) => Err(format!("errno {errno} is above {LARGEST_ERRNO}")),
        (other, None) => Ok(other),
        (_, Some(_)) => Err(format!("action {action} has no errno")),
    }
}

fn flag(name: &str) -> Result<u32, String> {
    let known = name.strip_prefix("SECCOMP_FILTER_FLAG_");
    let known = known.and_then(|name| FLAGS.iter().find(|(other, _)| *other == name));
    match known {
        Some((_, flag)) => Ok(*flag),
        None if name == "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => Err(format!(
            "linux.seccomp.flags: {name} is for listeners, and this guest has none"
        )),
        None => Err(format!("linux.seccomp.flags: {name:?} is not known")),
    }
}

fn condition(argument: &Argument) -> Result<Condition, String> {
    let value = argument.value;
    let test = match argument.op.as_str() {
        "SCMP_CMP_EQ" => Test::Equal(value),
        "SCMP_CMP_NE" => Test::NotEqual(value),
        "SCMP_CMP_LT" => Test::Less(value),
        "SCMP_CMP_LE" => Test::LessOrEqual(value),
        "SCMP_CMP_GT" => Test::Greater(value),
        "SCMP_CMP_GE" => Test::GreaterOrEqual(value),
        "SCMP_CMP_MASKED_EQ" => Test::Masked {
            mask: value,
            value: argument.value_two,
        },
        other => return Err(format!("operator {other:?} is not known")),
    };
    match argument.index {
        index @ 0..=5 => Ok(Condition {
            argument: index as u32,
            test,
        }),
        index => Err(format!("a system call has arguments 0 to 5, not {index}")),
    }
}
