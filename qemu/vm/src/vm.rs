//! QEMU as a child: started with everything it needs, watched, and never left behind.
//!
//! A keeper thread starts it (the kernel kills QEMU when that thread ends, however the tool
//! ends), reads its stderr, and reaps it. The console thread keeps the serial console. Whoever
//! learns first why the VM ended (panic on the console, QEMU's exit) tells the host.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{mpsc, Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::sys::wait::{waitid, Id, WaitPidFlag};
use nix::unistd::Pid;

use crate::console::Console;
use crate::profile::{command_line, Accel, Profile, Root, VsockWire, Wiring};
use crate::qmp::{Qmp, QmpError};
use crate::sys::child;

pub const QEMU: &str = "qemu-system-x86_64";
/// Stderr of QEMU that is kept for a report.
const KEPT_STDERR: usize = 8 << 10;
/// Console lines of a panic report.
const REPORTED: usize = 60;
/// QEMU ends at once when killed; this is for a machine that swaps.
const KILL_LIMIT: Duration = Duration::from_secs(30);

/// Why a VM ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VmEnd {
    /// Kernel panic or death of PID 1, with the text from the console.
    #[error("the guest panicked:\n{0}")]
    Panic(String),
    /// QEMU ended without a guest panic; the text says how, with its last words.
    #[error("{0}")]
    Exited(String),
    /// This side closed the VM.
    #[error("the VM was stopped")]
    Stopped,
}

#[derive(Debug, thiserror::Error)]
pub enum VmError {
    #[error("{QEMU} is not installed (Debian: apt-get install qemu-system-x86)")]
    NoQemu,
    #[error("the {what} {path} cannot be read: {source}")]
    NoFile {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("starting QEMU: {doing}: {source}")]
    Start { doing: String, source: io::Error },
    #[error("{end}")]
    Ended { end: VmEnd },
    #[error("the VM did not stop within {0:?}")]
    Stuck(Duration),
    #[error(transparent)]
    Qmp(#[from] QmpError),
}

/// Gets told why the VM ended.
type OnEnd = Arc<dyn Fn(VmEnd) + Send + Sync>;

/// A running QEMU. Dropping it kills it and waits until it is gone.
pub struct Vm {
    keeper: Keeper,
    qmp: Mutex<Qmp>,
    console: Console,
    keyboard: UnixStream,
    started: Instant,
    arguments: String,
}

impl Vm {
    /// Starts QEMU; `on_end` hears why it ended, from another thread, maybe more than once (the
    /// first is the best).
    pub fn start(
        profile: &Profile,
        accel: Accel,
        vsock: VsockWire,
        console_log: &Path,
        on_end: impl Fn(VmEnd) + Send + Sync + 'static,
    ) -> Result<Self, VmError> {
        if !matches!(profile.root, Some(Root::Uefi { .. })) {
            readable("kernel", &profile.kernel)?;
        }
        if let Some(root) = &profile.root {
            let (what, files) = root.files();
            files
                .into_iter()
                .try_for_each(|file| readable(what, file))?;
        }
        for disk in &profile.disks {
            readable("disk", &disk.path)?;
        }
        let file = File::create(console_log).map_err(failed(format!(
            "creating the console log {}",
            console_log.display()
        )))?;
        let (qmp, qmp_end) = UnixStream::pair().map_err(failed("a socket pair"))?;
        let (console_stream, console_end) = UnixStream::pair().map_err(failed("a socket pair"))?;
        let keyboard = console_stream
            .try_clone()
            .map_err(failed("a second descriptor"))?;
        let inherit = vec![OwnedFd::from(qmp_end), OwnedFd::from(console_end)];
        let wiring = Wiring {
            accel,
            vsock,
            qmp: child::number(&inherit[0]),
            console: child::number(&inherit[1]),
        };
        let mut command = Command::new(QEMU);
        command
            .args(command_line(profile, &wiring))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let arguments = format!("{command:?}");
        log::debug!("{arguments}");

        let console = Console::default();
        let started = Instant::now();
        let watched = Watched {
            console: console.clone(),
            stream: console_stream,
            file,
        };
        let keeper = Keeper::start(command, inherit, watched, Arc::new(on_end))?;
        let qmp = match Qmp::connect(qmp) {
            Ok(qmp) => qmp,
            // QEMU refused its arguments, most likely: its stderr says which.
            Err(QmpError::Closed { .. }) => {
                let end = keeper.wait(KILL_LIMIT)?;
                return Err(VmError::Ended { end });
            }
            Err(e) => return Err(e.into()),
        };
        Ok(Self {
            keeper,
            qmp: Mutex::new(qmp),
            console,
            keyboard,
            started,
            arguments,
        })
    }

    /// QEMU's whole command line, for a report.
    pub fn arguments(&self) -> &str {
        &self.arguments
    }

    pub fn started(&self) -> Instant {
        self.started
    }

    pub fn console(&self) -> &Console {
        &self.console
    }

    /// Types on the serial console.
    pub fn type_console(&self, text: &str) -> io::Result<()> {
        (&self.keyboard).write_all(text.as_bytes())
    }

    /// The process id, while there is one.
    pub fn pid(&self) -> Option<i32> {
        let life = self.keeper.life.lock();
        match life.end {
            None => life.pid.map(Pid::as_raw),
            Some(_) => None,
        }
    }

    pub fn qmp(&self) -> MutexGuard<'_, Qmp> {
        self.qmp.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for QEMU to end by itself; says how.
    pub fn wait(&self, limit: Duration) -> Result<VmEnd, VmError> {
        self.keeper.wait(limit)
    }

    /// Kills QEMU; no-op when it is gone.
    pub fn kill(&self) {
        self.keeper.kill();
    }
}

fn failed(doing: impl Into<String>) -> impl FnOnce(io::Error) -> VmError {
    let doing = doing.into();
    move |source| VmError::Start { doing, source }
}

fn readable(what: &'static str, path: &Path) -> Result<(), VmError> {
    let opened = File::open(path).and_then(|file| {
        if file.metadata()?.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(())
    });
    opened.map_err(|source| VmError::NoFile {
        what,
        path: path.to_owned(),
        source,
    })
}

/// Where the child stands. Its pid may be signalled only while it is not reaped (`end`).
#[derive(Default)]
struct Life {
    pid: Option<Pid>,
    end: Option<VmEnd>,
    /// We ended it: its exit is no news.
    killed: bool,
}

#[derive(Clone, Default)]
struct SharedLife(Arc<(Mutex<Life>, Condvar)>);

impl SharedLife {
    fn lock(&self) -> MutexGuard<'_, Life> {
        self.0 .0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is watched of the guest beside its bridge.
struct Watched {
    console: Console,
    stream: UnixStream,
    file: File,
}

/// The child and the thread that it lives and dies with.
struct Keeper {
    life: SharedLife,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    fn start(
        command: Command,
        inherit: Vec<OwnedFd>,
        watched: Watched,
        on_end: OnEnd,
    ) -> Result<Self, VmError> {
        let life = SharedLife::default();
        let (tell, told) = mpsc::channel();
        let shared = life.clone();
        let thread = std::thread::Builder::new()
            .name("qemu".into())
            .spawn(move || keep(command, inherit, watched, &shared, &tell, &on_end))
            .map_err(failed("a thread"))?;
        let keeper = Self {
            life,
            thread: Some(thread),
        };
        // The thread says how the start went before anything else.
        match told
            .recv()
            .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
        {
            Ok(()) => Ok(keeper),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(VmError::NoQemu),
            Err(e) => Err(failed(QEMU)(e)),
        }
    }

    fn wait(&self, limit: Duration) -> Result<VmEnd, VmError> {
        let deadline = Instant::now() + limit;
        let mut life = self.life.lock();
        loop {
            if let Some(end) = &life.end {
                return Ok(end.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(VmError::Stuck(limit));
            }
            life = match self.life.0 .1.wait_timeout(life, left) {
                Ok((life, _)) => life,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    fn kill(&self) {
        let mut life = self.life.lock();
        life.killed = true;
        if let (Some(pid), None) = (life.pid, &life.end) {
            if let Err(e) = kill(pid, Signal::SIGKILL) {
                log::error!("QEMU ({pid}) cannot be killed: {e}");
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if self.life.lock().pid.is_none() {
            return;
        }
        self.kill();
        if self.wait(KILL_LIMIT).is_err() {
            log::error!("QEMU does not end though it was killed");
        } else if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// The keeper thread: the child dies with it, so it stays until the child is reaped.
fn keep(
    mut command: Command,
    inherit: Vec<OwnedFd>,
    watched: Watched,
    life: &SharedLife,
    tell: &mpsc::Sender<io::Result<()>>,
    on_end: &OnEnd,
) {
    let spawned = child::spawn_bound(&mut command, inherit);
    // Our copies of the child's ends go with the command: their other ends must see its death.
    drop(command);
    let mut child = match spawned {
        Ok(child) => child,
        Err(e) => {
            // Nobody listens only if the starter is gone.
            drop(tell.send(Err(e)));
            return;
        }
    };
    let pid = Pid::from_raw(child.id().cast_signed());
    life.lock().pid = Some(pid);
    drop(tell.send(Ok(())));

    let Watched {
        console,
        stream,
        file,
    } = watched;
    let stderr = child.stderr.take();
    let watcher = std::thread::spawn({
        let (console, on_end) = (console.clone(), Arc::clone(on_end));
        move || {
            let told = console.watch(stream, Some(file), |text| on_end(VmEnd::Panic(text)));
            if let Err(e) = told {
                log::error!("watching the console failed: {e}");
            }
        }
    });
    // Ends with the child, or with the last process that has its stderr: the same one.
    let words = stderr.map(last_words).unwrap_or_default();
    // Sees the end, leaves the pid in place.
    while let Err(nix::errno::Errno::EINTR) =
        waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
    {}
    // The console first: a panic explains the exit.
    drop(watcher.join());
    let mut state = life.lock();
    let status = child.wait();
    let end = match (state.killed, console.has_panicked(), status) {
        (_, true, _) => VmEnd::Panic(console.tail(REPORTED)),
        (true, _, _) => VmEnd::Stopped,
        (_, _, Ok(status)) => VmEnd::Exited(describe(status, &words, &console)),
        (_, _, Err(e)) => VmEnd::Exited(format!("QEMU ended, its status is lost: {e}")),
    };
    state.end = Some(end.clone());
    drop(state);
    life.0 .1.notify_all();
    on_end(end);
}

fn last_words(mut stderr: impl Read) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        match stderr.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(got) => {
                log::debug!(
                    "qemu: {}",
                    String::from_utf8_lossy(&buffer[..got]).trim_end()
                );
                kept.extend_from_slice(&buffer[..got]);
                let excess = kept.len().saturating_sub(KEPT_STDERR);
                kept.drain(..excess);
            }
        }
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

/// QEMU ends with 0 when the guest powers off or reboots.
fn describe(status: ExitStatus, words: &str, console: &Console) -> String {
    let mut text = match status.success() {
        true => "the guest powered off or rebooted".to_owned(),
        false => format!("QEMU ended with {status}"),
    };
    if !words.is_empty() {
        text.push_str(&format!(":\n{words}"));
    }
    let last = console.tail(5);
    if !last.is_empty() {
        text.push_str(&format!("\nThe console's last lines:\n{last}"));
    }
    text
}
