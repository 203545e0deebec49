//! The commands.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{anyhow, bail, Context, Result};
use clap::{Args, Subcommand};
use gcs::engine::devices::Programs;
use gcs::engine::{self, Container, Plan, Process};
use gcs::sys::pidfd;
use serde_json::{json, Value};

use crate::record::{Draft, Record};
use crate::task;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a container, whose program waits for `start`
    Create {
        #[command(flatten)]
        new: New,
        id: String,
    },
    /// Let the program of a created container run
    Start { id: String },
    /// Print the state of a container
    State { id: String },
    /// Send a signal to the first process of a container
    Kill {
        /// To all of its processes
        #[arg(short, long)]
        all: bool,
        id: String,
        #[arg(default_value = "SIGTERM")]
        signal: String,
    },
    /// Remove a container that has stopped
    Delete {
        /// Also one that runs, and one that is not there
        #[arg(short, long)]
        force: bool,
        id: String,
    },
    /// Run a process in a container
    Exec(Exec),
    /// Create and start a container, wait for it and delete it
    Run {
        #[command(flatten)]
        new: New,
        /// Do not wait
        #[arg(short, long)]
        detach: bool,
        /// Do not delete it afterwards
        #[arg(long)]
        keep: bool,
        id: String,
    },
    /// Print the containers
    List {
        #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
        format: String,
        /// Ids only
        #[arg(short, long)]
        quiet: bool,
    },
    /// Print the processes of a container, as numbers of this machine
    Ps {
        #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
        format: String,
        id: String,
    },
    /// Print what the engine can do
    Features,
}

#[derive(Debug, Args)]
pub struct New {
    /// The directory with config.json
    #[arg(short, long, default_value = ".", value_name = "DIR")]
    bundle: PathBuf,
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// The Unix socket that takes the terminal
    #[arg(long, value_name = "PATH")]
    console_socket: Option<PathBuf>,
    /// Accepted: the root is never pivoted to, it is mounted where the new namespace begins
    #[arg(long)]
    no_pivot: bool,
    /// Accepted: a container has a keyring of its own
    #[arg(long)]
    no_new_keyring: bool,
    /// Refused unless 0: a process has its standard streams and nothing else
    #[arg(long, default_value_t = 0, value_name = "N")]
    preserve_fds: u32,
}

#[derive(Debug, Args)]
pub struct Exec {
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    #[arg(long, value_name = "PATH")]
    console_socket: Option<PathBuf>,
    /// Do not wait
    #[arg(short, long)]
    detach: bool,
    #[arg(short, long)]
    tty: bool,
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// UID or UID:GID
    #[arg(short, long)]
    user: Option<String>,
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// The process as an OCI object, instead of flags and words
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    #[arg(long, default_value_t = 0, value_name = "N")]
    preserve_fds: u32,
    id: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

impl Command {
    pub fn run(self, root: &Path) -> Result<ExitCode> {
        match self {
            Self::Create { new, id } => create(root, &new, &id).map(drop)?,
            Self::Start { id } => Record::load(root, &id)?.start()?,
            Self::State { id } => println!("{:#}", Record::load(root, &id)?.state()),
            Self::Kill { all, id, signal } => kill(&Record::load(root, &id)?, all, &signal)?,
            Self::Delete { force, id } => delete(root, &id, force)?,
            Self::Exec(exec) => return exec.run(root),
            Self::Run {
                new,
                detach,
                keep,
                id,
            } => return run(root, &new, detach, keep, &id),
            Self::List { format, quiet } => list(&Record::all(root), &format, quiet),
            Self::Ps { format, id } => {
                let pids = group(&Record::load(root, &id)?)?.pids().map_err(said)?;
                match format.as_str() {
                    "json" => println!("{}", json!(pids)),
                    _ => pids.iter().for_each(|pid| println!("{pid}")),
                }
            }
            Self::Features => println!("{:#}", features()),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn said(failure: gcs::error::Failure) -> anyhow::Error {
    anyhow!(failure.message)
}

fn no_descriptors(count: u32) -> Result<()> {
    if count > 0 {
        bail!("--preserve-fds {count}: a process has its standard streams and nothing else");
    }
    Ok(())
}

fn plan(record: &Record) -> Result<Plan> {
    Plan::of(&record.spec()?, &record.bundle, &record.id).map_err(|why| anyhow!(why))
}

fn group(record: &Record) -> Result<engine::cgroup::Group> {
    Ok(engine::group(&plan(record)?.group.path))
}

fn create(root: &Path, new: &New, id: &str) -> Result<Record> {
    no_descriptors(new.preserve_fds)?;
    let bundle = new.bundle.canonicalize();
    let bundle = bundle.with_context(|| format!("open the bundle {}", new.bundle.display()))?;
    let config = bundle.join("config.json");
    let text = fs::read(&config).with_context(|| format!("read {}", config.display()))?;
    let spec: Value =
        serde_json::from_slice(&text).with_context(|| format!("decode {}", config.display()))?;
    let plan = Plan::of(&spec, &bundle, id).map_err(|why| anyhow!(why))?;
    if plan.process.terminal != new.console_socket.is_some() {
        bail!("process.terminal and --console-socket are both given, or neither is");
    }
    let draft = Draft::new(root, id)?;
    let fifo = draft.fifo()?;
    let state = json!({"ociVersion": "1.2.0", "id": id, "status": "creating", "bundle": bundle});
    let made = task::run(fifo.as_fd(), &[], |ends| {
        engine::create(&plan, None, &Programs::default(), &state, ends)
    });
    let kept = made.and_then(|told| {
        let pid = told.pid.filter(|_| told.ready);
        let pid = pid.context("the container's process ended and said nothing")?;
        told.warnings
            .iter()
            .for_each(|text| eprintln!("oci-runtime: {text}"));
        if let (Some(socket), Some(master)) = (&new.console_socket, &told.terminal) {
            task::give_terminal(socket, master)?;
        }
        if let Some(path) = &new.pid_file {
            task::write_pid(path, pid)?;
        }
        draft.keep(id, &bundle, pid, &spec)
    });
    kept.inspect_err(|_| {
        if let Err(failure) = engine::group(&plan.group.path).destroy() {
            eprintln!("oci-runtime: {}", failure.message);
        }
    })
}

fn run(root: &Path, new: &New, detach: bool, keep: bool, id: &str) -> Result<ExitCode> {
    let record = create(root, new, id)?;
    if let Err(error) = record.start() {
        delete(root, id, true)?;
        return Err(error);
    }
    if detach {
        return Ok(ExitCode::SUCCESS);
    }
    let code = task::wait(record.pid)?;
    if !keep {
        delete(root, id, true)?;
    }
    Ok(ExitCode::from(code))
}

/// A name with or without SIG, or a number.
fn number_of(signal: &str) -> Result<i32> {
    if let Ok(number) = signal.parse() {
        return Ok(number);
    }
    let upper = signal.to_uppercase();
    let name = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    let known: Result<nix::sys::signal::Signal, _> = name.parse();
    known
        .map(|signal| signal as i32)
        .map_err(|_| anyhow!("unknown signal {signal:?}"))
}

fn kill(record: &Record, all: bool, signal: &str) -> Result<()> {
    let number = number_of(signal)?;
    if all {
        return group(record)?.signal_all(number).map_err(said);
    }
    if record.status() == "stopped" {
        // The words that managers look for.
        bail!("container not running");
    }
    pidfd::kill(record.pid, number).context("send the signal")
}

fn delete(root: &Path, id: &str, force: bool) -> Result<()> {
    let record = match Record::load(root, id) {
        Err(_) if force => return Ok(()),
        record => record?,
    };
    let status = record.status();
    if !force && status != "stopped" {
        bail!("cannot delete container {id} that is not stopped: {status}");
    }
    group(&record)?.destroy().map_err(said)?;
    record.forget()
}

impl Exec {
    fn run(&self, root: &Path) -> Result<ExitCode> {
        no_descriptors(self.preserve_fds)?;
        let record = Record::load(root, &self.id)?;
        if record.status() == "stopped" {
            bail!("cannot exec in a stopped container");
        }
        let process = Process::parse(&self.process(&record)?).map_err(|why| anyhow!(why))?;
        if process.terminal && self.console_socket.is_none() {
            bail!("a terminal needs --console-socket, whose listener relays it");
        }
        let init = pidfd::open(record.pid)?.context("its first process has exited")?;
        let container = Container::of(&plan(&record)?).map_err(said)?;
        let also: Vec<_> = container.descriptors().chain([init.as_fd()]).collect();
        let (mut own, theirs) = UnixStream::pair()?;
        let told = task::run(theirs.as_fd(), &also, |ends| {
            engine::exec(&process, &container, &init, ends)
        })?;
        drop(theirs);
        let pid = told.pid.filter(|_| told.ready);
        let pid = pid.context("the process ended and said nothing")?;
        if let (Some(socket), Some(master)) = (&self.console_socket, &told.terminal) {
            task::give_terminal(socket, master)?;
        }
        if let Some(path) = &self.pid_file {
            task::write_pid(path, pid)?;
        }
        own.write_all(b"s")?;
        let mut why = String::new();
        own.read_to_string(&mut why)?;
        if !why.is_empty() {
            task::wait(pid)?;
            bail!("{why}");
        }
        if self.detach {
            return Ok(ExitCode::SUCCESS);
        }
        task::wait(pid).map(ExitCode::from)
    }

    /// The container's own process with what the flags say.
    fn process(&self, record: &Record) -> Result<Value> {
        if let Some(path) = &self.process {
            let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
            return serde_json::from_slice(&text)
                .with_context(|| format!("decode {}", path.display()));
        }
        if self.args.is_empty() {
            bail!("exec needs a program");
        }
        let mut process = record.spec()?["process"].take();
        process["args"] = json!(self.args);
        process["terminal"] = json!(self.tty);
        if let Some(cwd) = &self.cwd {
            process["cwd"] = json!(cwd);
        }
        if let Some(user) = &self.user {
            let (uid, gid) = user.split_once(':').unwrap_or((user, "0"));
            let number = |text: &str| {
                text.parse::<u32>()
                    .with_context(|| format!("user {user:?}"))
            };
            process["user"] = json!({"uid": number(uid)?, "gid": number(gid)?});
        }
        if let (Some(env), false) = (process["env"].as_array_mut(), self.env.is_empty()) {
            env.extend(self.env.iter().map(|entry| json!(entry)));
        }
        Ok(process)
    }
}

fn list(records: &[Record], format: &str, quiet: bool) {
    if format == "json" {
        let states: Vec<_> = records.iter().map(Record::state).collect();
        println!("{}", json!(states));
        return;
    }
    if !quiet {
        println!("{:<24} {:<10} {:<10} BUNDLE", "ID", "PID", "STATUS");
    }
    for record in records {
        match quiet {
            true => println!("{}", record.id),
            false => {
                let (status, bundle) = (record.status(), record.bundle.display());
                println!("{:<24} {:<10} {status:<10} {bundle}", record.id, record.pid);
            }
        }
    }
}

/// runtime-spec, features.md.
fn features() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.0",
        "hooks": ["prestart", "createRuntime"],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "uts"],
            "capabilities": engine::plan::capability_names(),
            "cgroup": {"v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": false},
            "seccomp": {
                "enabled": true,
                "actions": ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"],
                "operators": ["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                    "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"],
                "archs": ["SCMP_ARCH_X86_64"],
                "knownFlags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"],
            },
            "apparmor": {"enabled": false},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": false},
        },
    })
}
