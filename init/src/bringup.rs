//! What an image for bringing a machine up adds to a boot: every step on a console before it
//! begins, a report about the machine, and shells. Programs that the image names in [`CONF`] do all
//! of it. The shipped image has no such file, and then nothing here does anything.
//!
//! ```text
//! events of gcs::stage → socket → `console=` program → a line, and one byte back when it is out
//! `probe=` program ─────────┘
//! ```

use std::cell::RefCell;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use gcs::stage::{self, Event, Stage};
use gcs::sys::process::{self, Program};
use gcs::sys::{fds, pidfd};
use nix::poll::PollFlags;
use nix::sys::socket::{recv, send, socketpair, AddressFamily, MsgFlags, SockFlag, SockType};
use nix::unistd::Pid;

use crate::poweroff::{self, End};
use crate::{child, vsock};

/// Lines `name=program and its arguments`; `#` begins a comment. The names are [`Conf`]'s.
const CONF: &str = "/etc/init.conf";
/// How long PID 1 waits until the console has written a line.
const SAID_LIMIT: Duration = Duration::from_secs(3);
/// How long the report may take. It reads sysfs, and a device that does not answer must not stop
/// the boot.
const LOOK_LIMIT: Duration = Duration::from_secs(30);
/// Bytes of the log shown before the shell.
const LAST_RECORDS: usize = 4096;

/// A program and its arguments; empty: none.
type Argv = Vec<CString>;

#[derive(Debug, Default, PartialEq, Eq)]
struct Conf {
    /// Gets the events on its stdin, a socket, and answers each piece with a byte.
    console: Argv,
    /// Its stdout goes to the console once the machine is set up.
    probe: Argv,
    /// Runs beside PID 1.
    shells: Argv,
    /// Runs when the boot has failed; the machine ends with it.
    last: Argv,
}

impl Conf {
    fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let Some((name, program)) = line.split_once('=') else {
                continue;
            };
            let args = program.split_whitespace();
            let args = args.filter_map(|arg| CString::new(arg).ok()).collect();
            match name {
                "console" => conf.console = args,
                "probe" => conf.probe = args,
                "shells" => conf.shells = args,
                "last" => conf.last = args,
                _ => {}
            }
        }
        conf
    }
}

#[derive(Debug, Default)]
struct State {
    conf: Conf,
    /// The console's program, and a copy of what leads to its stdin.
    console: Option<(Pid, OwnedFd)>,
    shells: Option<Pid>,
}

thread_local! {
    static STATE: RefCell<Option<State>> = const { RefCell::new(None) };
}

/// The first thing that PID 1 does.
pub fn begin() {
    let Ok(text) = fs::read_to_string(CONF) else {
        return;
    };
    let mut state = State {
        conf: Conf::parse(&text),
        ..State::default()
    };
    if !state.conf.console.is_empty() {
        match open_console(&state.conf.console) {
            Ok((pid, ours, copy)) => {
                state.console = Some((pid, copy));
                let mut lines = Lines(Some(ours));
                stage::listen(Box::new(move |event| lines.hear(&event)));
            }
            Err(error) => log::error!("no console for the boot: {error}"),
        }
    }
    STATE.set(Some(state));
}

/// Starts the program. Returns it with PID 1's end of its socket and a copy of that.
fn open_console(program: &Argv) -> io::Result<(Pid, OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
    // Its own errors would disturb the lines.
    let null = fds::null();
    let rest = null.as_ref().map_or(theirs.as_fd(), AsFd::as_fd);
    let pid = start(program, [theirs.as_fd(), rest, rest])?;
    let copy = ours.try_clone()?;
    Ok((pid, ours, copy))
}

fn start(program: &Argv, fds: [BorrowedFd<'_>; 3]) -> io::Result<Pid> {
    let (pid, _status) = process::start(&Program {
        candidates: program.get(..1).unwrap_or_default(),
        argv: program,
        env: &[c"PATH=/sbin:/usr/sbin:/bin:/usr/bin".into()],
        cwd: None,
        fds: &fds,
        controlling_terminal: false,
        dumps_core: false,
    })?;
    Ok(pid)
}

/// Starts the shells and the report, once the machine is set up and before PID 1 waits for the
/// host.
pub fn look_around() {
    STATE.with_borrow_mut(|state| {
        let Some(state) = state else { return };
        let Ok(null) = fds::null() else { return };
        let null = null.as_fd();
        if !state.conf.shells.is_empty() {
            let start = || start(&state.conf.shells, [null; 3]);
            let started = stage::run(Stage::Shells, start);
            state.shells = started
                .inspect_err(|error| log::error!("no shells: {error}"))
                .ok();
        }
        if let (Some((_, console)), false) = (&state.console, state.conf.probe.is_empty()) {
            let look = || {
                let pid = start(&state.conf.probe, [null, console.as_fd(), null])?;
                match pidfd::wait_exit(pid.as_raw(), LOOK_LIMIT)? {
                    true => Ok(()),
                    false => Err(io::Error::from(io::ErrorKind::TimedOut)),
                }
            };
            stage::run(Stage::Probe, look).ok();
        }
    });
}

/// From here on a program has the console.
pub fn leave_console() {
    stage::quiet();
    let console = STATE.with_borrow_mut(|state| state.as_mut()?.console.take());
    if let Some((pid, copy)) = console {
        // When the copy is closed, the program sees the end of its input and leaves the port in
        // order.
        drop(copy);
        pidfd::wait_exit(pid.as_raw(), SAID_LIMIT).ok();
    }
}

/// The machine is about to end. When nobody asked for that, it stays for a person at the console or
/// on vsock until the shell there ends.
pub fn hold(end: End) {
    let unasked = !matches!(end, End::PowerOff | End::Status(0));
    let last = STATE.with_borrow_mut(|state| Some(std::mem::take(&mut state.as_mut()?.conf.last)));
    let Some(last) = last.filter(|last| unasked && !last.is_empty()) else {
        return;
    };
    poweroff::flush_log();
    let records = gcs::log::recent(LAST_RECORDS);
    stage::tell(Event::Text(&format!(
        "the boot has failed, and the machine would end now: {end:?}\n\
         the last log records:\n{records}\
         a shell; the machine ends with it:"
    )));
    leave_console();
    let Ok(null) = fds::null() else { return };
    let status = start(&last, [null.as_fd(); 3]).map(child::reap_until);
    // Without a console the machine stays for shells on vsock until the host ends it.
    let shells = STATE.with_borrow_mut(|state| state.as_mut()?.shells.take());
    if let (false, Some(shells)) = (matches!(status, Ok(0)), shells) {
        if pidfd::open(shells.as_raw()).is_ok_and(|process| process.is_some()) {
            log::error!("no shell on the console ({status:?}); there are some on vsock");
            child::reap_until(shells);
        }
    }
}

/// The socket to the console. `None` once the console has not answered.
struct Lines(Option<OwnedFd>);

impl Lines {
    fn hear(&mut self, event: &Event<'_>) {
        let text = event.encode(gcs::log::uptime().as_micros());
        let said = self.0.as_ref().map(|socket| say(socket, &text));
        if matches!(said, Some(Err(_))) {
            self.0 = None;
        }
    }
}

/// Sends the text and waits until it is out.
fn say(socket: &OwnedFd, text: &str) -> io::Result<()> {
    let until = Instant::now() + SAID_LIMIT;
    let number = socket.as_raw_fd();
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    // Earlier answers do not count for this text.
    let mut answers = [0; 64];
    while matches!(recv(number, &mut answers, flags), Ok(got) if got > 0) {}
    let mut bytes = text.as_bytes();
    while !bytes.is_empty() {
        if !vsock::wait(socket, PollFlags::POLLOUT, until)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        bytes = &bytes[send(number, bytes, flags)?..];
    }
    match vsock::wait(socket, PollFlags::POLLIN, until)? {
        true if recv(number, &mut answers, flags)? > 0 => Ok(()),
        true => Err(io::ErrorKind::BrokenPipe.into()),
        false => Err(io::ErrorKind::TimedOut.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn programs_of_an_image() {
        let conf =
            Conf::parse("# comment = none\nconsole=/bin/c /dev/ttyS1 9600\nlast=\nother=1\n");
        assert_eq!(
            conf.console,
            [c"/bin/c", c"/dev/ttyS1", c"9600"].map(CString::from)
        );
        assert!(conf.last.is_empty() && conf.probe.is_empty());
        assert_eq!(Conf::parse(""), Conf::default());
    }

    #[allow(clippy::disallowed_methods, reason = "the other side of the socket")]
    #[test]
    fn a_line_is_out_before_its_step_begins() {
        let (ours, mut theirs) = UnixStream::pair().expect("a socket pair");
        let console = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            let got = theirs.read(&mut buffer).expect("a line");
            theirs.write_all(b"\n").expect("a listener");
            String::from_utf8_lossy(&buffer[..got]).into_owned()
        });
        say(&ours.into(), "mounting").expect("it answers");
        assert_eq!(console.join().expect("no panic"), "mounting");
    }

    #[test]
    fn a_console_that_is_gone_is_spoken_to_no_more() {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        drop(theirs);
        let mut lines = Lines(Some(ours.into()));
        lines.hear(&Event::Begins(Stage::Devices));
        assert!(lines.0.is_none());
    }
}
