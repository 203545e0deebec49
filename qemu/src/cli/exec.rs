//! `uvm exec`: runs a process with the tool's standard streams and ends with its exit code. The
//! process is in a VM that is booted for it, or in one that runs, and perhaps in a container there.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::client::{refused, Inside, Which};
use super::owner::{power_off, OwnerOptions, Tended};
use super::{exit_code, signals, terminal, Progress, VmOptions};
use crate::control::wire::{self, Request};
use crate::control::{ControlError, Remote, Urge};
use crate::exit::start_failure;
use uvm_host::{HostError, Process};

#[derive(Debug, Args)]
pub struct Exec {
    #[command(flatten)]
    running: Running,
    #[command(flatten)]
    vm: VmOptions,
    #[command(flatten)]
    owner: OwnerOptions,
    /// Working directory [default: `/`, in a container that of its first process]
    #[arg(long)]
    cwd: Option<String>,
    /// Variables for the process, NAME=VALUE
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// The process has no standard input
    #[arg(long)]
    no_stdin: bool,
    /// The process gets this terminal
    #[arg(long, short, conflicts_with = "no_stdin")]
    terminal: bool,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "ARGS")]
    args: Vec<String>,
}

/// In a VM that runs; all options of a VM to be booted mean nothing then.
#[derive(Debug, Args)]
#[command(next_help_heading = "In a running VM")]
struct Running {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    inside: Inside,
    /// In a container: name or uid, perhaps with :group
    #[arg(long, short, value_name = "USER", requires = "container")]
    user: Option<String>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("there is no `=` in it")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Exec {
    pub fn run(mut self) -> anyhow::Result<ExitCode> {
        if self.terminal && !self.env.iter().any(|(name, _)| name == "TERM") {
            self.env.push(("TERM".into(), terminal::kind()));
        }
        match self.running.which.vm.is_some() || self.running.inside.container.is_some() {
            true => self.in_running(),
            false => self.in_own(),
        }
    }

    fn in_running(self) -> anyhow::Result<ExitCode> {
        let Running {
            which,
            inside,
            user,
        } = self.running;
        let order = wire::Exec {
            args: self.args,
            environment: self.env,
            directory: self.cwd,
            user,
            container: inside.container,
            stdin: !self.no_stdin,
            terminal: None,
        };
        let outcome = match self.terminal {
            true => relay_terminal(&which, order),
            false => which
                .connect()
                .and_then(|client| client.exec(order))
                .and_then(relay_remote),
        };
        outcome.map_or_else(refused, |code| Ok(exit_code(code)))
    }

    fn in_own(self) -> anyhow::Result<ExitCode> {
        if self.terminal {
            terminal::check()?;
        }
        let progress = Progress::new();
        let mut profile = self.vm.profile()?;
        self.owner.prepare(&mut profile)?;
        let vm = Arc::new(self.vm.boot_profile(profile, &progress)?);
        let _tended = Tended::new(&vm);
        let trace = self.vm.recorder();
        let stage = trace.stage("running the process");
        let mut launch = vm.external(&self.args);
        launch = launch.cwd(self.cwd.as_deref().unwrap_or("/"));
        if self.terminal {
            launch = launch.terminal();
        } else if !self.no_stdin {
            launch = launch.open_stdin();
        }
        for (name, value) in &self.env {
            launch = launch.env(name, value);
        }
        let process = match launch.start() {
            Ok(process) => process,
            Err(e) => {
                progress.line(&format!("uvm: {e}"));
                return Ok(start_failure(&e).into());
            }
        };
        let signal = process.signaller();
        let server = self.owner.serve("exec", &vm, Vec::new(), move |urge| {
            signal(match urge {
                Urge::Asked => libc::SIGTERM,
                Urge::Pressed => libc::SIGKILL,
            })
        })?;
        let outcome = relay(process, self.terminal, libc::SIGTERM);
        drop(stage);
        if let Err(e) = power_off(&vm, server) {
            log::warn!("{e}");
        }
        Ok(exit_code(outcome?))
    }
}

/// Runs a process of the tool's own VM to its end, on this terminal if it has one. Without a
/// terminal, it gets the first signal that the tool gets, and `stop_signal` for SIGTERM.
pub fn relay(process: Process, on_terminal: bool, stop_signal: i32) -> Result<u32, HostError> {
    if !on_terminal {
        let pass = process.signaller();
        signals::forward(move |signal| match signal {
            libc::SIGTERM => pass(stop_signal),
            other => pass(other),
        });
        return process.relay();
    }
    let resize = process.resizer();
    terminal::follow(move |rows, columns| {
        // The process may have just ended.
        if let Err(e) = resize(rows, columns) {
            log::debug!("{e}");
        }
    });
    let raw = terminal::Raw::new().map_err(|source| HostError::Io {
        doing: "making the terminal raw".into(),
        source,
    })?;
    let outcome = process.relay();
    drop(raw);
    outcome
}

/// Runs a process of a running VM to its end. It gets the first signal that the tool gets.
fn relay_remote(remote: Remote) -> Result<u32, ControlError> {
    let sender = remote.sender()?;
    signals::forward(move |signal| sender.send(&Request::Signal { signal }));
    remote.relay()
}

/// Runs a process of a running VM to its end on this terminal.
pub fn relay_terminal(which: &Which, mut order: wire::Exec) -> Result<u32, ControlError> {
    terminal::check().map_err(ControlError::Terminal)?;
    order.terminal = Some(terminal::size());
    let remote = which.connect()?.exec(order)?;
    let sender = remote.sender()?;
    terminal::follow(move |rows, columns| {
        // The process may have just ended.
        if let Err(e) = sender.send(&Request::Resize { rows, columns }) {
            log::debug!("{e}");
        }
    });
    let raw = terminal::Raw::new().map_err(ControlError::Terminal)?;
    let outcome = remote.relay();
    drop(raw);
    outcome
}
