//! What is asked of the container engine: what makes a process runs in a task; the process itself
//! becomes a child of this one, and is known by a descriptor before it can run anything.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{socketpair, AddressFamily, SockFlag, SockType};
use nix::unistd::Pid;
use serde_json::{json, Value};

use super::container::InitStreams;
use super::starting::StartingChild;
use super::streams::null_streams;
use super::tasks::{kill_named, Finished};
use super::Uvm;
use crate::engine::devices::{self, Programs};
use crate::engine::{self, Bare, Ends, Plan, Process, Told};
use crate::error::Failure;
use crate::prot::HResult;
use crate::stdio::{input_pipe, output_pipe};
use crate::sys::process::ExitStatus;

/// Under it, all that has to be opened for a container may take its time.
const ENGINE_LIMIT: Duration = Duration::from_secs(120);
/// Time to deliver a signal to every process of a container.
const SIGNAL_LIMIT: Duration = Duration::from_secs(20);

/// What containers share.
#[derive(Default)]
pub struct Engine {
    /// Made with the first container.
    bare: Option<Bare>,
    programs: Programs,
}

/// A container as the engine made it.
pub struct Engined {
    container: engine::Container,
    /// A pidfd of its init.
    init: OwnedFd,
    /// Where the init waits for its start.
    control: Option<OwnedFd>,
}

/// An init that waits to be started, with our ends of its streams.
pub struct WaitingInit {
    pub pid: Pid,
    pub streams: InitStreams,
}

/// A further process that has executed its program.
pub struct Execed {
    pub pid: Pid,
    /// The one that the engine made for it.
    pub terminal: Option<OwnedFd>,
    /// Set when it ended before its start was noticed.
    pub exit: Option<ExitStatus>,
}

/// The control group of the container `id`.
pub fn group(id: &str) -> engine::cgroup::Group {
    engine::group(&Path::new("containers").join(id))
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
        let made = init_streams(terminal).and_then(|streams| Ok((streams, control()?)));
        let ((theirs, ours), (control, waiting)) = match made {
            Ok(made) => made,
            Err(error) => {
                let text = format!("creating container {id:?}: making its streams: {error}");
                return then(self, Err(Failure::unspecified(text)));
            }
        };
        // The rules that nearly all containers have are verified once, here, in well under 1 ms.
        if let Err(error) = devices::rules(&[]).map(|usual| {
            let loaded = self.engine.programs.get(&devices::program(&usual));
            loaded.map(drop)
        }) {
            log::debug!("device rules: {error}");
        }
        let Engine { bare, programs } = &self.engine;
        let keep = bare.iter().map(AsFd::as_fd).chain(programs.descriptors());
        let name = id.to_owned();
        let job = |ends: Ends<'_>| create(&name, &bundle, bare.as_ref(), programs, ends);
        let started = engine_task(&theirs, waiting.as_fd(), keep, job);
        let name = id.to_owned();
        self.supervise(
            doing,
            ENGINE_LIMIT,
            started,
            move |uvm, finished| {
                let made = finished
                    .and_then(told)
                    .and_then(|told| uvm.note_container(&name, told, control, ours));
                then(uvm, made);
            },
            None,
        );
    }

    /// Keeps what comes with a container's init.
    fn note_container(
        &mut self,
        id: &str,
        told: Told,
        control: OwnedFd,
        pipes: Option<InitStreams>,
    ) -> Result<WaitingInit, Failure> {
        for warning in &told.warnings {
            log::warn!("container {id:?}: {warning}");
        }
        self.engine.bare = told.bare.map(Bare::from).or(self.engine.bare.take());
        let ended = || Failure::unspecified("the init of the container ended while it was set up");
        let pid = told.pid.filter(|_| told.ready).ok_or_else(ended)?;
        let streams = pipes.or(told.terminal.map(InitStreams::Terminal));
        let streams = streams.ok_or_else(|| lacks("the terminal"))?;
        let parts = told.container.zip(told.process);
        let (container, init) = parts.ok_or_else(|| lacks("the container"))?;
        if let Some(known) = self.containers.get_mut(id) {
            known.set_engined(Engined {
                container,
                init,
                control: Some(control),
            });
        }
        Ok(WaitingInit {
            pid: Pid::from_raw(pid),
            streams,
        })
    }

    /// Has the engine run a further process in the container; its pid, and the terminal if it
    /// is to have one.
    pub(super) fn exec_in_engine(
        &mut self,
        id: String,
        process: Value,
        stdio: [BorrowedFd<'_>; 3],
        then: impl FnOnce(&mut Self, Result<Execed, Failure>) + 'static,
    ) {
        let doing = format!("running a process in container {id:?}");
        let container = self
            .containers
            .get(&id)
            .and_then(|container| container.engined());
        let Some(Engined {
            container, init, ..
        }) = container
        else {
            let text = format!("{doing}: the engine has not made it");
            return then(self, Err(Failure::new(HResult::INVALID_STATE, text)));
        };
        let (control, waiting) = match control() {
            Ok(control) => control,
            Err(error) => {
                let text = format!("{doing}: making a socket: {error}");
                return then(self, Err(Failure::unspecified(text)));
            }
        };
        let keep = container.descriptors().chain([init.as_fd()]);
        let job = |ends: Ends<'_>| {
            let process = Process::parse(&process).map_err(Failure::unspecified)?;
            engine::exec(&process, container, init, ends)
        };
        let started = engine_task(&stdio, waiting.as_fd(), keep, job);
        let label = doing.clone();
        self.supervise(
            doing,
            ENGINE_LIMIT,
            started,
            move |uvm, finished| {
                let made = finished.and_then(told).and_then(|told| {
                    let ended =
                        || Failure::unspecified(format!("{label}: it ended while it was set up"));
                    let pid = told.pid.filter(|_| told.ready).ok_or_else(ended)?;
                    Ok((Pid::from_raw(pid), told.terminal))
                });
                // It is known now, so it may run.
                match made {
                    Ok((pid, terminal)) => {
                        let child = StartingChild {
                            pid,
                            exit: uvm.children.take_unclaimed(pid),
                        };
                        uvm.start_process(label, control, Some(child), move |uvm, started| {
                            let exit = started.map(|exit| Execed {
                                pid,
                                terminal,
                                exit,
                            });
                            then(uvm, exit);
                        });
                    }
                    Err(failure) => then(uvm, Err(failure)),
                }
            },
            None,
        );
    }

    /// Lets the program of a waiting init run.
    pub(super) fn start_in_engine(
        &mut self,
        id: &str,
        then: impl FnOnce(&mut Self, Result<(), Failure>) + 'static,
    ) {
        let label = format!("starting container {id:?}");
        let container = self.containers.get_mut(id);
        let control = container.and_then(|container| container.take_control());
        let Some(control) = control else {
            let text = format!("{label}: it was started before, or its init is gone");
            return then(self, Err(Failure::new(HResult::INVALID_STATE, text)));
        };
        // The init has an owner since its creation, so its exit goes there.
        self.start_process(label, control, None, |uvm, started| {
            then(uvm, started.map(drop));
        });
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
        let job = move || group(&id).signal_all(signal);
        self.run(doing, SIGNAL_LIMIT, job, then);
    }
}

impl Engined {
    /// The end by which the init is started, once.
    pub fn take_control(&mut self) -> Option<OwnedFd> {
        self.control.take()
    }
}

/// In a task.
fn create(
    id: &str,
    bundle: &Path,
    bare: Option<&Bare>,
    programs: &Programs,
    ends: Ends<'_>,
) -> Result<(), Failure> {
    let path = bundle.join("config.json");
    let unusable =
        |why: &dyn std::fmt::Display| Failure::unspecified(format!("{}: {why}", path.display()));
    let text = fs::read(&path).map_err(|error| unusable(&error))?;
    let spec: Value = serde_json::from_slice(&text).map_err(|error| unusable(&error))?;
    let plan = Plan::of(&spec, bundle, id).map_err(|why| unusable(&why))?;
    let state = match plan.hooks.is_empty() {
        true => Value::Null,
        false => json!({
            "ociVersion": spec["ociVersion"], "id": id, "status": "creating",
            "bundle": bundle, "annotations": spec["annotations"],
        }),
    };
    engine::create(&plan, bare, programs, &state, ends)
}

/// Runs `job` in a task that may make a process.
fn engine_task<'a>(
    stdio: &'a [impl AsFd; 3],
    control: BorrowedFd<'a>,
    keep: impl Iterator<Item = BorrowedFd<'a>>,
    job: impl FnOnce(Ends<'_>) -> Result<(), Failure>,
) -> std::io::Result<crate::task::Running> {
    let stdio = stdio.each_ref().map(AsFd::as_fd);
    let keep: Vec<_> = keep.chain(stdio).chain([control]).collect();
    crate::task::maker(&keep, |channel| {
        let ends = Ends {
            stdio,
            channel,
            control,
        };
        job(ends)
            .map_err(|failure| engine::report_failure(channel, &failure))
            .is_ok()
    })
}

/// What the engine told. A process that was made although something failed dies.
fn told(finished: Finished) -> Result<Told, Failure> {
    let mut told = Told::read(&finished.bytes, finished.fds)?;
    match told.failure.take() {
        None if told.pid.is_some() => Ok(told),
        None => Err(Failure::unspecified(
            "the container engine ended and told nothing",
        )),
        Some(failure) => {
            kill_named(told.process.as_slice());
            Err(failure)
        }
    }
}

fn lacks(what: &str) -> Failure {
    Failure::unspecified(format!("the engine's report lacks {what}"))
}

/// Our end, which does not block, and that of an init.
fn control() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let pair = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    crate::sys::channel::set_nonblocking(pair.0.as_fd(), true)?;
    Ok(pair)
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
