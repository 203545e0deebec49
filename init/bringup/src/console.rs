//! The console that PID 1 writes to. It gets steps of the boot and texts from a socket and writes
//! lines to a serial port. A line is begun before its step and ended after it, so that the last
//! line of a machine that hangs names the step.
//!
//! Without a port the lines go to the kernel's console, and without that to its log. Each piece is
//! answered with one byte once the port has it, so that a line shows what PID 1 is about to do
//! before it does it. Nothing waits longer than [`LIMIT`] for a port.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use gcs::stage::{Stage, StageEvent, What, MARK};
use gcs::sys::pidfd::pause;
use linux_embedded_hal::Serial;
use nix::sys::termios::{self, BaudRate, InputFlags, LocalFlags, OutputFlags, SetArg};

/// The kernel's own choice (console(4)).
const KERNELS: &str = "/dev/console";
const KMSG: &str = "/dev/kmsg";
/// The size of a piece in bytes, which fits into the buffer of a port. A port with nobody at the
/// other end may stop taking bytes; a piece that it does not take in time is the last.
const PIECE: usize = 256;
const LIMIT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(1);
/// Longest line of the kernel's log that is begun before it ends.
const LINE: usize = 800;

enum Port {
    Serial(Serial),
    Terminal(File),
    /// Takes whole lines only. A line that is begun is written, and written again when it ends.
    Kernel(File, String),
    Nowhere,
}

struct Console(Port);

/// Copies stdin to its end, then leaves the port as a terminal for people.
pub fn copy(path: &Path, baud: u32) -> io::Result<()> {
    let mut console = Console::open(path, baud);
    let mut lines = Lines::default();
    let mut stdin = io::stdin();
    let mut buffer = [0; 4096];
    loop {
        let got = stdin.read(&mut buffer)?;
        if got == 0 {
            break;
        }
        console.put(&lines.take(&buffer[..got]));
        // Nobody waits for it when stdin is no socket.
        nix::unistd::write(stdin.as_fd(), b"\n").ok();
    }
    drop(console);
    if let Ok(fd) = terminal(path, true) {
        cook(&fd, baud).ok();
    }
    Ok(())
}

/// Turns events into text for people.
#[derive(Default)]
struct Lines {
    /// Of an event whose end has not come yet.
    pending: String,
    /// The step whose line has no end yet, and when it began.
    open: Option<(Stage, u64)>,
}

impl Lines {
    fn take(&mut self, bytes: &[u8]) -> String {
        self.pending.push_str(&String::from_utf8_lossy(bytes));
        let mut out = String::new();
        let mut rest = std::mem::take(&mut self.pending);
        while !rest.is_empty() {
            let at = match rest.starts_with(MARK) {
                true => rest.find('\n').map(|at| at + 1),
                false => Some(rest.find(MARK).unwrap_or(rest.len())),
            };
            let Some(at) = at else {
                self.pending = rest;
                break;
            };
            let behind = rest.split_off(at);
            match StageEvent::decode(rest.trim_end_matches('\n')) {
                Some(told) => self.step(&mut out, &told),
                None => {
                    self.end_line(&mut out);
                    out.push_str(&rest);
                }
            }
            rest = behind;
        }
        out
    }

    fn step(&mut self, out: &mut String, told: &StageEvent) {
        let (stage, now) = (told.stage, told.micros);
        let name = stage.name();
        let time = format!("[{:5}.{:06}]", now / 1_000_000, now % 1_000_000);
        let how = match &told.what {
            What::Begins => {
                self.end_line(out);
                self.open = Some((stage, now));
                out.push_str(&format!("{time} {name}: {} ... ", stage.doing()));
                return;
            }
            What::Done => "ok".to_owned(),
            What::Failed(why) => format!("FAILED: {why}"),
        };
        match self.open {
            Some((open, since)) if open == stage => {
                let took = now.saturating_sub(since);
                out.push_str(&format!(
                    "{how}, {}.{} ms\n",
                    took / 1000,
                    took % 1000 / 100
                ));
                self.open = None;
            }
            // Another text was written in between.
            _ => {
                self.end_line(out);
                out.push_str(&format!("{time} {name}: {how}\n"));
            }
        }
    }

    fn end_line(&mut self, out: &mut String) {
        if self.open.take().is_some() {
            out.push('\n');
        }
    }
}

impl Console {
    /// Opens what the machine has. It may have no port.
    fn open(path: &Path, baud: u32) -> Self {
        match Serial::open(path.to_string_lossy().into_owned(), baud) {
            Ok(serial) => Self(Port::Serial(serial)),
            Err(_) => Self(Self::without_port()),
        }
    }

    fn without_port() -> Port {
        let terminal = terminal(Path::new(KERNELS), true).map(|fd| Port::Terminal(fd.into()));
        let kernel = || {
            let file = OpenOptions::new().write(true).open(KMSG)?;
            Ok::<_, io::Error>(Port::Kernel(file, String::new()))
        };
        terminal.or_else(|_| kernel()).unwrap_or(Port::Nowhere)
    }

    /// When a port does not take the text, the next best one is used from then on.
    fn put(&mut self, text: &str) {
        while self.try_put(text).is_err() {
            self.0 = match self.0 {
                Port::Serial(_) => Self::without_port(),
                _ => Port::Nowhere,
            };
        }
    }

    fn try_put(&mut self, text: &str) -> io::Result<()> {
        let for_terminals = || text.replace('\n', "\r\n");
        match &mut self.0 {
            Port::Serial(serial) => {
                let write = |piece: &[u8]| serial.0.write(piece);
                patiently(for_terminals().as_bytes(), LIMIT, write)
            }
            Port::Terminal(file) => file.write_all(for_terminals().as_bytes()),
            Port::Kernel(file, line) => {
                for part in text.split_inclusive('\n') {
                    if line.len() < LINE {
                        line.push_str(part.trim_end_matches('\n'));
                    }
                    // As urgent as an error, so that `quiet` does not swallow it.
                    file.write_all(format!("<3>boot: {line}\n").as_bytes())?;
                    if part.ends_with('\n') {
                        line.clear();
                    }
                }
                Ok(())
            }
            Port::Nowhere => Ok(()),
        }
    }
}

fn patiently(
    mut bytes: &[u8],
    limit: Duration,
    mut write: impl FnMut(&[u8]) -> io::Result<usize>,
) -> io::Result<()> {
    let mut until = Instant::now() + limit;
    while !bytes.is_empty() {
        match write(&bytes[..bytes.len().min(PIECE)]) {
            Ok(0) => {}
            Ok(taken) => {
                bytes = &bytes[taken..];
                until = Instant::now() + limit;
                continue;
            }
            Err(error) => match error.kind() {
                io::ErrorKind::TimedOut
                | io::ErrorKind::WouldBlock
                | io::ErrorKind::Interrupted => {}
                _ => return Err(error),
            },
        }
        if Instant::now() >= until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        pause(PAUSE);
    }
    Ok(())
}

/// Opens a terminal for both directions; `shared`: without taking it as the controlling one.
///
/// # Errors
/// It does not exist, or it has no device.
pub fn terminal(path: &Path, shared: bool) -> io::Result<OwnedFd> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if shared {
        options.custom_flags(nix::libc::O_NOCTTY);
    }
    Ok(options.open(path)?.into())
}

/// Lines, echo and signals, as a person expects them.
///
/// # Errors
/// It is no terminal.
pub fn cook(terminal: &OwnedFd, baud: u32) -> nix::Result<()> {
    let mut modes = termios::tcgetattr(terminal)?;
    modes.input_flags = InputFlags::ICRNL | InputFlags::IXON;
    modes.output_flags = OutputFlags::OPOST | OutputFlags::ONLCR;
    modes.local_flags = LocalFlags::ISIG
        | LocalFlags::ICANON
        | LocalFlags::IEXTEN
        | LocalFlags::ECHO
        | LocalFlags::ECHOE
        | LocalFlags::ECHOK
        | LocalFlags::ECHOCTL
        | LocalFlags::ECHOKE;
    if baud == 115_200 {
        termios::cfsetspeed(&mut modes, BaudRate::B115200)?;
    }
    termios::tcsetattr(terminal, SetArg::TCSANOW, &modes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::OFlag;
    use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};

    use gcs::stage::Event;

    /// At 1.5 s and every 1.234 ms later; in pieces as a socket may give them.
    fn told(events: &[Event<'_>], piece: usize) -> String {
        let at = (0..).map(|step| 1_500_000 + step * 1_234);
        let encoded = events.iter().zip(at).map(|(event, at)| event.encode(at));
        let mut lines = Lines::default();
        let bytes = encoded.collect::<String>().into_bytes();
        bytes.chunks(piece).map(|piece| lines.take(piece)).collect()
    }

    #[test]
    fn a_step_is_one_line_whose_end_comes_with_the_result() {
        for piece in [1, 7, 4096] {
            let text = told(
                &[
                    Event::Begins(Stage::Devices),
                    Event::Done(Stage::Devices),
                    Event::Begins(Stage::Log),
                    Event::Failed(Stage::Log, &"nobody listens"),
                    Event::Begins(Stage::Bridge),
                ],
                piece,
            );
            assert_eq!(
                text,
                "[    1.500000] devices: mounting /dev and /proc ... ok, 1.2 ms\n\
                 [    1.502468] log: connecting the log to the host ... FAILED: nobody listens, \
                 1.2 ms\n\
                 [    1.504936] bridge: dialling the bridge, port 0x40000000 of the host ... "
            );
        }
    }

    #[test]
    fn what_is_said_during_a_step_gets_lines_of_its_own() {
        let events = [
            Event::Begins(Stage::Probe),
            Event::Text("one\ntwo"),
            Event::Done(Stage::Probe),
        ];
        assert_eq!(
            told(&events, 4096),
            "[    1.500000] probe: looking at the machine ... \none\ntwo\n\
             [    1.502468] probe: ok\n"
        );
    }

    #[test]
    fn a_serial_port_gets_lines_as_terminals_want_them() {
        let mut master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY).expect("a terminal");
        grantpt(&master).expect("ours");
        unlockpt(&master).expect("ours");
        let path = ptsname_r(&master).expect("a name");
        let mut console = Console::open(Path::new(&path), 115_200);
        assert!(matches!(console.0, Port::Serial(_)), "{path}");
        console.put("devices: mounting ... ");
        console.put("ok\nnext\n");
        let long = "x".repeat(3 * PIECE);
        console.put(&long);
        drop(console);
        let (mut text, mut buffer) = (String::new(), [0; 4096]);
        // The other side is closed, so the end comes as an error.
        while let Ok(got) = master.read(&mut buffer) {
            text.push_str(&String::from_utf8_lossy(&buffer[..got]));
        }
        assert_eq!(text, format!("devices: mounting ... ok\r\nnext\r\n{long}"));
    }

    #[test]
    fn the_kernels_log_has_a_line_begun_and_ended() {
        let mut file = tempfile::tempfile().expect("a file");
        let copy = file.try_clone().expect("a copy");
        let mut console = Console(Port::Kernel(copy, String::new()));
        console.put("bridge: dialling ... ");
        console.put("FAILED\nthe end\n");
        let mut text = String::new();
        std::io::Seek::rewind(&mut file).expect("a file");
        file.read_to_string(&mut text).expect("text");
        assert_eq!(
            text,
            "<3>boot: bridge: dialling ... \n<3>boot: bridge: dialling ... FAILED\n\
             <3>boot: the end\n"
        );
    }

    #[test]
    fn a_port_that_takes_nothing_is_given_up() {
        let mut asked = 0_u32;
        let limit = Duration::from_millis(20);
        let full = |_: &[u8]| {
            asked += 1;
            Err(io::ErrorKind::TimedOut.into())
        };
        let error = patiently(b"abc", limit, full).expect_err("never taken");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(asked > 1);
    }
}
