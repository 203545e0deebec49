//! From a started process to a serving one (protocol 10.5): log, cgroups, directories, and then the
//! service of the `gcs` crate. It is the same for PID 1 and for `/bin/gcs` under a shell.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use gcs::config::Flags;
use gcs::machine::clock::Clock;
use gcs::machine::containers_limit::{self, ContainersLimit};
use gcs::machine::kmsg;
use gcs::machine::memory;
use gcs::service::{End as Ended, Settings, Setup, Watches};
use gcs::stage::{self, Stage};
use gcs::sys::fds::null;
use gcs::transport::Dialer;
use nix::sys::resource::{setrlimit, Resource};

use crate::cgroup;
use crate::guest::Guest;
use crate::poweroff::End;

/// The limits of open files: the soft one that programs expect, and the hard one up to which they
/// may raise it.
pub const NOFILE: (u64, u64) = (1024, 1 << 20);
/// The reference's directories, for tools that look there; mode 0700.
const DIRS: &[&str] = &["/var/run/gcsrunc", "/run/gcs/c"];

/// What goes to the log, in which form.
pub fn configure_log(flags: &Flags) {
    gcs::log::configure(flags.log_level, flags.log_format);
    gcs::log::scrub(flags.scrub_logs);
}

/// Sends the log where the flags say: to a file, or to the process's stderr. A port of the host is
/// dialled by the service.
///
/// # Errors
/// The file cannot be made, or there is no stderr.
pub fn open_log(flags: &Flags) -> io::Result<()> {
    configure_log(flags);
    let fd: OwnedFd = match &flags.log_file {
        Some(path) => {
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir)?;
            }
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            options.open(path)?.into()
        }
        None if flags.log_port.is_some() => return take_stderr().map(drop),
        None => take_stderr()?,
    };
    gcs::log::attach(fd)
}

/// Moves stderr to another descriptor and puts `/dev/null` in its place, so that no child and no
/// library can write between the log's lines (P-301, P-302).
pub fn take_stderr() -> io::Result<OwnedFd> {
    let own = io::stderr().as_fd().try_clone_to_owned()?;
    let null = null()?;
    nix::unistd::dup2_stderr(&null)?;
    Ok(own)
}

/// Prepares what only a utility VM gets and what it watches there. When a part fails, it is logged and the
/// machine goes on; what needs the part fails later.
fn prepare(flags: &Flags) -> Watches {
    // The service raises its own soft limit only. Each child starts with the one that programs
    // expect (P-296).
    if let Err(errno) = setrlimit(Resource::RLIMIT_NOFILE, NOFILE.1, NOFILE.1) {
        log::warn!("few streams at once: the limit of open files stays: {errno}");
    }
    if let Some(pattern) = &flags.core_dump_location {
        if let Err(error) = place_cores(pattern) {
            log::warn!("core dumps stay where the kernel puts them: {error}");
        }
    }
    for dir in DIRS {
        if let Err(error) = DirBuilder::new().recursive(true).mode(0o700).create(dir) {
            log::warn!("making {dir}: {error}");
        }
    }
    cgroup::prepare(flags);
    let kmsg = kmsg::Reader::open(flags.kmsg_log_level)
        .inspect_err(|error| log::warn!("the kernel's messages are not read: {error}"));
    let clock = (!flags.disable_time_sync).then(|| Clock::new(flags.time_port));
    let memory = memory::Watch::new(flags.gcs_mem_limit_bytes);
    let ram = containers_limit::ram().ok();
    let limit = ContainersLimit::new(memory.limit_file(), ram, flags.root_mem_reserve_bytes);
    Watches {
        kmsg: kmsg.ok(),
        memory: Some(memory),
        limit: Some(limit),
        clock,
    }
}

/// Makes the kernel put core dumps where `pattern` says (core(5)). The kernel looks the path up
/// from the root of the dumping process, so for a container it lies inside the container. The
/// directory is made here only for processes of the machine itself; a container's image has to
/// bring its own.
fn place_cores(pattern: &OsStr) -> io::Result<()> {
    /// The kernel silently cuts a longer pattern (`CORENAME_MAX_SIZE`).
    const LONGEST: usize = 127;
    let bytes = pattern.as_bytes();
    if bytes.len() > LONGEST {
        return Err(io::Error::other(format!(
            "-core-dump-location has {} bytes, the kernel takes {LONGEST}",
            bytes.len()
        )));
    }
    // The pattern is no pipe and has no placeholder in its directory.
    let directory = Path::new(pattern).parent().filter(|directory| {
        directory.is_absolute() && !directory.as_os_str().as_bytes().contains(&b'%')
    });
    if let Some(directory) = directory {
        let mut builder = DirBuilder::new();
        if let Err(error) = builder.recursive(true).mode(0o755).create(directory) {
            log::warn!(
                "no directory {} for core dumps: {error}",
                directory.display()
            );
        }
    }
    fs::write("/proc/sys/kernel/core_pattern", bytes)
}

/// Serves until the bridge ends or the host asks for the machine's end. In a utility VM `machine`
/// is called after the negotiation and before any other request.
pub fn serve(guest: Option<Guest>, flags: &Flags, machine: fn()) -> End {
    log::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(); "service starts");
    for flag in &flags.unknown {
        log::warn!("the service has no flag {flag:?}; it is passed over");
    }
    let setup = match set_up(guest, flags, machine) {
        Ok(setup) => setup,
        Err(error) => {
            gcs::log::fatal(format_args!("setting the service up: {error}"));
            return End::Status(1);
        }
    };
    match gcs::service::run(setup) {
        Ok(Ended::PowerOff) => End::PowerOff,
        Ok(end) => {
            gcs::log::fatal(format_args!("the service ends: {end:?}"));
            End::Status(1)
        }
        Err(error) => {
            gcs::log::fatal(format_args!("the service cannot go on: {error}"));
            End::Status(1)
        }
    }
}

fn set_up(guest: Option<Guest>, flags: &Flags, machine: fn()) -> io::Result<Setup> {
    let dialer = match (&flags.dial_unix, guest) {
        (Some(prefix), _) => Dialer::Unix {
            prefix: prefix.clone(),
        },
        (None, Some(_)) => Dialer::Vsock,
        // Stdio of containers is dialled even when the bridge itself is not.
        (None, None) => {
            return Err(io::Error::other(
                "neither a utility VM nor Unix sockets to dial (-dial-unix)",
            ))
        }
    };
    let bridge = if flags.use_inouterr {
        let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned();
        let bridge = (own(io::stdin().as_fd())?, own(io::stdout().as_fd())?);
        // No child may read from the bridge or write to it.
        let null = null()?;
        nix::unistd::dup2_stdin(&null)?;
        nix::unistd::dup2_stdout(&null)?;
        Some(bridge)
    } else {
        None
    };
    let copy = flags.clone();
    let prepare = move || match guest {
        Some(_) => {
            machine();
            let prepared = stage::run(Stage::Groups, || Ok::<_, String>(prepare(&copy)));
            prepared.unwrap_or_default()
        }
        None => Watches::default(),
    };
    Ok(Setup {
        dialer,
        bridge,
        prepare: Box::new(prepare),
        settings: Settings {
            stance: flags.initial_policy_stance,
            v4_only: flags.v4,
            log_port: flags.log_port.filter(|_| flags.log_file.is_none()),
            dumps_core: flags.core_dump_location.is_some(),
        },
    })
}
