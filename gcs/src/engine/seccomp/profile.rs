//! The profile as typed rules.

use serde::Deserialize;
use serde_json::Value;

use super::names;

/// What the kernel does with a call: the filter's return value (seccomp(2)).
pub(super) type Action = u32;

pub(super) const KILL_THREAD: Action = 0;
const KILL_PROCESS: Action = 0x8000_0000;
const TRAP: Action = 0x0003_0000;
pub(super) const ERRNO: Action = 0x0005_0000;
const TRACE: Action = 0x7ff0_0000;
pub(super) const LOG: Action = 0x7ffc_0000;
pub(super) const ALLOW: Action = 0x7fff_0000;
/// What a kernel answers that does not have the call.
pub(super) const NO_SUCH_CALL: Action = ERRNO | libc::ENOSYS.cast_unsigned();
/// `MAX_ERRNO` of the kernel, which cuts larger ones down silently.
const LARGEST_ERRNO: u64 = 4095;

/// SCMP_ACT_...
const ACTIONS: [(&str, Action); 8] = [
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

/// For calls that meet all conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CallRule {
    pub conditions: Vec<Condition>,
    pub action: Action,
}

/// What becomes of one system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    /// The arguments do not matter.
    Always(Action),
    /// The first rule that fits counts, and the default when none does.
    Rules(Vec<CallRule>),
}

/// A profile in which everything is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Profile {
    pub default: Action,
    /// By number, up to the highest one that the profile names.
    pub calls: Vec<Call>,
    /// What the 32-bit calls of the architecture list end with.
    pub x86: Action,
    pub x32: Action,
    /// Of seccomp(2).
    pub flags: u32,
}

/// The texts stay where the document has them: a profile has hundreds.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    #[serde(default)]
    default_action: &'a str,
    default_errno_ret: Option<u64>,
    #[serde(borrow)]
    architectures: Option<Vec<&'a str>>,
    #[serde(borrow)]
    flags: Option<Vec<&'a str>>,
    listener_path: Option<&'a str>,
    listener_metadata: Option<&'a str>,
    #[serde(borrow)]
    syscalls: Option<Vec<CallEntry<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CallEntry<'a> {
    #[serde(default, borrow)]
    names: Vec<&'a str>,
    #[serde(default)]
    action: &'a str,
    errno_ret: Option<u64>,
    #[serde(borrow)]
    args: Option<Vec<Argument<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument<'a> {
    #[serde(default)]
    index: u64,
    #[serde(default)]
    value: u64,
    #[serde(default)]
    value_two: u64,
    #[serde(default)]
    op: &'a str,
}

impl Profile {
    pub fn parse(document: &Value) -> Result<Self, String> {
        let document =
            Document::deserialize(document).map_err(|e| format!("linux.seccomp: {e}"))?;
        let given = |text: Option<&str>| text.is_some_and(|text| !text.is_empty());
        if given(document.listener_path) || given(document.listener_metadata) {
            return Err(
                "linux.seccomp.listenerPath: this guest has no listeners for system calls".into(),
            );
        }
        let default = action(document.default_action, document.default_errno_ret)
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
        // libseccomp ends a thread that makes calls of a kind that is not listed. For the kinds
        // that are it would filter by name; the kernel of this guest has no 32-bit calls at all,
        // so here they end with what such a kernel answers.
        let of = |name: &str| {
            if architectures.contains(&name) {
                NO_SUCH_CALL
            } else {
                KILL_THREAD
            }
        };
        let mut profile = Self {
            default,
            calls: Vec::with_capacity(names::END),
            x86: of("SCMP_ARCH_X86"),
            x32: of("SCMP_ARCH_X32"),
            flags,
        };
        let mut decided = [false; names::END];
        for (at, entry) in document.syscalls.iter().flatten().enumerate() {
            profile
                .add(entry, &mut decided)
                .map_err(|why| format!("linux.seccomp.syscalls[{at}]: {why}"))?;
        }
        Ok(profile)
    }

    /// Calls in `decided` have had an entry without conditions, next to which those with
    /// conditions do not count.
    fn add(
        &mut self,
        entry: &CallEntry<'_>,
        decided: &mut [bool; names::END],
    ) -> Result<(), String> {
        let action = action(entry.action, entry.errno_ret)?;
        let rules = rules(entry.args.as_deref().unwrap_or_default(), action)?;
        for name in &entry.names {
            let Some(number) = names::number(name) else {
                log::debug!("linux.seccomp: there is no system call {name:?} on this machine");
                continue;
            };
            let number = number as usize;
            if number >= self.calls.len() {
                self.calls.resize(number + 1, Call::Always(self.default));
            }
            if action == self.default {
                continue;
            }
            let call = &mut self.calls[number];
            if rules.is_empty() {
                if decided[number] && *call != Call::Always(action) {
                    return Err(format!("{name} has another action in an entry before"));
                }
                decided[number] = true;
                *call = Call::Always(action);
            } else if !decided[number] {
                match call {
                    Call::Rules(before) => before.extend_from_slice(&rules),
                    Call::Always(_) => *call = Call::Rules(rules.clone()),
                }
            }
        }
        Ok(())
    }
}

/// The rules of an entry with these arguments; none without arguments.
fn rules(args: &[Argument<'_>], action: Action) -> Result<Vec<CallRule>, String> {
    let conditions = args.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
    let mut seen = [false; 6];
    let twice = conditions
        .iter()
        .any(|condition| std::mem::replace(&mut seen[condition.argument as usize], true));
    let rule = |conditions| CallRule { conditions, action };
    Ok(match conditions.len() {
        0 => Vec::new(),
        // Two tests of one argument are alternatives, as in other runtimes.
        _ if twice => conditions.into_iter().map(|one| rule(vec![one])).collect(),
        _ => vec![rule(conditions)],
    })
}

/// An action with the number it carries.
fn action(name: &str, errno: Option<u64>) -> Result<Action, String> {
    if name == "SCMP_ACT_NOTIFY" {
        return Err("SCMP_ACT_NOTIFY needs a listener, and this guest has none".into());
    }
    let known = name.strip_prefix("SCMP_ACT_");
    let known = known.and_then(|name| ACTIONS.iter().find(|(other, _)| *other == name));
    let Some((_, action)) = known else {
        return Err(format!("action {name:?} is not known"));
    };
    match (*action, errno) {
        (ERRNO | TRACE, None) => Ok(action | libc::EPERM.cast_unsigned()),
        (ERRNO | TRACE, Some(errno @ 0..=LARGEST_ERRNO)) => Ok(action | errno as u32),
        (ERRNO | TRACE, Some(errno)) => Err(format!("errno {errno} is above {LARGEST_ERRNO}")),
        (other, None) => Ok(other),
        (_, Some(_)) => Err(format!("action {name} has no errno")),
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

fn condition(argument: &Argument<'_>) -> Result<Condition, String> {
    let value = argument.value;
    let test = match argument.op {
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
