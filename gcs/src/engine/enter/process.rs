//! What a process is before its program runs: limits, identity, working directory, and which file
//! the program is.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::resource::setrlimit;
use nix::sys::stat::{fstat, stat, umask, Mode, SFlag};
use nix::unistd::{access, fchdir, setgroups, setresgid, setresuid, AccessFlags, Gid, Uid};

use super::walk::Root;
use crate::engine::fault::{failed, Step};
use crate::engine::plan::{Capabilities, Process, CAPABILITIES, SYS_ADMIN};
use crate::error::Failure;
use crate::sys::identity;

/// Limits and scheduling, while this process may still do all.
pub fn limit(process: &Process, personality: Option<u32>) -> Result<(), Failure> {
    for limit in &process.limits {
        setrlimit(limit.resource, limit.soft, limit.hard).step(|| {
            format!(
                "process.rlimits: {:?} {} {}",
                limit.resource, limit.soft, limit.hard
            )
        })?;
    }
    if let Some((class, priority)) = process.io_priority {
        identity::io_priority(class, priority).step(|| "process.ioPriority")?;
    }
    if let Some(scheduling) = &process.scheduling {
        identity::schedule(scheduling).step(|| format!("process.scheduler: {scheduling:?}"))?;
    }
    if let Some(persona) = personality {
        identity::personality(persona).step(|| "linux.personality")?;
    }
    Ok(())
}

/// Becomes the user, with the capabilities given. With `filtered` it keeps what the loading of a
/// seccomp filter needs until its `execve`, by which it has again what the bounding, inheritable
/// and ambient sets give (capabilities(7)).
pub fn become_user(
    process: &Process,
    capabilities: &Capabilities,
    filtered: bool,
) -> Result<(), Failure> {
    for number in (0..CAPABILITIES).filter(|number| capabilities.bounding >> number & 1 == 0) {
        match identity::drop_bounding(number) {
            // The kernel knows none from here on.
            Err(Errno::EINVAL) => break,
            done => done.step(|| format!("drop capability {number} from the bounding set"))?,
        }
    }
    let user = &process.user;
    if user.uid != 0 {
        identity::keep_capabilities(true).step(|| "keep the capabilities")?;
    }
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups).step(|| format!("process.user.additionalGids: {:?}", user.groups))?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    setresgid(gid, gid, gid).step(|| format!("process.user.gid: become {gid}"))?;
    setresuid(uid, uid, uid).step(|| format!("process.user.uid: become {uid}"))?;
    let filter = if filtered && !process.no_new_privileges {
        SYS_ADMIN
    } else {
        0
    };
    capable(capabilities, filter)?;
    if process.no_new_privileges {
        identity::no_new_privileges().step(|| "process.noNewPrivileges")?;
    }
    umask(Mode::from_bits_truncate(user.umask));
    Ok(())
}

fn capable(wanted: &Capabilities, filter: u64) -> Result<(), Failure> {
    let set = |possible: u64| {
        let permitted = (wanted.permitted | filter) & possible;
        let effective = (wanted.effective | filter) & possible;
        identity::set_capabilities(effective, permitted, wanted.inheritable & possible)
    };
    match set(u64::MAX) {
        // As runc: those that the machine itself does not have are left out.
        Err(Errno::EPERM) => identity::permitted().and_then(set),
        done => done,
    }
    .step(|| "process.capabilities: set the effective, permitted and inheritable ones")?;
    for number in (0..CAPABILITIES).filter(|number| wanted.ambient >> number & 1 == 1) {
        identity::raise_ambient(number)
            .step(|| format!("process.capabilities.ambient: raise capability {number}"))?;
    }
    Ok(())
}

/// Goes to the working directory, which no magic link may lead out of the root.
pub fn go(root: &Root, cwd: &str) -> Result<(), Failure> {
    root.open(cwd, OFlag::O_PATH | OFlag::O_DIRECTORY)
        .and_then(fchdir)
        .step(|| format!("process.cwd: go to {cwd:?}"))
}

/// More than any real file of users has.
const MOST_OF_PASSWD: u64 = 4 << 20;

/// The home directory of a user, by the container's own `/etc/passwd`; `/` for those that are
/// not in it.
pub fn home(root: &Root, uid: u32) -> String {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let line = root.open("/etc/passwd", flags).ok().and_then(|fd| {
        let mode = fstat(&fd).ok()?.st_mode;
        if mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
            return None;
        }
        let lines =
            BufReader::with_capacity(1024, File::from(fd).take(MOST_OF_PASSWD)).split(b'\n');
        lines.map_while(Result::ok).find_map(|line| {
            let line = String::from_utf8(line).ok()?;
            let mut fields = line.split(':');
            let number = fields.nth(2)?.parse::<u32>().ok()?;
            let home = fields.nth(2).filter(|home| !home.is_empty())?;
            (number == uid).then(|| home.to_owned())
        })
    });
    line.unwrap_or_else(|| "/".to_owned())
}

/// The file to execute: by its path, else through the process's own `PATH`. Looked for as the
/// user, in the working directory.
pub fn program(process: &Process) -> Result<CString, Failure> {
    let name = &process.args[0];
    let refuse = |text: String| Failure::unspecified(format!("process.args: {text}"));
    let unusable = |program: &CString, errno| {
        failed(format_args!("process.args: program {program:?}"), errno).of_execve(errno)
    };
    if name.as_bytes().contains(&b'/') {
        usable(name).map_err(|errno| unusable(name, errno))?;
        return Ok(name.clone());
    }
    let Some(search) = &process.path else {
        let text = format!("program {name:?} not found: the environment has no PATH");
        return Err(refuse(text).of_execve(Errno::ENOENT));
    };
    let mut reason = None;
    for directory in search.split(':') {
        // An empty part is the working directory (environ(7)).
        let directory = if directory.is_empty() { "." } else { directory };
        let mut path = directory.as_bytes().to_vec();
        path.push(b'/');
        path.extend_from_slice(name.as_bytes());
        let path = CString::new(path).map_err(|_| refuse("PATH holds a NUL".into()))?;
        match usable(&path) {
            Ok(()) => return Ok(path),
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(errno) => reason = reason.or(Some((path, errno))),
        }
    }
    Err(match reason {
        Some((path, errno)) => unusable(&path, errno),
        None => refuse(format!("program {name:?} not found in PATH {search:?}"))
            .of_execve(Errno::ENOENT),
    })
}

fn usable(path: &CStr) -> nix::Result<()> {
    access(path, AccessFlags::X_OK)?;
    let mode = stat(path)?.st_mode & SFlag::S_IFMT.bits();
    match mode == SFlag::S_IFDIR.bits() {
        true => Err(Errno::EISDIR),
        false => Ok(()),
    }
}
