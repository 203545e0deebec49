//! Calls of the container engine, each in a process of its own, and their results.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::Pid;
use serde_json::Value;

use super::containers::InitStreams;
use super::streams::null_streams;
use super::tasks::kill_named;
use super::Uvm;
use crate::error::Failure;
use crate::runtime::{self, Order, Report};
use crate::stdio::{input_pipe, output_pipe};

const ENGINE_LIMIT: Duration = Duration::from_secs(120);
/// Longer than the engine's own limit, whose error says more.
const START_LIMIT: Duration = Duration::from_secs(70);
/// Time to deliver a signal to every process of a container.
const SIGNAL_LIMIT: Duration = Duration::from_secs(20);

/// An init that waits to be started, with the service's ends of its streams.
pub struct WaitingInit {
    pub pid: Pid,
    pub streams: InitStreams,
}

impl Uvm {
    /// Has the engine make the container up to the point where its init waits. Its streams are
    /// pipes, or a terminal that the engine makes.
    pub(super) fn create_in_engine(
        &mut self,
        id: &str,
        bundle: PathBuf,
        terminal: bool,
        then: impl FnOnce(&mut Self, Result<WaitingInit, Failure>) + 'static,
    ) {
        let doing = format!("creating container {id:?} in the engine");
        let (theirs, ours) = match init_streams(terminal) {
            Ok(streams) => streams,
            Err(error) => {
                let text = format!("creating container {id:?}: making its streams: {error}");
                return then(self, Err(Failure::unspecified(text)));
            }
        };
        let order = Order::Create {
            id: id.to_owned(),
            bundle,
            terminal,
        };
        let stdio = theirs.each_ref().map(AsFd::as_fd);
        self.run_engine(doing, &order, stdio, move |uvm, reported| {
            let made = reported.and_then(|(pid, fds)| {
                let terminal = || fds.into_iter().next().map(InitStreams::Terminal);
                let streams = ours.or_else(terminal);
                let streams = streams.ok_or_else(|| lacks("the terminal"))?;
                Ok(WaitingInit { pid, streams })
            });
            then(uvm, made);
        });
    }

    /// Has the engine run an exec in the container. `then` gets its pid, and its terminal if it has
    /// one.
    pub(super) fn exec_in_engine(
        &mut self,
        id: String,
        process: Value,
        terminal: bool,
        stdio: [BorrowedFd<'_>; 3],
        then: impl FnOnce(&mut Self, Result<(Pid, Option<OwnedFd>), Failure>) + 'static,
    ) {
        let doing = format!("running a process in container {id:?}");
        let order = Order::Exec {
            id,
            process,
            terminal,
        };
        self.run_engine(doing, &order, stdio, move |uvm, reported| {
            then(uvm, reported.map(|(pid, mut fds)| (pid, fds.pop())));
        });
    }

    fn run_engine(
        &mut self,
        doing: String,
        order: &Order,
        stdio: [BorrowedFd<'_>; 3],
        then: impl FnOnce(&mut Self, Result<(Pid, Vec<OwnedFd>), Failure>) + 'static,
    ) {
        let applet = runtime::APPLET;
        let reported = move |uvm: &mut Self, report: Result<(Report, Vec<OwnedFd>), Failure>| {
            let made = report.and_then(|(report, fds)| match report {
                Report::Done { pid: Some(pid) } => Ok((Pid::from_raw(pid), fds)),
                Report::Done { pid: None } => Err(lacks("the pid")),
                Report::Failed(failure) => {
                    // The process may exist already and wait for the engine.
                    kill_named(&fds);
                    Err(failure)
                }
            });
            then(uvm, made);
        };
        self.run_helper(applet, doing, ENGINE_LIMIT, order, stdio, reported);
    }

    /// Lets the program of a waiting init run.
    pub(super) fn start_in_engine(
        &mut self,
        id: &str,
        then: impl FnOnce(&mut Self, Result<(), Failure>) + 'static,
    ) {
        let (doing, id) = (format!("starting container {id:?}"), id.to_owned());
        self.run(doing, START_LIMIT, move || runtime::start(&id), then);
    }

    /// Sends a signal to all processes of a container.
    pub(super) fn signal_all(
        &mut self,
        doing: String,
        id: &str,
        signal: i32,
        then: impl FnOnce(&mut Self, Result<(), Failure>) + 'static,
    ) {
        let id = id.to_owned();
        let job = move || runtime::signal_all(&id, signal);
        self.run(doing, SIGNAL_LIMIT, job, then);
    }
}

fn lacks(what: &str) -> Failure {
    Failure::unspecified(format!("the engine's report lacks {what}"))
}

/// The engine's ends of an init's streams and, unless it has a terminal, the relay's, which do
/// not block.
fn init_streams(terminal: bool) -> std::io::Result<([OwnedFd; 3], Option<InitStreams>)> {
    if terminal {
        return Ok((null_streams()?, None));
    }
    let (in_read, in_write) = input_pipe()?;
    let (out_read, out_write) = output_pipe()?;
    let (err_read, err_write) = output_pipe()?;
    let ours = InitStreams::Pipes {
        stdin: in_write,
        stdout: out_read,
        stderr: err_read,
    };
    Ok(([in_read, out_write, err_write], Some(ours)))
}
