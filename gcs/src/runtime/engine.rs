//! The helper process `gcs-oci`: one order, one report, exit.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::sched::{setns, CloneFlags};
use nix::sys::socket::AddressFamily;
use nix::unistd::mkfifo;
use serde_json::Value;

use super::console::{own_stdio, Console};
use super::executor::Program;
use super::state::{self, failed, Init};
use super::trace::Trace;
use super::{cgroup, devices, normal, Order, Report, Roots, ORDER_FD, REPORT_FD, REPORT_MAX};
use crate::error::Failure;
use crate::prot::HResult;
use crate::sys::{bpf, channel, fds, loopback, pidfd, root};

/// What an order came to: the new process and its terminal.
#[derive(Default)]
struct Outcome {
    pid: Option<i32>,
    master: Option<OwnedFd>,
}

/// The whole life of the helper. Exits 0 when the report was sent, whatever it says.
pub fn applet() -> ! {
    // First of all, while the numbers are still what the parent made them.
    let (order, socket) = match (fds::inherited(ORDER_FD), fds::inherited(REPORT_FD)) {
        (Ok(order), Ok(socket)) => (order, socket),
        (order, socket) => {
            eprintln!(
                "{}: fds 3 and 4 are not open: {order:?}, {socket:?}",
                super::APPLET
            );
            std::process::exit(2);
        }
    };
    // What the container's stderr must never show.
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = std::panic::catch_unwind(|| serve(File::from(order)))
        .unwrap_or_else(|_| Err(Failure::unspecified("the container engine panicked")));
    let (report, master) = match outcome {
        Ok(done) => (Report::Done { pid: done.pid }, done.master),
        Err(failure) => (Report::Failed(failure), None),
    };
    std::process::exit(match send(&socket, &report, master.as_ref()) {
        Ok(()) => 0,
        Err(_) => 2,
    });
}

fn serve(order: File) -> Result<Outcome, Failure> {
    let order = read(order)?;
    let roots = roots();
    let trace = Trace::install();
    match order {
        Order::Create {
            id,
            bundle,
            terminal,
        } => create(&roots, &trace, &id, &bundle, terminal)
            .map_err(|f| f.during(format_args!("create container {id}"))),
        Order::Exec {
            id,
            process,
            terminal,
        } => exec(&roots, &trace, &id, &process, terminal)
            .map_err(|f| f.during(format_args!("run a process in container {id}"))),
        Order::Delete { id } => roots.delete(&id).map(|()| Outcome::default()),
    }
}

/// Tests move the state; in the UVM the helper's environment has nothing but PATH.
fn roots() -> Roots {
    let mut roots = Roots::default();
    if let Some(state) = std::env::var_os("GCS_RUNTIME_STATE") {
        roots.state = PathBuf::from(state);
    }
    roots
}

fn read(mut file: File) -> Result<Order, Failure> {
    let mut text = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut text))
        .map_err(|e| Failure::unspecified(format!("read the order: {e}")))?;
    serde_json::from_slice(&text)
        .map_err(|e| Failure::unspecified(format!("decode the order: {e}")))
}

fn send(socket: &OwnedFd, report: &Report, master: Option<&OwnedFd>) -> Result<(), Failure> {
    let encode = |report: &Report| {
        serde_json::to_vec(report).map_err(|e| Failure::unspecified(format!("encode report: {e}")))
    };
    let mut text = encode(report)?;
    if let (Report::Failed(failure), true) = (report, text.len() > REPORT_MAX) {
        // Escapes can double the length; cut at a character.
        let keep: String = failure.message.chars().take(REPORT_MAX / 8).collect();
        text = encode(&Report::Failed(Failure::new(failure.code, keep + " ...")))?;
    }
    channel::send(socket.as_fd(), &text, master.map(AsFd::as_fd))
        .map_err(|e| Failure::unspecified(format!("send report: {}", e.desc())))
}

fn create(
    roots: &Roots,
    trace: &Trace,
    id: &str,
    bundle: &Path,
    terminal: bool,
) -> Result<Outcome, Failure> {
    let dir = roots.container(id);
    fs::create_dir_all(&roots.state).map_err(|e| failed("make", &roots.state, &e))?;
    fs::create_dir(&dir).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::new(
            HResult::SYSTEM_ALREADY_EXISTS,
            "a container with this id exists in the runtime",
        ),
        _ => failed("make", &dir, &e),
    })?;
    // From here on every failure takes back all that was made.
    build(roots, trace, id, bundle, terminal, &dir).inspect_err(|_| {
        if let Err(e) = roots.purge(id) {
            log::error!("clean up after a failed create of {id}: {e}");
        }
    })
}

fn build(
    roots: &Roots,
    trace: &Trace,
    id: &str,
    bundle: &Path,
    terminal: bool,
    dir: &Path,
) -> Result<Outcome, Failure> {
    let source = bundle.join("config.json");
    let spec: Value = read_json(&source)?;
    let cgroups = normal::Cgroups {
        mount: &roots.cgroup,
        hierarchies: &cgroup::hierarchies(&roots.cgroup),
    };
    let config = normal::container(&spec, bundle, &cgroups)
        .map_err(|why| Failure::unspecified(format!("{}: {why}", source.display())))?;
    let root = Path::new(config["root"]["path"].as_str().unwrap_or_default());
    fs::read_dir(root).map_err(|e| failed("open the root file system", root, &e))?;
    let filter = normal::filter(&config).map_err(Failure::unspecified)?;
    write_json(&dir.join(state::CONFIG), &config)?;
    own_stdio(&config["process"], &config["linux"])?;

    let fifo = dir.join(state::FIFO);
    mkfifo(
        &fifo,
        nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR,
    )
    .map_err(|e| failed("make", &fifo, &e.into()))?;
    // Both ways, for a write-only open would wait for a reader.
    let failure = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&fifo)
        .map_err(|e| failed("open", &fifo, &e))?;

    let console = terminal.then(|| Console::listen(dir)).transpose()?;
    root::pivotable().map_err(|e| {
        Failure::unspecified(format!("make a mount namespace that can be pivoted: {e}"))
    })?;

    let builder = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_executor(Program::new(Some(Rc::new(failure)), filter))
        .with_console_socket(console.as_ref().map(|c| &c.path))
        .with_root_path(dir)
        .map_err(|e| trace.failure(&e))?;
    let container = builder
        .as_init(dir)
        .with_systemd(false)
        .build()
        .map_err(|e| {
            explain(
                trace.failure(&e),
                &config["process"],
                &config["linux"]["sysctl"],
            )
        })?;
    let pid = container
        .pid()
        .ok_or_else(|| Failure::unspecified("the engine gave no pid"))?
        .as_raw();
    Init::record(pid, dir)?;
    // Init waits for its start: nothing of the user's has run without the rules.
    restrict_devices(roots, id, &config)?;
    raise_loopback(pid, &config["linux"])?;
    let master = console
        .map(|console| console.master(&config["process"]))
        .transpose()?;
    Ok(Outcome {
        pid: Some(pid),
        master,
    })
}

/// Names what the engine only alludes to.
fn explain(mut failure: Failure, process: &Value, sysctl: &Value) -> Failure {
    if failure.message.contains("chdir") {
        failure.message += &format!(": process.cwd is {}", process["cwd"]);
    }
    if failure.message.contains("procfs") && !sysctl.is_null() {
        failure.message += &format!(": linux.sysctl is {sysctl}");
    }
    failure
}

/// v1 was given the rules by the engine; v2 wants a program.
fn restrict_devices(roots: &Roots, id: &str, config: &Value) -> Result<(), Failure> {
    let group = roots.cgroup(id);
    let Some(dir) = group.unified() else {
        return Ok(());
    };
    let rules = config["linux"]["resources"]["devices"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let program = devices::parse(rules)
        .and_then(|rules| devices::program(&rules))
        .map_err(Failure::unspecified)?;
    let group = File::open(dir).map_err(|e| failed("open", dir, &e))?;
    bpf::load_device_program(&program)
        .and_then(|program| bpf::attach_device_program(group.as_fd(), program.as_fd()))
        .map_err(|e| {
            Failure::unspecified(format!("attach the device rules to {}: {e}", dir.display()))
        })
}

/// A new network namespace begins with its loopback down; one that is joined is its owner's.
/// The helper enters it for good: its work is done, and it needs no network.
fn raise_loopback(init: i32, linux: &Value) -> Result<(), Failure> {
    let namespaces = linux["namespaces"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let new = |n: &Value| n["type"] == "network" && n["path"].as_str().unwrap_or("").is_empty();
    if !namespaces.iter().any(new) {
        return Ok(());
    }
    let path = PathBuf::from(format!("/proc/{init}/ns/net"));
    let namespace = File::open(&path).map_err(|e| failed("open", &path, &e))?;
    setns(namespace, CloneFlags::CLONE_NEWNET)
        .and_then(|()| loopback::up(AddressFamily::Inet))
        .map_err(|e| failed("bring up the loopback in", &path, &e.into()))
}

fn exec(
    roots: &Roots,
    trace: &Trace,
    id: &str,
    process: &Value,
    terminal: bool,
) -> Result<Outcome, Failure> {
    let dir = roots.container(id);
    let init = Init::load(&dir).ok_or_else(|| {
        Failure::new(
            HResult::SYSTEM_NOT_FOUND,
            format!("container {id} does not exist"),
        )
    })?;
    if !init.runs() {
        return Err(Failure::unspecified("its init process has exited"));
    }
    let config: Value = read_json(&dir.join(state::CONFIG))?;
    let process = normal::exec(process, &config).map_err(Failure::unspecified)?;
    let filter = normal::filter(&config).map_err(Failure::unspecified)?;
    own_stdio(&process, &config["linux"])?;

    // The engine leaves a socket behind for every exec, and runs them in started
    // containers only: each gets a state directory of its own that says "running".
    let own = Scratch::new(dir.join(format!("exec-{}", std::process::id())))?;
    let state_dir = own.0.join(id);
    fs::create_dir(&state_dir).map_err(|e| failed("make", &state_dir, &e))?;
    let mut state: Value = read_json(&dir.join(id).join("state.json"))?;
    state["status"] = "running".into();
    write_json(&state_dir.join("state.json"), &state)?;
    let process_file = own.0.join("process.json");
    write_json(&process_file, &process)?;
    let console = terminal.then(|| Console::listen(&own.0)).transpose()?;

    let pid = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_executor(Program::new(None, filter))
        .with_console_socket(console.as_ref().map(|c| &c.path))
        .with_root_path(&own.0)
        .map_err(|e| trace.failure(&e))?
        .as_tenant()
        .with_detach(true)
        .with_process(Some(process_file))
        .build()
        .map_err(|e| explain(trace.failure(&e), &process, &Value::Null))?
        .as_raw();
    let master = console.map(|console| console.master(&process)).transpose();
    let master = master.inspect_err(|_| {
        // Nobody would know of the process that runs without its terminal.
        pidfd::kill(pid, libc::SIGKILL).ok();
    })?;
    Ok(Outcome {
        pid: Some(pid),
        master,
    })
}

/// A directory that goes with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new(path: PathBuf) -> Result<Self, Failure> {
        fs::create_dir(&path).map_err(|e| failed("make", &path, &e))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.0) {
            log::warn!("remove {}: {e}", self.0.display());
        }
    }
}

fn read_json(path: &Path) -> Result<Value, Failure> {
    let text = fs::read(path).map_err(|e| failed("read", path, &e))?;
    serde_json::from_slice(&text)
        .map_err(|e| Failure::unspecified(format!("decode {}: {e}", path.display())))
}

fn write_json(path: &Path, value: &Value) -> Result<(), Failure> {
    let text = serde_json::to_vec(value)
        .map_err(|e| Failure::unspecified(format!("encode {}: {e}", path.display())))?;
    fs::write(path, text).map_err(|e| failed("write", path, &e))
}
