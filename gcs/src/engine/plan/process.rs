//! `process`: of a container, or one more in it.

use std::collections::HashMap;
use std::ffi::CString;

use nix::sys::resource::Resource;
use serde_json::Value;

use super::{settings, Capabilities};
use crate::engine::json::At;
use crate::sys::identity::Scheduling;

#[derive(Debug, Clone)]
pub struct Process {
    pub args: Vec<CString>,
    /// Each name once.
    pub env: Vec<CString>,
    /// Whether `HOME` is in it; else it is looked up in the container.
    pub has_home: bool,
    /// The value of `PATH`.
    pub path: Option<String>,
    /// Absolute, in the container.
    pub cwd: String,
    pub user: User,
    /// None: not given.
    pub capabilities: Option<Capabilities>,
    pub limits: Vec<Limit>,
    pub no_new_privileges: bool,
    /// None: not given.
    pub oom_score: Option<i32>,
    pub terminal: bool,
    pub size: Option<Size>,
    /// Class and priority within it (ioprio_set(2)).
    pub io_priority: Option<(u32, u32)>,
    pub scheduling: Option<Scheduling>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: u32,
}

/// Of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub rows: u16,
    pub columns: u16,
}

#[derive(Debug, Clone, Copy)]
pub struct Limit {
    pub resource: Resource,
    pub soft: u64,
    pub hard: u64,
}

impl Process {
    /// One that is given on its own; what it leaves out is the container's. Warnings go to the
    /// log.
    pub fn parse(process: &Value) -> Result<Self, String> {
        let mut warnings = Vec::new();
        let parsed = Self::of(&At::document(process, "process"), &mut warnings);
        warnings.iter().for_each(|warning| log::warn!("{warning}"));
        parsed
    }

    pub fn of(process: &At<'_>, warnings: &mut Vec<String>) -> Result<Self, String> {
        settings::unlabelled(&process.member("apparmorProfile")?, "AppArmor")?;
        settings::unlabelled(&process.member("selinuxLabel")?, "SELinux")?;
        let args = process.member("args")?;
        let words = args.list()?.map(|word| settings::c_string(&word));
        let words = words.collect::<Result<Vec<_>, _>>()?;
        if words.first().is_none_or(|program| program.is_empty()) {
            return Err(args.refuse("it names no program"));
        }
        let (env, has_home, path) = environment(&process.member("env")?)?;
        let cwd = process.member("cwd")?;
        let cwd = match cwd.text()? {
            "" => "/",
            text if text.starts_with('/') => text,
            text => return Err(cwd.refuse(format_args!("{text:?} is no absolute path"))),
        };
        let capabilities = process.member("capabilities")?;
        let score = process.member("oomScoreAdj")?;
        let oom_score = score.number::<i32>()?;
        if oom_score.is_some_and(|score| !(-1000..=1000).contains(&score)) {
            return Err(score.refuse("it is not between -1000 and 1000"));
        }
        Ok(Self {
            args: words,
            env,
            has_home,
            path,
            cwd: cwd.to_owned(),
            user: user(&process.member("user")?)?,
            capabilities: match capabilities.is_absent() {
                true => None,
                false => Some(Capabilities::of(&capabilities, warnings)?),
            },
            limits: limits(&process.member("rlimits")?)?,
            no_new_privileges: process.member("noNewPrivileges")?.flag()?,
            oom_score,
            terminal: process.member("terminal")?.flag()?,
            size: size(&process.member("consoleSize")?)?,
            io_priority: io_priority(&process.member("ioPriority")?)?,
            scheduling: scheduling(&process.member("scheduler")?)?,
        })
    }
}

/// As runc 1.1: of a name given twice the last value, at the place of the first; an empty `HOME`
/// is none.
fn environment(list: &At<'_>) -> Result<(Vec<CString>, bool, Option<String>), String> {
    let mut env: Vec<CString> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut path = None;
    for entry in list.list()? {
        let text = entry.text()?;
        let (name, value) = match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => (name, value),
            _ => return Err(entry.refuse(format_args!("{text:?} is not of the form NAME=value"))),
        };
        if name == "PATH" {
            path = Some(value.to_owned());
        }
        let variable = settings::c_string(&entry)?;
        match places.get(name) {
            Some(&place) => env[place] = variable,
            None => {
                places.insert(name.to_owned(), env.len());
                env.push(variable);
            }
        }
    }
    let mut has_home = false;
    if let Some(&place) = places.get("HOME") {
        has_home = env[place].as_bytes().len() > "HOME=".len();
        if !has_home {
            env.remove(place);
        }
    }
    Ok((env, has_home, path))
}

fn user(user: &At<'_>) -> Result<User, String> {
    let groups = user.member("additionalGids")?;
    let groups = groups.list()?.map(|group| {
        let number = group.number()?;
        number.ok_or_else(|| group.refuse("it is null"))
    });
    Ok(User {
        uid: user.member("uid")?.number()?.unwrap_or(0),
        gid: user.member("gid")?.number()?.unwrap_or(0),
        groups: groups.collect::<Result<_, _>>()?,
        umask: user.member("umask")?.number()?.unwrap_or(0o022) & 0o777,
    })
}

fn size(size: &At<'_>) -> Result<Option<Size>, String> {
    let rows = size.member("height")?.number()?;
    let columns = size.member("width")?.number()?;
    Ok(rows
        .zip(columns)
        .map(|(rows, columns)| Size { rows, columns }))
}

const LIMITS: [(&str, Resource); 16] = [
    ("RLIMIT_AS", Resource::RLIMIT_AS),
    ("RLIMIT_CORE", Resource::RLIMIT_CORE),
    ("RLIMIT_CPU", Resource::RLIMIT_CPU),
    ("RLIMIT_DATA", Resource::RLIMIT_DATA),
    ("RLIMIT_FSIZE", Resource::RLIMIT_FSIZE),
    ("RLIMIT_LOCKS", Resource::RLIMIT_LOCKS),
    ("RLIMIT_MEMLOCK", Resource::RLIMIT_MEMLOCK),
    ("RLIMIT_MSGQUEUE", Resource::RLIMIT_MSGQUEUE),
    ("RLIMIT_NICE", Resource::RLIMIT_NICE),
    ("RLIMIT_NOFILE", Resource::RLIMIT_NOFILE),
    ("RLIMIT_NPROC", Resource::RLIMIT_NPROC),
    ("RLIMIT_RSS", Resource::RLIMIT_RSS),
    ("RLIMIT_RTPRIO", Resource::RLIMIT_RTPRIO),
    ("RLIMIT_RTTIME", Resource::RLIMIT_RTTIME),
    ("RLIMIT_SIGPENDING", Resource::RLIMIT_SIGPENDING),
    ("RLIMIT_STACK", Resource::RLIMIT_STACK),
];

fn limits(list: &At<'_>) -> Result<Vec<Limit>, String> {
    let mut all: Vec<Limit> = Vec::new();
    for entry in list.list()? {
        let name = entry.member("type")?;
        let text = name.text()?;
        let known = LIMITS.iter().find(|(known, _)| *known == text);
        let Some((_, resource)) = known else {
            return Err(name.refuse(format_args!("{text:?} is no limit of this kernel")));
        };
        if all.iter().any(|limit| limit.resource == *resource) {
            return Err(name.refuse(format_args!("{text} is there twice")));
        }
        let value = |name: &'static str| -> Result<u64, String> {
            let value = entry.member(name)?;
            let missing = || value.refuse("it is missing");
            value.number()?.ok_or_else(missing)
        };
        let (soft, hard) = (value("soft")?, value("hard")?);
        if soft > hard {
            return Err(entry.refuse(format_args!("soft {soft} is above hard {hard}")));
        }
        all.push(Limit {
            resource: *resource,
            soft,
            hard,
        });
    }
    Ok(all)
}

fn io_priority(priority: &At<'_>) -> Result<Option<(u32, u32)>, String> {
    if priority.is_absent() {
        return Ok(None);
    }
    let class = priority.member("class")?;
    let number = match class.text()? {
        "IOPRIO_CLASS_RT" => 1,
        "IOPRIO_CLASS_BE" => 2,
        "IOPRIO_CLASS_IDLE" => 3,
        other => return Err(class.refuse(format_args!("{other:?} is no class"))),
    };
    let level = priority.member("priority")?;
    match level.number::<u32>()?.unwrap_or(0) {
        level @ 0..=7 => Ok(Some((number, level))),
        other => Err(level.refuse(format_args!("{other} is not between 0 and 7"))),
    }
}

const POLICIES: [(&str, u32); 7] = [
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", 1),
    ("SCHED_RR", 2),
    ("SCHED_BATCH", 3),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", 6),
];

const SCHEDULER_FLAGS: [(&str, u64); 7] = [
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

fn scheduling(scheduler: &At<'_>) -> Result<Option<Scheduling>, String> {
    if scheduler.is_absent() {
        return Ok(None);
    }
    let policy = scheduler.member("policy")?;
    let text = policy.text()?;
    let known = POLICIES.iter().find(|(name, _)| *name == text);
    let Some((_, policy)) = known else {
        return Err(policy.refuse(format_args!("{text:?} is no policy")));
    };
    let mut all = Scheduling {
        policy: *policy,
        nice: scheduler.member("nice")?.number()?.unwrap_or(0),
        priority: scheduler.member("priority")?.number()?.unwrap_or(0),
        runtime: scheduler.member("runtime")?.number()?.unwrap_or(0),
        deadline: scheduler.member("deadline")?.number()?.unwrap_or(0),
        period: scheduler.member("period")?.number()?.unwrap_or(0),
        ..Scheduling::default()
    };
    let flags = scheduler.member("flags")?;
    for flag in flags.list()? {
        let text = flag.text()?;
        let known = SCHEDULER_FLAGS.iter().find(|(name, _)| *name == text);
        match known {
            Some((_, bit)) => all.flags |= bit,
            None => return Err(flag.refuse(format_args!("{text:?} is no flag"))),
        }
    }
    Ok(Some(all))
}
