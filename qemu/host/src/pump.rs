//! Moves a process's streams. Nothing that was read is dropped. A stream is read to its end; it is
//! given up only when the process is gone and the stream has been silent for a while.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::own_stream::{own_stderr, own_stdin, own_stdout};

/// How long a stream may be silent after the exit was reported before it is given up: another
/// process of the guest holds it open.
pub const STREAM_GRACE: Duration = Duration::from_secs(5);
/// How often a silent stream looks for the exit.
const LOOK: Duration = Duration::from_millis(100);
const CHUNK: usize = 64 << 10;

/// The host's ends of a process's streams. `None`: not asked for, or taken.
#[derive(Debug, Default)]
pub struct Stdio {
    /// To standard input.
    pub stdin: Option<UnixStream>,
    /// From standard output, or a terminal.
    pub stdout: Option<UnixStream>,
    /// From standard error.
    pub stderr: Option<UnixStream>,
}

impl Stdio {
    /// End of input for the process; its output goes on.
    pub fn close_stdin(&mut self) -> std::io::Result<()> {
        match self.stdin.take() {
            Some(stream) => stream.shutdown(Shutdown::Write),
            None => Ok(()),
        }
    }
}

/// How the reading of a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drained {
    /// End of the stream; everything was written.
    End,
    /// Left open by the guest after the exit of the process.
    LeftOpen,
    /// The sink or the stream failed.
    Failed(String),
}

const RUNNING: u8 = 0;
const EXITED: u8 = 1;
const ABANDONED: u8 = 2;

/// A stream being drained on its own thread.
pub(crate) struct Drain<W> {
    thread: Option<JoinHandle<(W, Drained)>>,
    idle: Option<W>,
    phase: Arc<AtomicU8>,
}

/// Reads `from` into `to` until the end.
pub(crate) fn drain<W: Write + Send + 'static>(from: Option<UnixStream>, to: W) -> Drain<W> {
    drain_or(from, to, || {})
}

/// `drain` that calls `broken` when it had to give up before the end.
pub(crate) fn drain_or<W: Write + Send + 'static>(
    from: Option<UnixStream>,
    to: W,
    broken: impl FnOnce() + Send + 'static,
) -> Drain<W> {
    let phase = Arc::new(AtomicU8::new(RUNNING));
    let Some(from) = from else {
        return Drain {
            thread: None,
            idle: Some(to),
            phase,
        };
    };
    let seen = Arc::clone(&phase);
    // Spawning fails only when the machine is out of threads; nothing can go on then.
    let thread = std::thread::spawn(move || {
        let mut to = to;
        let end = copy_out(&from, &mut to, &seen);
        if matches!(end, Drained::Failed(_)) {
            broken();
        }
        (to, end)
    });
    Drain {
        thread: Some(thread),
        idle: None,
        phase,
    }
}

impl<W: Default> Drain<W> {
    /// Waits for the end of the stream. `exited`: the process is gone, so silence means that
    /// nothing more comes; else the VM is gone and only what is there is taken.
    pub fn finish(self, exited: bool) -> (W, Drained) {
        self.phase
            .store(if exited { EXITED } else { ABANDONED }, Ordering::SeqCst);
        match self.thread {
            None => (self.idle.unwrap_or_default(), Drained::End),
            Some(thread) => thread.join().unwrap_or_else(|_| {
                (
                    W::default(),
                    Drained::Failed("the reading thread panicked".into()),
                )
            }),
        }
    }
}

fn copy_out(mut from: &UnixStream, to: &mut impl Write, phase: &AtomicU8) -> Drained {
    if let Err(e) = from.set_read_timeout(Some(LOOK)) {
        return Drained::Failed(e.to_string());
    }
    let mut buffer = vec![0; CHUNK];
    let mut last = Instant::now();
    let mut exit_seen = None;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => {
                last = Instant::now();
                if let Err(e) = to.write_all(&buffer[..got]).and_then(|()| to.flush()) {
                    // Nobody reads this tool's output, so the process gets a broken pipe.
                    drop(from.shutdown(Shutdown::Both));
                    return Drained::Failed(e.to_string());
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                match phase.load(Ordering::SeqCst) {
                    RUNNING => {}
                    EXITED => {
                        let silent_since = last.max(*exit_seen.get_or_insert_with(Instant::now));
                        if silent_since.elapsed() >= STREAM_GRACE {
                            return Drained::LeftOpen;
                        }
                    }
                    _ => return Drained::LeftOpen,
                }
            }
            // The guest is gone or has reset the stream, so nothing more will come.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => break,
            Err(e) => return Drained::Failed(e.to_string()),
        }
    }
    Drained::End
}

/// Copies `from` into the process's standard input and ends it there. Detached by dropping.
pub(crate) fn feed(mut from: impl Read + Send + 'static, to: UnixStream) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; CHUNK];
        loop {
            let got = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(got) => got,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    log::warn!("standard input ends early: {e}");
                    break;
                }
            };
            // The process has closed its input, which is no error.
            if (&to).write_all(&buffer[..got]).is_err() {
                return;
            }
        }
        drop(to.shutdown(Shutdown::Write));
        // The stream stays open until the guest closes it, because closing it now could look like a
        // reset to a device without half-close.
        let mut rest = [0; 64];
        while matches!((&to).read(&mut rest), Ok(n) if n > 0) {}
    })
}

/// Connects a process's streams to this one's until `exit` says how it ended. `kill` is called
/// when nobody takes its output any more: a guest goes on without its reader, where a program on
/// this side would end (SIGPIPE).
pub fn relay<E>(
    stdio: Stdio,
    kill: impl Fn() + Send + Sync + 'static,
    exit: impl FnOnce() -> Result<u32, E>,
) -> Result<u32, E> {
    // Detached: it may sit in a read of the terminal when the process is long gone.
    let feeding = stdio.stdin.map(|to| feed(own_stdin(), to));
    let kill = Arc::new(kill);
    let broken = || {
        let kill = Arc::clone(&kill);
        move || kill()
    };
    let out = drain_or(stdio.stdout, own_stdout(), broken());
    let err = drain_or(stdio.stderr, own_stderr(), broken());
    let outcome = exit();
    let done = outcome.is_ok();
    let (_, out_end) = out.finish(done);
    let (_, err_end) = err.finish(done);
    drop(feeding);
    for (name, end) in [("stdout", out_end), ("stderr", err_end)] {
        if let Drained::Failed(why) = end {
            log::warn!("{name} of the process was not written to its end: {why}");
        }
    }
    outcome
}
