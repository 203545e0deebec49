//! QEMU as a child: started with everything it needs, watched, and never left running.
//!
//! A keeper thread starts it (the kernel kills QEMU when that thread ends, however the tool
//! ends), reads its stderr, and reaps it. The console thread keeps the serial console. Whoever
//! learns first why the VM ended (panic on the console, QEMU's exit) tells `on_end`.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::command_line::{command_line, VsockWire, Wiring};
use crate::console::Console;
use crate::end::{VmEnd, VmError, QEMU};
use crate::initrd;
use crate::keeper::{Keeper, Watched, KILL_LIMIT};
use crate::profile::{Accel, Profile, Root};
use crate::qmp::{Qmp, QmpError};
use crate::sys::child;

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
    /// Starts QEMU. Another thread calls `on_end` with the reason of its end, perhaps more than
    /// once; the first reason is the best.
    pub fn start(
        profile: &Profile,
        accel: Accel,
        vsock: VsockWire,
        console_log: &Path,
        on_end: impl Fn(VmEnd) + Send + Sync + 'static,
    ) -> Result<Self, VmError> {
        all_readable(profile)?;
        let file = File::create(console_log).map_err(VmError::start(format!(
            "creating the console log {}",
            console_log.display()
        )))?;
        let (qmp, qmp_end) = UnixStream::pair().map_err(VmError::start("a socket pair"))?;
        let (console_stream, console_end) =
            UnixStream::pair().map_err(VmError::start("a socket pair"))?;
        let keyboard = console_stream
            .try_clone()
            .map_err(VmError::start("a second descriptor"))?;
        let mut inherit = vec![OwnedFd::from(qmp_end), OwnedFd::from(console_end)];
        let initrd =
            initrd::with_room_for_tables(profile).map_err(VmError::start("copying the initrd"))?;
        inherit.extend(initrd.map(OwnedFd::from));
        let wiring = Wiring {
            accel,
            vsock,
            qmp: child::number(&inherit[0]),
            console: child::number(&inherit[1]),
            initrd: inherit.get(2).map(child::number),
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
            // Most likely QEMU has refused an argument, which its stderr names.
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

    /// Types `text` on the serial console.
    pub fn type_console(&self, text: &str) -> io::Result<()> {
        (&self.keyboard).write_all(text.as_bytes())
    }

    /// The process id, while there is one.
    pub fn pid(&self) -> Option<i32> {
        self.keeper.pid()
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

/// Looks before QEMU does, because QEMU's message for a missing file does not say what it was for.
fn all_readable(profile: &Profile) -> Result<(), VmError> {
    if !matches!(profile.root, Some(Root::Uefi { .. })) {
        readable("kernel", &profile.kernel)?;
    }
    if let Some(root) = &profile.root {
        let (what, files) = root.files();
        for file in files {
            readable(what, file)?;
        }
    }
    for disk in &profile.disks {
        readable("disk", &disk.path)?;
    }
    Ok(())
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
