//! A process for a client: it is started here, its streams are handed over, and its exit is
//! reported.
//!
//! When a client goes away, its process is killed, because nobody would learn of its end.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::server::Owner;
use super::wire::{Channel, Exec, Reply, Request, Sender};
use crate::exit::start_failure;
use uvm_host::{HostError, Launch, Process};

/// A killed process ends at once, unless a sick disk holds it.
const KILLED_LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_secs(1);

/// Starts it, or says why not.
pub(super) fn start(owner: &Owner, order: Exec) -> Result<Process, Reply> {
    let terminal = order.terminal;
    let launch = launch(owner, order).map_err(|message| Reply::Failed {
        message,
        code: None,
    })?;
    let process = launch.start().map_err(|e| Reply::Failed {
        message: e.to_string(),
        code: Some(start_failure(&e)),
    })?;
    if let Some((rows, columns)) = terminal {
        // The terminal then keeps the size that it has.
        if let Err(e) = process.resize(rows, columns) {
            log::debug!("{e}");
        }
    }
    Ok(process)
}

fn launch(owner: &Owner, order: Exec) -> Result<Launch, String> {
    let mut launch = match &order.container {
        None => {
            if order.user.is_some() {
                return Err(
                    "processes of the VM itself are root's: --user needs --container".into(),
                );
            }
            let launch = owner.vm.external(&order.args);
            let launch = launch.cwd(order.directory.as_deref().unwrap_or("/"));
            let variables = order.environment.iter();
            variables.fold(launch, |launch, (name, value)| launch.env(name, value))
        }
        Some(id) => {
            let known = owner.container(id)?;
            let mut process = known.process.clone();
            process["args"] = json!(order.args);
            process["terminal"] = order.terminal.is_some().into();
            if let Some(directory) = &order.directory {
                process["cwd"] = directory.as_str().into();
            }
            if let Some(user) = &order.user {
                process["user"] = uvm_images::user_of(user);
            }
            if let Some(env) = process["env"].as_array_mut() {
                for (name, value) in &order.environment {
                    let begin = format!("{name}=");
                    env.retain(|e| !e.as_str().is_some_and(|e| e.starts_with(&begin)));
                    env.push(format!("{name}={value}").into());
                }
            }
            owner.vm.exec(&known.id, &process)
        }
    };
    if order.terminal.is_some() {
        launch = match order.container {
            None => launch.terminal(),
            Some(_) => launch.open_stdin().without_stderr(),
        };
    } else if order.stdin {
        launch = launch.open_stdin();
    }
    Ok(launch)
}

/// Hands the streams over, does what the client asks for, and reports the exit.
pub(super) fn attend(mut process: Process, mut channel: Channel) {
    let stdio = std::mem::take(&mut process.stdio);
    let streams = [stdio.stdin, stdio.stdout, stdio.stderr];
    let there = [0, 1, 2].map(|at: usize| streams[at].is_some());
    let descriptors: Vec<_> = streams.iter().flatten().map(AsFd::as_fd).collect();
    let started = Reply::Started {
        pid: process.pid,
        streams: there,
    };
    let sender = channel
        .send_with(&started, &descriptors)
        .and_then(|()| channel.sender());
    drop(descriptors);
    drop(streams);
    let sender = match sender {
        Ok(sender) => sender,
        Err(e) => {
            log::debug!("a client left before its process ran: {e}");
            return kill(&process);
        }
    };
    let (signaller, resizer) = (process.signaller(), process.resizer());
    let (gone, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| report(process, &sender, &gone, &ended));
        while let Ok(Some(request)) = channel.receive(None) {
            let done = match request {
                Request::Signal { signal } => signaller(signal),
                Request::Resize { rows, columns } => resizer(rows, columns),
                other => {
                    log::debug!("{other:?} in the middle of a process");
                    Ok(())
                }
            };
            // It may have ended just now.
            if let Err(e) = done {
                log::debug!("{e}");
            }
        }
        gone.store(true, Ordering::SeqCst);
        if !ended.load(Ordering::SeqCst) {
            if let Err(e) = signaller(libc::SIGKILL) {
                log::debug!("ending a process without a client: {e}");
            }
        }
    });
}

/// Waits for the exit, and ends the reading of the client's requests after it.
fn report(mut process: Process, sender: &Sender, gone: &AtomicBool, ended: &AtomicBool) {
    let mut deadline = None;
    let reply = loop {
        match process.wait(LOOK) {
            Ok(code) => break Reply::Exited { code },
            Err(HostError::Timeout { .. }) => {}
            Err(e) => {
                break Reply::Failed {
                    message: e.to_string(),
                    code: None,
                }
            }
        }
        if gone.load(Ordering::SeqCst) {
            match deadline {
                None => deadline = Some(Instant::now() + KILLED_LIMIT),
                Some(deadline) if Instant::now() >= deadline => {
                    return log::warn!("process {} does not end", process.pid);
                }
                Some(_) => {}
            }
        }
    };
    ended.store(true, Ordering::SeqCst);
    if let Err(e) = sender.send(&reply) {
        log::debug!("a client left before its process ended: {e}");
    }
    sender.end_reading();
}

fn kill(process: &Process) {
    if let Err(e) = process.signal(libc::SIGKILL) {
        log::debug!("{e}");
    }
}
