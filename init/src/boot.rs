//! PID 1 (protocol 10.1): from a bare kernel to a machine that serves the host or runs a program.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;

use gcs::config::{FlagError, Flags};
use gcs::log::{fatal, Format, Level};
use gcs::stage::{self, Stage};
use linux_embedded_hal::Delay;
use nix::errno::Errno;
use nix::sys::resource::{setrlimit, Resource};
use nix::sys::socket::AddressFamily;

use crate::args::{self, Boot, Command, Streams, Surroundings, Wrapped};
use crate::guest::{self, Guest};
use crate::poweroff::End;
use crate::vsock::Dialling;
use crate::{bringup, cgroup, child, entropy, modules, mounts, service, sys, sysctl, vsock};

/// Status of a usage error of PID 1 itself, and of the service.
const BAD_LINE: End = End::Status(1);
const BAD_FLAGS: End = End::Status(2);

/// Sets the machine up and runs what the arguments ask for, to its end.
pub fn run(args: &[OsString]) -> End {
    // Each step logs its own failure, here and below.
    stage::run(Stage::Devices, || mounts::walk(mounts::FIRST)).ok();
    if let Err(error) = sys::open_standard_streams() {
        log::error!("opening descriptors 0 to 2: {error}");
    }
    if let Err(error) = stage::run(Stage::KernelLog, gcs::log::open_kmsg) {
        log::warn!("no kernel log to write to: {error}");
    }
    // This is asked again now that `/proc` is certainly there.
    let Some(guest) = guest::find() else {
        fatal(format_args!(
            "this is PID 1 of a container, not of a utility VM"
        ));
        return BAD_LINE;
    };
    let around = Surroundings {
        is_own: &guest::is_own_binary,
        exists: &|arg: &OsStr| guest::program(arg).is_some(),
    };
    let boot = match stage::run(Stage::BootLine, || args::boot(args, &around)) {
        Ok(boot) => boot,
        Err(error) => {
            fatal(format_args!("the boot line {args:?}: {error}"));
            return BAD_LINE;
        }
    };
    log::debug!("boot line understood: {boot:?}");
    for option in &boot.unknown {
        log::warn!("PID 1 has no option {option:?}; it is passed over");
    }
    // The way to the host is the first thing that needs a module.
    if let Some(order) = modules::listed() {
        stage::run(Stage::Modules, || modules::load(&order)).ok();
    }
    start(guest, boot)
}

type Work = fn() -> Result<(), String>;

/// The steps that need only the machine, in their order.
#[rustfmt::skip]
static SET_UP: &[(Stage, Work)] = &[
    (Stage::Mounts, || mounts::walk(mounts::BASE)),
    (Stage::OpenFiles, open_files),
    (Stage::Settings, sysctl::apply),
];

/// The steps that only programs and containers need. The service does them while the host has its
/// answer to the negotiation.
static SET_UP_LATER: &[(Stage, Work)] = &[
    (Stage::ControlGroups, cgroup::mount),
    (Stage::Loopback, loopback),
];

fn set_up(steps: &[(Stage, Work)]) {
    for (stage, work) in steps {
        stage::run(*stage, work).ok();
    }
}

fn open_files() -> Result<(), String> {
    let (soft, hard) = service::NOFILE;
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).map_err(|errno| {
        log::warn!("limit of open files: {errno}");
        errno.to_string()
    })
}

fn loopback() -> Result<(), String> {
    // The flags are the interface's: one family is enough, and no kernel has IPv6 alone.
    match gcs::sys::loopback::up(AddressFamily::Inet) {
        Ok(()) | Err(Errno::EAFNOSUPPORT) => Ok(()),
        Err(errno) => {
            log::warn!("loopback: {errno}");
            Err(errno.to_string())
        }
    }
}

fn start(guest: Guest, boot: Boot) -> End {
    // The machine is set up while the host answers.
    let Calls { entropy, streams } = calls(guest, &boot);
    set_up(SET_UP);
    if boot.overlays {
        stage::run(Stage::Overlays, || mounts::walk(mounts::OVERLAYS)).ok();
    }
    bringup::look_around();
    let mix = || {
        if let Some((port, dialling)) = entropy {
            stage::run(Stage::Entropy, || entropy::fetch(port, dialling)).ok();
        }
    };
    match boot.command {
        Command::Service(wrapped) => {
            let flags = Flags::parse(&wrapped.args);
            mix();
            become_service(guest, wrapped, flags, streams)
        }
        Command::Program(program) => {
            set_up(SET_UP_LATER);
            mix();
            bringup::leave_console();
            run_program(&program, boot.shell)
        }
    }
}

/// The connections that were begun before everything else.
struct Calls {
    entropy: Option<(u32, io::Result<Dialling>)>,
    streams: Asked,
}

fn calls(guest: Guest, boot: &Boot) -> Calls {
    let mut calls = Calls {
        entropy: None,
        streams: Vec::new(),
    };
    // Each failure is logged when its connection is used. Here the first one stands for the step.
    stage::run(Stage::Calls, || {
        calls.entropy = boot
            .entropy
            .map(|port| (port, vsock::begin(guest, &mut Delay, port)));
        if let Command::Service(wrapped) = &boot.command {
            calls.streams = begin_streams(guest, &wrapped.streams);
        }
        let results = calls.entropy.iter().chain(&calls.streams);
        let failed = results.filter_map(|(port, result)| {
            let error = result.as_ref().err()?;
            Some(format!("port {port} of the host: {error}"))
        });
        failed.map(Err).next().unwrap_or(Ok(()))
    })
    .ok();
    calls
}

/// Connections that were begun, by port.
type Asked = Vec<(u32, io::Result<Dialling>)>;

/// Begins to connect what is connected once. The service itself dials the port of its log for as
/// long as it takes, and without waiting for it (P-341).
fn begin_streams(guest: Guest, streams: &Streams) -> Asked {
    let mut ports: Vec<u32> = once(streams).into_iter().flatten().collect();
    ports.sort_unstable();
    ports.dedup();
    let begin = |port| (port, vsock::begin(guest, &mut Delay, port));
    ports.into_iter().map(begin).collect()
}

/// The ports of stdin, stdout and stderr that are connected before the program starts.
fn once(streams: &Streams) -> [Option<u32>; 3] {
    match *streams {
        Streams::Once {
            stdin,
            stdout,
            stderr,
        } => [stdin, stdout, stderr],
        Streams::Relayed { .. } => [None; 3],
    }
}

/// PID 1 as the service: what the wrapper and the service would do as programs of their own.
fn become_service(
    guest: Guest,
    wrapped: Wrapped,
    flags: Result<Flags, FlagError>,
    streams: Asked,
) -> End {
    let flags = flags.map(|flags| Flags {
        log_port: flags.log_port.or(wrapped.streams.log_port()),
        ..flags
    });
    match &flags {
        Ok(flags) => service::configure_log(flags),
        // The reason has to reach the host, which reads only JSON.
        Err(_) => gcs::log::configure(Level::Debug, Format::Json),
    }
    for option in &wrapped.unknown {
        log::warn!("the stdio wrapper has no option {option:?}; it is passed over");
    }
    let log = || {
        let (stderr, connected) = match connect_streams(&wrapped, streams) {
            Ok(stderr) => (stderr, Ok(())),
            Err(text) => (None, Err(text)),
        };
        // No service will dial for the record that says why there is none.
        let last = || match (&flags, &wrapped.streams) {
            (Err(_), Streams::Relayed { port, .. }) => vsock::dial(guest, &mut Delay, *port).ok(),
            _ => None,
        };
        let stderr = stderr.or_else(last);
        let attached = match (&flags, stderr) {
            (Ok(flags), _) if flags.log_file.is_some() => service::open_log(flags),
            (_, Some(stderr)) => gcs::log::attach(stderr),
            // The service dials it again.
            (Ok(flags), None) if flags.log_port.is_some() => service::take_stderr().map(drop),
            (_, None) => service::take_stderr().and_then(gcs::log::attach),
        };
        attached.map_err(|error| {
            log::error!("the log stays in the kernel log: {error}");
            error.to_string()
        })?;
        connected
    };
    stage::run(Stage::Log, log).ok();
    match flags {
        Ok(flags) => service::serve(Some(guest), &flags, || set_up(SET_UP_LATER)),
        Err(error) => {
            refuse(&error);
            BAD_FLAGS
        }
    }
}

fn refuse(error: &FlagError) {
    fatal(format_args!("the service's flags: {error}"));
}

/// Connects stdin and stdout as asked and returns the connection for stderr. Without that
/// connection the service serves all the same, and its log is in the kernel log only.
///
/// # Errors
/// The first port that could not be reached; it was logged.
fn connect_streams(wrapped: &Wrapped, mut asked: Asked) -> Result<Option<OwnedFd>, String> {
    let streams = vsock::streams(once(&wrapped.streams), |port| {
        let index = asked.iter().position(|(of, _)| *of == port);
        // There is one connection per port, and each is used once.
        let index = index.ok_or(io::ErrorKind::NotFound)?;
        asked.swap_remove(index).1?.finish()
    });
    let [stdin, stdout, stderr] = match streams {
        Ok(streams) => streams,
        Err((port, error)) => {
            log::error!(port = port; "connecting a standard stream: {error}");
            return Err(format!("port {port} of the host: {error}"));
        }
    };
    let moved = [
        stdin.map(nix::unistd::dup2_stdin),
        stdout.map(nix::unistd::dup2_stdout),
    ];
    for errno in moved.into_iter().flatten().filter_map(Result::err) {
        log::error!("moving a standard stream: {errno}");
    }
    Ok(stderr)
}

/// PID 1 as a plain init: it runs one program, and a shell if asked. The machine ends with the
/// shell, or else with the program.
fn run_program(program: &[OsString], shell: Option<OsString>) -> End {
    let shell = shell.filter(|shell| {
        let there = guest::program(shell).is_some();
        if !there {
            log::warn!("no debug shell: there is no {}", shell.display());
        }
        there
    });
    let main = child::start(program).and_then(|main| match shell {
        Some(shell) => child::start(&[shell]),
        None => Ok(main),
    });
    match main {
        Ok(main) => {
            let status = child::reap_until(main);
            log::info!(status = status; "the program has ended");
            End::Status(status)
        }
        Err(error) => {
            fatal(format_args!("starting {program:?}: {error}"));
            BAD_LINE
        }
    }
}
