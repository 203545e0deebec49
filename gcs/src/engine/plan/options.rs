//! Option strings of mounts (runtime-spec, "Linux mount options"): one table says what each does.
//! What the table does not know is the file system's.

use nix::mount::MsFlags;

use crate::sys::mountfd::Change;

/// `MOUNT_ATTR_*` of mount_setattr(2), which libc does not have for every target.
const RDONLY: u64 = 0x01;
const NOSUID: u64 = 0x02;
const NODEV: u64 = 0x04;
const NOEXEC: u64 = 0x08;
/// The field of the three ways to count accesses: 0 is relatime.
const ATIME: u64 = 0x70;
const NOATIME: u64 = 0x10;
const STRICTATIME: u64 = 0x20;
const NODIRATIME: u64 = 0x80;
const NOSYMFOLLOW: u64 = 0x20_0000;

/// What only makes a mount read-only.
pub const READ_ONLY: Change = Change::new(RDONLY, 0, 0);

/// What one option does.
#[derive(Clone, Copy)]
enum Effect {
    Nothing,
    /// Of the file system as a whole: for `mount(2)`.
    Super(MsFlags),
    NotSuper(MsFlags),
    /// Of this mount alone: the flag of `mount(2)`, what is set and what is cleared.
    Mount(MsFlags, u64, u64),
    /// The opposite of such a flag.
    NotMount(MsFlags, u64, u64),
    /// Of this mount and all below it.
    Below(u64, u64),
    Propagation(MsFlags),
    Bind(bool),
    Remount,
    CopyUp,
    Refused(&'static str),
}

use Effect::{
    Below, Bind, CopyUp, Mount, NotMount, NotSuper, Nothing, Propagation, Refused, Remount, Super,
};

const REC: MsFlags = MsFlags::MS_REC;
const NO_USERS: &str = "it needs a user namespace, which this engine does not make";

const TABLE: &[(&str, Effect)] = &[
    ("defaults", Nothing),
    ("bind", Bind(false)),
    ("rbind", Bind(true)),
    ("remount", Remount),
    // The file system as a whole; read-only is both.
    ("sync", Super(MsFlags::MS_SYNCHRONOUS)),
    ("async", NotSuper(MsFlags::MS_SYNCHRONOUS)),
    ("dirsync", Super(MsFlags::MS_DIRSYNC)),
    ("mand", Super(MsFlags::MS_MANDLOCK)),
    ("nomand", NotSuper(MsFlags::MS_MANDLOCK)),
    ("iversion", Super(MsFlags::MS_I_VERSION)),
    ("noiversion", NotSuper(MsFlags::MS_I_VERSION)),
    ("lazytime", Super(MsFlags::MS_LAZYTIME)),
    ("nolazytime", NotSuper(MsFlags::MS_LAZYTIME)),
    ("silent", Super(MsFlags::MS_SILENT)),
    ("loud", NotSuper(MsFlags::MS_SILENT)),
    // This mount.
    ("ro", Mount(MsFlags::MS_RDONLY, RDONLY, 0)),
    ("rw", NotMount(MsFlags::MS_RDONLY, 0, RDONLY)),
    ("nosuid", Mount(MsFlags::MS_NOSUID, NOSUID, 0)),
    ("suid", NotMount(MsFlags::MS_NOSUID, 0, NOSUID)),
    ("nodev", Mount(MsFlags::MS_NODEV, NODEV, 0)),
    ("dev", NotMount(MsFlags::MS_NODEV, 0, NODEV)),
    ("noexec", Mount(MsFlags::MS_NOEXEC, NOEXEC, 0)),
    ("exec", NotMount(MsFlags::MS_NOEXEC, 0, NOEXEC)),
    ("nosymfollow", Mount(NO_LINKS, NOSYMFOLLOW, 0)),
    ("symfollow", NotMount(NO_LINKS, 0, NOSYMFOLLOW)),
    ("noatime", Mount(MsFlags::MS_NOATIME, NOATIME, ATIME)),
    ("atime", NotMount(MsFlags::MS_NOATIME, 0, ATIME)),
    ("relatime", Mount(MsFlags::MS_RELATIME, 0, ATIME)),
    ("norelatime", NotMount(MsFlags::MS_RELATIME, 0, 0)),
    (
        "strictatime",
        Mount(MsFlags::MS_STRICTATIME, STRICTATIME, ATIME),
    ),
    ("nostrictatime", NotMount(MsFlags::MS_STRICTATIME, 0, ATIME)),
    ("nodiratime", Mount(MsFlags::MS_NODIRATIME, NODIRATIME, 0)),
    ("diratime", NotMount(MsFlags::MS_NODIRATIME, 0, NODIRATIME)),
    // This mount and those below it.
    ("rro", Below(RDONLY, 0)),
    ("rrw", Below(0, RDONLY)),
    ("rnosuid", Below(NOSUID, 0)),
    ("rsuid", Below(0, NOSUID)),
    ("rnodev", Below(NODEV, 0)),
    ("rdev", Below(0, NODEV)),
    ("rnoexec", Below(NOEXEC, 0)),
    ("rexec", Below(0, NOEXEC)),
    ("rnosymfollow", Below(NOSYMFOLLOW, 0)),
    ("rsymfollow", Below(0, NOSYMFOLLOW)),
    ("rnoatime", Below(NOATIME, ATIME)),
    ("ratime", Below(0, ATIME)),
    ("rrelatime", Below(0, ATIME)),
    ("rnorelatime", Nothing),
    ("rstrictatime", Below(STRICTATIME, ATIME)),
    ("rnostrictatime", Below(0, ATIME)),
    ("rnodiratime", Below(NODIRATIME, 0)),
    ("rdiratime", Below(0, NODIRATIME)),
    // Propagation.
    ("private", Propagation(MsFlags::MS_PRIVATE)),
    ("rprivate", Propagation(MsFlags::MS_PRIVATE.union(REC))),
    ("shared", Propagation(MsFlags::MS_SHARED)),
    ("rshared", Propagation(MsFlags::MS_SHARED.union(REC))),
    ("slave", Propagation(MsFlags::MS_SLAVE)),
    ("rslave", Propagation(MsFlags::MS_SLAVE.union(REC))),
    ("unbindable", Propagation(MsFlags::MS_UNBINDABLE)),
    (
        "runbindable",
        Propagation(MsFlags::MS_UNBINDABLE.union(REC)),
    ),
    ("tmpcopyup", CopyUp),
    // What nobody would carry out.
    ("idmap", Refused(NO_USERS)),
    ("ridmap", Refused(NO_USERS)),
];

/// `MS_NOSYMFOLLOW` (Linux 5.10).
const NO_LINKS: MsFlags = MsFlags::from_bits_retain(256);

/// All options of one mount.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// A bind mount; whether with what is mounted below its source.
    pub bind: Option<bool>,
    pub remount: bool,
    /// Of a tmpfs: what it covers is copied into it.
    pub copy_up: bool,
    /// For `mount(2)` of a new file system.
    pub flags: u64,
    /// The same for a mount that there is already, as far as it is about one mount.
    pub own: Change,
    /// For the mount and all below it.
    pub below: Change,
    /// In the order given: `slave` then `shared` is both.
    pub propagation: Vec<Change>,
    /// Whether each of [`Self::propagation`] is for all below, too.
    pub propagates_below: Vec<bool>,
    /// What is for the file system, one option each.
    pub data: Vec<String>,
}

impl Options {
    /// # Errors
    /// The reason, without the place, of an option that would not be carried out.
    pub fn add(&mut self, option: &str) -> Result<(), String> {
        // Several in one string are several; an empty one is none.
        for part in option.split(',').filter(|part| !part.is_empty()) {
            match effect(part) {
                Some(effect) => self.apply(part, effect)?,
                None => self.data.push(part.to_owned()),
            }
        }
        Ok(())
    }

    fn apply(&mut self, option: &str, effect: Effect) -> Result<(), String> {
        let change = |change: &mut Change, set: u64, clear: u64| {
            change.set = (change.set & !clear) | set;
            change.clear = (change.clear & !set) | clear;
            // The kernel wants the whole field cleared with each of its values.
            if (change.set | change.clear) & ATIME != 0 {
                change.clear |= ATIME;
            }
        };
        match effect {
            Nothing => {}
            Bind(recursive) => self.bind = Some(recursive),
            Remount => self.remount = true,
            CopyUp => self.copy_up = true,
            Super(flag) => self.flags |= flag.bits(),
            NotSuper(flag) => self.flags &= !flag.bits(),
            Mount(flag, set, clear) => {
                if clear == ATIME {
                    let times =
                        MsFlags::MS_NOATIME | MsFlags::MS_RELATIME | MsFlags::MS_STRICTATIME;
                    self.flags &= !times.bits();
                }
                self.flags |= flag.bits();
                change(&mut self.own, set, clear);
            }
            NotMount(flag, set, clear) => {
                self.flags &= !flag.bits();
                change(&mut self.own, set, clear);
            }
            Below(set, clear) => change(&mut self.below, set, clear),
            Propagation(flags) => {
                let kind = (flags - REC).bits();
                self.propagation.push(Change::new(0, 0, kind));
                self.propagates_below.push(flags.contains(REC));
            }
            Refused(why) => return Err(format!("{option:?}: {why}")),
        }
        Ok(())
    }
}

fn effect(option: &str) -> Option<Effect> {
    let known = TABLE.iter().find(|(name, _)| *name == option);
    known.map(|(_, effect)| *effect)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(options: &[&str]) -> Options {
        let mut all = Options::default();
        for option in options {
            all.add(option).unwrap();
        }
        all
    }

    #[test]
    fn every_option_of_the_specification_is_known() {
        for option in "async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand \
            noatime nodev nodiratime noexec noiversion nolazytime nomand norelatime nostrictatime \
            nosuid nosymfollow private ratime rbind rdev rdiratime relatime remount rexec rnoatime \
            rnodiratime rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow ro rprivate rrelatime \
            rro rrw rshared rslave rstrictatime rsuid rsymfollow runbindable rw shared silent slave \
            strictatime suid symfollow sync tmpcopyup unbindable".split_whitespace()
        {
            assert_eq!(of(&[option]).data, Vec::<String>::new(), "{option}");
        }
        for option in ["idmap", "ridmap"] {
            assert!(Options::default().add(option).unwrap_err().contains(option));
        }
    }

    #[test]
    fn the_last_of_contradicting_options_wins() {
        for (options, flags, set, clear) in [
            (&["ro", "rw"][..], 0, 0, 1),
            (&["rw", "ro"], 1, 1, 0),
            (&["noatime", "strictatime"], 1 << 24, STRICTATIME, ATIME),
            (&["strictatime", "relatime"], 1 << 21, 0, ATIME),
            (&["noatime", "atime"], 0, 0, ATIME),
            (&["nosymfollow"], 256, NOSYMFOLLOW, 0),
            (&["nosuid,nodev"], 6, 6, 0),
        ] {
            let got = of(options);
            let want = (flags, Change::new(set, clear, 0));
            assert_eq!((got.flags, got.own), want, "{options:?}");
        }
        let got = of(&["rro", "rnoatime", "rrw"]);
        assert_eq!(got.below, Change::new(NOATIME, ATIME | RDONLY, 0));
    }

    #[test]
    fn what_is_not_known_is_the_file_systems() {
        let got = of(&["mode=0700,uid=33", "size=1m", "ro"]);
        assert_eq!(got.data, ["mode=0700", "uid=33", "size=1m"]);
    }
}
