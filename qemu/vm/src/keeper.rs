//! QEMU as a child: the thread that it lives and dies with.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitStatus};
use std::sync::{mpsc, Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::sys::wait::{waitid, Id, WaitPidFlag};
use nix::unistd::Pid;

use crate::console::Console;
use crate::end::{VmEnd, VmError, QEMU};
use crate::sys::child;

/// Stderr of QEMU that is kept for a report.
const KEPT_STDERR: usize = 8 << 10;
/// Console lines of a panic report.
const REPORTED: usize = 60;
/// QEMU ends at once when killed; this is for a machine that swaps.
pub(crate) const KILL_LIMIT: Duration = Duration::from_secs(30);

/// Is called with the reason when the VM has ended.
pub(crate) type OnEnd = Arc<dyn Fn(VmEnd) + Send + Sync>;

/// The state of the child. Its pid may be signalled only while it is not reaped (`end`).
#[derive(Default)]
struct Life {
    pid: Option<Pid>,
    end: Option<VmEnd>,
    /// We ended it, so its exit needs no report.
    killed: bool,
}

#[derive(Clone, Default)]
struct SharedLife(Arc<(Mutex<Life>, Condvar)>);

impl SharedLife {
    fn lock(&self) -> MutexGuard<'_, Life> {
        self.0 .0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is watched of the guest besides its bridge.
pub(crate) struct Watched {
    pub(crate) console: Console,
    pub(crate) stream: UnixStream,
    pub(crate) file: File,
}

/// The child and the thread that it lives and dies with.
pub(crate) struct Keeper {
    life: SharedLife,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// The process id, while there is one.
    pub(crate) fn pid(&self) -> Option<i32> {
        let life = self.life.lock();
        match life.end {
            None => life.pid.map(Pid::as_raw),
            Some(_) => None,
        }
    }

    pub(crate) fn start(
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
            .map_err(VmError::start("a thread"))?;
        let keeper = Self {
            life,
            thread: Some(thread),
        };
        // The first thing that the thread tells is how the start went.
        match told
            .recv()
            .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
        {
            Ok(()) => Ok(keeper),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(VmError::NoQemu),
            Err(e) => Err(VmError::start(QEMU)(e)),
        }
    }

    pub(crate) fn wait(&self, limit: Duration) -> Result<VmEnd, VmError> {
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

    pub(crate) fn kill(&self) {
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
    // Dropping the command closes our copies of the child's ends: the other ends must see its death.
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
    // Sees the end and does not reap: the pid stays valid.
    while let Err(nix::errno::Errno::EINTR) =
        waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
    {}
    // The console comes first, because a panic explains the exit.
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
