//! The programs that this binary is besides PID 1. A shell in the guest or the service starts them.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;

use gcs::config::{usage, Flags};
use gcs::log::{fatal, Format, Level};
use linux_embedded_hal::Delay;

use crate::args::Streams;
use crate::poweroff::End;
use crate::{args, child, guest, poweroff, relay, service, sys, tools, vsock};

/// Which program the process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applet {
    Init,
    Wrapper,
    Service,
    /// `mkfs.ext4`, for hosts that have their scratch disks made here.
    Mkfs,
    /// `test` and `ls`, with which a host looks for its disks.
    Test,
    Ls,
    /// `generichook`, which has a GPU set up for a container.
    Hook,
}

/// Finds the applet that the arguments ask for, and how many of them name it.
pub fn choose(args: &[OsString], pid: u32) -> (Applet, usize) {
    let name = |index: usize| {
        let path = std::path::Path::new(args.get(index)?);
        path.file_name()?.to_str()
    };
    match (name(0), name(1)) {
        _ if pid == 1 => (Applet::Init, 1),
        (Some("vsockexec"), _) => (Applet::Wrapper, 1),
        (Some("gcs"), _) => (Applet::Service, 1),
        (Some("mkfs.ext4"), _) => (Applet::Mkfs, 1),
        (Some("test"), _) => (Applet::Test, 1),
        (Some("ls"), _) => (Applet::Ls, 1),
        (Some("generichook"), _) => (Applet::Hook, 1),
        (_, Some("vsockexec")) => (Applet::Wrapper, 2),
        (_, Some("gcs")) => (Applet::Service, 2),
        _ => (Applet::Init, 1),
    }
}

fn complain(program: &str, text: impl std::fmt::Display) {
    // Nobody can be told when stderr is gone.
    io::Write::write_all(&mut io::stderr(), format!("{program}: {text}\n").as_bytes()).ok();
}

const NO_GUEST: &str = "this is not a utility VM of ours, and vsock leads to another machine's \
                        host here; set UVM_ALLOW_VSOCK=1 if it is meant, or use -dial-unix";

/// The stdio wrapper (protocol 10.2, 16.1). Without `-r` it returns only when the program cannot be
/// started, else with the program's status.
pub fn wrapper(args: &[OsString]) -> i32 {
    wrap(args).unwrap_or_else(|text| {
        complain("vsockexec", text);
        1
    })
}

fn wrap(args: &[OsString]) -> Result<i32, String> {
    let wrapped = args::wrapped(args).map_err(|error| error.to_string())?;
    let guest = guest::find();
    for option in &wrapped.unknown {
        let text = format!("the stdio wrapper has no option {option:?}; it is passed over");
        match guest {
            Some(_) => warn_by_kernel(&text),
            None => complain("vsockexec", text),
        }
    }
    let argv = child::c_args(&wrapped.args).map_err(|error| error.to_string())?;
    let program = wrapped.args[0].display();
    let dial = |guest, port| vsock::dial(guest, &mut Delay, port).and_then(blocking);
    match wrapped.streams {
        Streams::Once {
            stdin: None,
            stdout: None,
            stderr: None,
        } => {}
        Streams::Once {
            stdin,
            stdout,
            stderr,
        } => {
            let guest = guest.ok_or(NO_GUEST)?;
            let streams = vsock::streams([stdin, stdout, stderr], |port| dial(guest, port))
                .map_err(|(port, error)| format!("connecting port {port}: {error}"))?;
            take(streams)
                .map_err(|errno| format!("moving a connection to a standard stream: {errno}"))?;
        }
        Streams::Relayed { port, outputs } => {
            let guest = guest.ok_or(NO_GUEST)?;
            return relay::run(&argv, outputs, || dial(guest, port))
                .map_err(|error| format!("relaying the output of {program}: {error}"));
        }
    }
    Err(format!("starting {program}: {}", child::execute(&argv)))
}

/// Leaves a warning in the kernel's log, from where the service takes it to the host. The log of this
/// process will not do: the program that is wrapped has the same process id, and the service leaves
/// out what it wrote itself.
fn warn_by_kernel(text: &str) {
    /// Facility user, priority warning (syslog(3)).
    const PREFIX: u8 = 1 << 3 | 4;
    // A machine without a kernel log has nobody who could be told.
    std::fs::write("/dev/kmsg", format!("<{PREFIX}>vsockexec: {text}\n")).ok();
}

/// Makes the connections this process's standard streams.
fn take([stdin, stdout, stderr]: [Option<OwnedFd>; 3]) -> nix::Result<()> {
    stdin.map_or(Ok(()), nix::unistd::dup2_stdin)?;
    stdout.map_or(Ok(()), nix::unistd::dup2_stdout)?;
    stderr.map_or(Ok(()), nix::unistd::dup2_stderr)
}

/// Programs expect standard streams that block.
fn blocking(fd: OwnedFd) -> io::Result<OwnedFd> {
    use nix::fcntl::{fcntl, FcntlArg, OFlag};
    fcntl(&fd, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(fd)
}

/// The command `mkfs.ext4`.
pub fn mkfs(args: &[OsString]) -> i32 {
    match gcs::storage::mkfs::command(args) {
        Ok(()) => 0,
        Err(text) => {
            complain("mkfs.ext4", text);
            1
        }
    }
}

/// The command `test`.
pub fn test(args: &[OsString]) -> i32 {
    tools::test(args).unwrap_or_else(|text| {
        complain("test", text);
        tools::TROUBLE
    })
}

/// The command `ls`.
pub fn ls(args: &[OsString]) -> i32 {
    match tools::ls(args, &mut io::stdout(), |text| complain("ls", text)) {
        Ok(true) => 0,
        Ok(false) => tools::TROUBLE,
        Err(text) => {
            complain("ls", text);
            tools::TROUBLE
        }
    }
}

/// The command `generichook`. Its streams are those of the container, so failures go to the log.
pub fn hook(args: &[OsString]) -> i32 {
    let args = args
        .iter()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect::<Vec<_>>();
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    match crate::hook::run(&args, environment, io::stdin()) {
        Ok(()) => 0,
        Err(why) => {
            log::error!("hook of a container: {why}");
            1
        }
    }
}

/// Refuses PID 1's work in a process that is not PID 1 of a utility VM.
pub fn refuse_init() {
    complain(
        "init",
        "this is PID 1 of a utility VM and does nothing elsewhere",
    );
}

/// Says why there will be no service, to a person, or to a host in the form of a record (P-301).
fn refuse_to_serve(why: &str) {
    use nix::sys::stat::{fstat, SFlag};
    let is_socket = |stat: nix::sys::stat::FileStat| {
        SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK
    };
    if !fstat(io::stderr()).is_ok_and(is_socket) {
        return complain("gcs", why);
    }
    gcs::log::configure(Level::Debug, Format::Json);
    if service::take_stderr().and_then(gcs::log::attach).is_ok() {
        fatal(format_args!("{why}"));
        poweroff::flush_log();
    }
}

/// The service as a program of its own.
pub fn serve(args: &[OsString]) -> i32 {
    let flags = match Flags::parse(args) {
        Ok(flags) => flags,
        Err(error) => {
            refuse_to_serve(&format!("{error}\n{}", usage()));
            return 2;
        }
    };
    let guest = guest::find();
    if guest.is_none() && flags.dial_unix.is_none() {
        refuse_to_serve(NO_GUEST);
        return 1;
    }
    if guest.is_some() {
        // The kernel log shows errors even when the host does not read the log.
        gcs::log::open_kmsg().ok();
    }
    if let Err(error) = sys::quiet_signals().and_then(|()| service::open_log(&flags)) {
        refuse_to_serve(&format!("opening the log: {error}"));
        return 1;
    }
    // PID 1, which is another process then, has set the machine up.
    match service::serve(guest, &flags, || ()) {
        End::Status(status) => {
            poweroff::flush_log();
            status
        }
        end if guest.is_some() => poweroff::end(end),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_applets() {
        for (line, pid, want) in [
            ("/init -e 1 /bin/gcs", 1, (Applet::Init, 1)),
            ("/bin/gcs", 1, (Applet::Init, 1)),
            ("/bin/vsockexec -e 109 x", 7, (Applet::Wrapper, 1)),
            ("gcs -v4", 7, (Applet::Service, 1)),
            ("/x/init gcs -v4", 7, (Applet::Service, 2)),
            ("/x/init vsockexec", 7, (Applet::Wrapper, 2)),
            ("/sbin/mkfs.ext4 -q /dev/sda", 7, (Applet::Mkfs, 1)),
            ("test -d /sys", 7, (Applet::Test, 1)),
            ("/bin/ls /sys", 7, (Applet::Ls, 1)),
            ("/x/init", 7, (Applet::Init, 1)),
            ("", 7, (Applet::Init, 1)),
        ] {
            let args = gcs::config::split_args(std::ffi::OsStr::new(line));
            assert_eq!(choose(&args, pid), want, "{line}");
        }
    }
}
