//! `linux.namespaces`.

use std::ffi::CString;

use nix::sched::CloneFlags;

use super::settings;
use crate::engine::json::At;

/// `CLONE_NEWTIME`, which nix does not have.
pub const TIME: CloneFlags = CloneFlags::from_bits_retain(0x80);

const KINDS: [(&str, CloneFlags); 8] = [
    ("pid", CloneFlags::CLONE_NEWPID),
    ("network", CloneFlags::CLONE_NEWNET),
    ("mount", CloneFlags::CLONE_NEWNS),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("user", CloneFlags::CLONE_NEWUSER),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("time", TIME),
];

#[derive(Debug)]
pub struct Namespaces {
    pub new: CloneFlags,
    pub joined: Vec<Joined>,
    /// Lines of `/proc/self/timens_offsets`, for a new time namespace.
    pub clocks: Vec<String>,
}

/// One that is there already.
#[derive(Debug)]
pub struct Joined {
    pub kind: CloneFlags,
    pub path: CString,
    /// The member, for errors.
    pub member: String,
}

impl Namespaces {
    pub fn of(linux: &At<'_>) -> Result<Self, String> {
        let list = linux.member("namespaces")?;
        let mut all = Self {
            new: CloneFlags::empty(),
            joined: Vec::new(),
            clocks: Vec::new(),
        };
        let mut seen = CloneFlags::empty();
        for entry in list.list()? {
            let name = entry.member("type")?;
            let kind = KINDS.iter().find(|(known, _)| name.text() == Ok(known));
            let Some((_, kind)) = kind else {
                return Err(name.refuse(format_args!("{:?} is no kind of namespace", name.text()?)));
            };
            if seen.contains(*kind) {
                return Err(name.refuse(format_args!("{:?} is there twice", name.text()?)));
            }
            seen |= *kind;
            let path = entry.member("path")?;
            match (path.text()?, *kind) {
                (_, CloneFlags::CLONE_NEWUSER) => return Err(name.refuse(
                    "user namespaces are not made here: the VM is what keeps a container's root from the host",
                )),
                ("", kind) => all.new |= kind,
                (_, CloneFlags::CLONE_NEWNS) => return Err(path.refuse(
                    "a container has a mount namespace of its own, since it has a root of its own",
                )),
                (text, _) if !text.starts_with('/') => {
                    return Err(path.refuse(format_args!("{text:?} is no absolute path")))
                }
                (_, kind) => all.joined.push(Joined {
                    kind,
                    path: settings::c_string(&path)?,
                    member: path.to_string(),
                }),
            }
        }
        if !all.new.contains(CloneFlags::CLONE_NEWNS) {
            return Err(list.refuse("a mount namespace is missing, without which there is no root"));
        }
        all.clocks(&linux.member("timeOffsets")?)?;
        Ok(all)
    }

    fn clocks(&mut self, offsets: &At<'_>) -> Result<(), String> {
        for (clock, offset) in offsets.members()? {
            if !matches!(clock, "monotonic" | "boottime") {
                return Err(offset.refuse("this clock cannot be set off"));
            }
            if !self.new.contains(TIME) {
                return Err(offset.refuse("it needs a new time namespace"));
            }
            let seconds: i64 = offset.member("secs")?.number()?.unwrap_or(0);
            let nanoseconds: u32 = offset.member("nanosecs")?.number()?.unwrap_or(0);
            self.clocks
                .push(format!("{clock} {seconds} {nanoseconds}\n"));
        }
        Ok(())
    }

    /// Whether the container has one of its own, or shares one that is not the VM's.
    pub fn has(&self, kind: CloneFlags) -> bool {
        self.new.contains(kind) || self.joined.iter().any(|joined| joined.kind == kind)
    }

    /// All that a further process of the container has to join.
    pub fn all(&self) -> CloneFlags {
        self.joined
            .iter()
            .fold(self.new, |all, joined| all | joined.kind)
    }
}
