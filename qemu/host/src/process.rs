//! Processes in the guest: started with streams, waited for, signalled.

use std::time::Duration;

use serde_json::{json, Map, Value};

use crate::bridge::Pending;
use crate::end::HostError;
use crate::host::Host;
use crate::pump::{self, Drained, Stdio};
use crate::requests::{RPC_LIMIT, UVM_ID};
use crate::wire::Rpc;

/// The dials precede the answer, so a stream is there or about to be.
const STREAM_LIMIT: Duration = Duration::from_secs(30);
/// For processes of the VM itself (protocol 11.4).
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A process about to be started. Standard output and error are connected unless declined,
/// standard input only when asked for.
#[must_use]
pub struct Launch {
    host: Host,
    container: String,
    parameters: Map<String, Value>,
    stdin: bool,
    input: Vec<u8>,
    stdout: bool,
    stderr: bool,
    limit: Duration,
}

impl Host {
    fn launch(&self, container: &str, parameters: Value) -> Launch {
        let parameters = match parameters {
            Value::Object(members) => members,
            _ => Map::new(),
        };
        Launch {
            host: self.clone(),
            container: container.to_owned(),
            parameters,
            stdin: false,
            input: Vec::new(),
            stdout: true,
            stderr: true,
            limit: RPC_LIMIT,
        }
    }

    /// A process of the VM itself, by its program and arguments.
    pub fn external<S: AsRef<str>>(&self, args: &[S]) -> Launch {
        let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
        self.launch(
            UVM_ID,
            json!({
            "CommandArgs": args, "WorkingDirectory": "/",
            "Environment": {"PATH": PATH}, "CreateInUtilityVM": true}),
        )
    }

    /// A process of the VM itself, by a command line that the guest splits.
    pub fn external_line(&self, line: &str) -> Launch {
        self.launch(
            UVM_ID,
            json!({
            "CommandLine": line, "WorkingDirectory": "/",
            "Environment": {"PATH": PATH}, "CreateInUtilityVM": true}),
        )
    }

    /// The first process of a container, as its Create said.
    pub fn init(&self, container: &str) -> Launch {
        self.launch(container, json!({}))
    }

    /// Another process of a container; `process` is the `process` object of an OCI spec.
    pub fn exec(&self, container: &str, process: &Value) -> Launch {
        self.launch(container, json!({"OciProcess": process}))
    }
}

impl Launch {
    /// Connects standard input and leaves it open.
    pub fn open_stdin(mut self) -> Self {
        self.stdin = true;
        self
    }

    /// Connects standard input; `run` feeds it these bytes and closes it.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self.open_stdin()
    }

    /// Standard output is not connected: the process has `/dev/null`.
    pub fn without_stdout(mut self) -> Self {
        self.stdout = false;
        self
    }

    /// Standard error is not connected: the process has `/dev/null`.
    pub fn without_stderr(mut self) -> Self {
        self.stderr = false;
        self
    }

    /// One more variable, for processes of the VM.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.parameters
            .entry("Environment")
            .or_insert_with(|| json!({}))[name] = value.into();
        self
    }

    /// The working directory, for processes of the VM.
    pub fn cwd(self, directory: &str) -> Self {
        self.parameter("WorkingDirectory", directory.into())
    }

    /// A terminal for a process of the VM; its error stream is its output.
    pub fn terminal(self) -> Self {
        self.parameter("EmulateConsole", true.into())
            .open_stdin()
            .without_stderr()
    }

    /// Any member of ProcessParameters.
    pub fn parameter(mut self, name: &str, value: Value) -> Self {
        self.parameters.insert(name.to_owned(), value);
        self
    }

    /// How long `run` waits for the exit; five minutes unless this is called.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Starts it, takes its streams, and asks for its exit, as the shim does.
    pub fn start(mut self) -> Result<Process, HostError> {
        let mut ports = [None; 3];
        let outcome = self.start_on(&mut ports);
        if outcome.is_err() {
            for port in ports.into_iter().flatten() {
                self.host.close_stream(port);
            }
        }
        outcome
    }

    fn start_on(&mut self, ports: &mut [Option<u32>; 3]) -> Result<Process, HostError> {
        const STREAMS: [(&str, &str); 3] = [
            ("CreateStdInPipe", "StdIn"),
            ("CreateStdOutPipe", "StdOut"),
            ("CreateStdErrPipe", "StdErr"),
        ];
        let mut relay = Map::new();
        let wanted = [self.stdin, self.stdout, self.stderr];
        for (at, (flag, stream)) in STREAMS.into_iter().enumerate() {
            if wanted[at] {
                let port = self.host.open_stream()?;
                ports[at] = Some(port);
                self.parameters.insert(flag.into(), true.into());
                relay.insert(stream.into(), port.into());
            }
        }
        let parameters = Value::Object(std::mem::take(&mut self.parameters)).to_string();
        let settings = json!({"Settings": {
            "ProcessParameters": parameters, "VsockStdioRelaySettings": relay}});
        let answer = self
            .host
            .call(Rpc::ExecuteProcess, &self.container, settings)?;
        let pid = answer.get("ProcessId").and_then(Value::as_u64).unwrap_or(0);
        // `strict` has checked that it fits.
        let pid = u32::try_from(pid).unwrap_or(0);
        let take = |port: Option<u32>| {
            port.map(|port| self.host.take_stream(port, STREAM_LIMIT))
                .transpose()
        };
        let stdio = Stdio {
            stdin: take(ports[0])?,
            stdout: take(ports[1])?,
            stderr: take(ports[2])?,
        };
        let waiting = self.host.send_wait(&self.container, pid)?;
        Ok(Process {
            host: self.host.clone(),
            container: self.container.clone(),
            pid,
            stdio,
            waiting,
        })
    }

    /// Starts it, feeds it, and collects all its output until it exits.
    pub fn run(mut self) -> Result<Output, HostError> {
        let limit = self.limit;
        let input = std::mem::take(&mut self.input);
        self.start()?.collect(input, limit)
    }
}

/// A process that was started.
pub struct Process {
    host: Host,
    container: String,
    /// In the VM's own pid namespace.
    pub pid: u32,
    /// The host's ends of its streams.
    pub stdio: Stdio,
    waiting: Pending,
}

/// What a process has printed and how it has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The exit code: 128 + n after signal n.
    pub code: u32,
    /// All of standard output.
    pub stdout: Vec<u8>,
    /// All of standard error; empty for a process with a terminal.
    pub stderr: Vec<u8>,
    /// Whether both streams have ended. Otherwise something in the guest still holds them.
    pub complete: bool,
}

impl Output {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn error_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl Process {
    /// The exit code: 128 + n after signal n. A time-out leaves the wait standing.
    pub fn wait(&mut self, limit: Duration) -> Result<u32, HostError> {
        let answer = self.waiting.wait(limit)?;
        let code = answer.get("ExitCode").and_then(Value::as_u64).unwrap_or(0);
        Ok(u32::try_from(code).unwrap_or(u32::MAX))
    }

    /// Whether the exit was reported.
    pub fn has_exited(&self) -> bool {
        self.waiting.is_ready()
    }

    /// Sends it a signal, by its Linux number.
    ///
    /// # Errors
    /// The guest refuses it for a process that has exited.
    pub fn signal(&self, signal: i32) -> Result<(), HostError> {
        self.host.signal(&self.container, self.pid, signal)
    }

    /// Sets the size of its terminal, in characters.
    ///
    /// # Errors
    /// The guest refuses it for a process without a terminal, or that has exited.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<(), HostError> {
        self.host.resize(&self.container, self.pid, rows, columns)
    }

    /// What signals it from another thread.
    pub fn signaller(&self) -> impl Fn(i32) -> Result<(), HostError> + Send + 'static {
        let (host, container, pid) = (self.host.clone(), self.container.clone(), self.pid);
        move |signal| host.signal(&container, pid, signal)
    }

    /// What resizes its terminal (rows, columns) from another thread.
    pub fn resizer(&self) -> impl Fn(u16, u16) -> Result<(), HostError> + Send + 'static {
        let (host, container, pid) = (self.host.clone(), self.container.clone(), self.pid);
        move |rows, columns| host.resize(&container, pid, rows, columns)
    }

    /// Writes `input`, closes standard input, and collects the output until the exit.
    pub fn collect(mut self, input: Vec<u8>, limit: Duration) -> Result<Output, HostError> {
        let stdin = self.stdio.stdin.take();
        let feeding = stdin.map(|to| pump::feed(std::io::Cursor::new(input), to));
        let out = pump::drain(self.stdio.stdout.take(), Vec::new());
        let err = pump::drain(self.stdio.stderr.take(), Vec::new());
        let outcome = self.wait(limit);
        let done = outcome.is_ok();
        let (stdout, out_end) = out.finish(done);
        let (stderr, err_end) = err.finish(done);
        drop(feeding);
        let complete = out_end == Drained::End && err_end == Drained::End;
        Ok(Output {
            code: outcome?,
            stdout,
            stderr,
            complete,
        })
    }

    /// Connects the process to this one's standard streams until it exits, losing nothing.
    /// Returns the exit code once both output streams ended, or stayed silent for
    /// [`crate::STREAM_GRACE`] after the exit because something else in the guest holds them.
    pub fn relay(mut self) -> Result<u32, HostError> {
        let stdio = std::mem::take(&mut self.stdio);
        let signal = self.signaller();
        let kill = move || {
            if let Err(e) = signal(libc::SIGKILL) {
                ::log::debug!("ending a process that nobody reads: {e}");
            }
        };
        pump::relay(stdio, kill, || loop {
            match self.wait(Duration::from_secs(3600)) {
                Err(HostError::Timeout { .. }) => {}
                other => break other,
            }
        })
    }
}
