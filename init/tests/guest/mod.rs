//! The service as a process of this machine, and its host: frames in, frames out. Ports are
//! Unix sockets; the bridge is one of them, or stdin and stdout.

#![allow(dead_code)] // Each test binary uses a part of it.
#![allow(clippy::disallowed_methods)] // The test is the host; it may wait for its child.

pub mod hostile;
mod requests;

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use gcs::bridge::frame::{self, Decoder, MAX_FROM_HOST};
use gcs::prot::{MessageId, UVM_ID};
use gcs::sys::pidfd;
use serde_json::{json, Value};

pub const PATIENCE: Duration = Duration::from_secs(60);
const BRIDGE_PORT: u32 = 0x4000_0000;

/// One connection to the guest.
struct Bridge {
    to: File,
    from: File,
    decoder: Decoder,
    answers: HashMap<u64, Value>,
}

impl Bridge {
    fn new(to: impl Into<OwnedFd>, from: impl Into<OwnedFd>) -> Self {
        Self {
            to: File::from(to.into()),
            from: File::from(from.into()),
            decoder: Decoder::new(MAX_FROM_HOST),
            answers: HashMap::new(),
        }
    }
}

pub struct Guest {
    pub child: Child,
    bridge: Option<Bridge>,
    listener: Option<UnixListener>,
    pub log: Option<ChildStderr>,
    sequence: u64,
    pub dir: tempfile::TempDir,
}

impl Guest {
    /// With its bridge on two pipes, and negotiated.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more flags.
    pub fn start_with(flags: &[&str]) -> Self {
        let mut guest = Self::silent(flags);
        guest.negotiate();
        guest
    }

    /// The same, and nothing was said yet.
    pub fn silent(flags: &[&str]) -> Self {
        let mut guest = Self::spawn(true, flags);
        let (to, from) = (guest.child.stdin.take(), guest.child.stdout.take());
        guest.bridge = to.zip(from).map(|(to, from)| Bridge::new(to, from));
        guest
    }

    /// With a bridge that it dials, and negotiated.
    pub fn dialling() -> Self {
        let mut guest = Self::spawn(false, &[]);
        guest.accept();
        guest.negotiate();
        guest
    }

    fn spawn(on_pipes: bool, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = (!on_pipes).then(|| UnixListener::bind(port(&dir, BRIDGE_PORT)).unwrap());
        let streams = || {
            if on_pipes {
                Stdio::piped()
            } else {
                Stdio::null()
            }
        };
        let mut child = Command::new(env!("CARGO_BIN_EXE_init"))
            .args(["gcs", "-v4", "-loglevel", "debug"])
            .args(on_pipes.then_some("-use-inouterr"))
            .args(flags)
            .arg("-dial-unix")
            .arg(dir.path().join("v"))
            .stdin(streams())
            .stdout(streams())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = child.stderr.take();
        Self {
            child,
            bridge: None,
            listener,
            log,
            sequence: 0,
            dir,
        }
    }

    /// Takes the connection that the guest has dialled.
    pub fn accept(&mut self) {
        let listener = self.listener.as_ref().unwrap();
        let dialled = pidfd::readable(listener.as_fd(), PATIENCE).unwrap();
        assert!(dialled, "the guest does not dial");
        let (stream, _) = listener.accept().unwrap();
        let from = stream.try_clone().unwrap();
        self.bridge = Some(Bridge::new(stream, from));
    }

    /// Has somebody read the log to its end, so that it does not fill its pipe.
    pub fn ignore_log(&mut self) {
        if let Some(mut log) = self.log.take() {
            std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        }
    }

    /// Has the guest's dials of the bridge fail, or no longer.
    pub fn refuse_dials(&self, refuse: bool) {
        let path = port(&self.dir, BRIDGE_PORT);
        let away = path.with_extension("away");
        let (from, to) = if refuse {
            (&path, &away)
        } else {
            (&away, &path)
        };
        std::fs::rename(from, to).unwrap();
    }

    /// Waits until the guest has reaped a process that has ended.
    pub fn wait_reaped(&self, started: &Value) {
        let path = format!("/proc/{}", started["ProcessId"]);
        let begun = std::time::Instant::now();
        while std::path::Path::new(&path).exists() {
            assert!(begun.elapsed() < PATIENCE, "{path} is not reaped");
            std::thread::yield_now();
        }
    }

    /// Drops the bridge.
    pub fn disconnect(&mut self) {
        self.bridge = None;
    }

    pub fn negotiate(&mut self) {
        let versions = json!({"MinimumVersion": 4, "MaximumVersion": 4});
        let answer = self.ask(MessageId::NEGOTIATE_PROTOCOL, versions);
        assert_eq!(answer["Result"], 0, "{answer}");
    }

    /// Sends a request for the utility VM itself.
    pub fn send(&mut self, message: MessageId, mut body: Value) -> u64 {
        body["ContainerId"] = UVM_ID.into();
        body["ActivityId"] = UVM_ID.into();
        self.send_payload(message, &serde_json::to_vec(&body).unwrap())
    }

    pub fn send_payload(&mut self, message: MessageId, payload: &[u8]) -> u64 {
        self.sequence += 1;
        let bytes = frame::encode(message, self.sequence, payload, 64 << 20).unwrap();
        self.send_bytes(&bytes);
        self.sequence
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.bridge.as_mut().unwrap().to.write_all(bytes).unwrap();
    }

    /// The answer to one request; others are kept until they are asked for.
    pub fn answer(&mut self, sequence: u64) -> Value {
        self.answer_within(sequence, PATIENCE)
            .unwrap_or_else(|| panic!("no answer to {sequence}"))
    }

    pub fn answer_within(&mut self, sequence: u64, limit: Duration) -> Option<Value> {
        let bridge = self.bridge.as_mut().unwrap();
        let mut buffer = [0; 4096];
        loop {
            while let Some(frame) = bridge.decoder.next().unwrap() {
                let text = String::from_utf8_lossy(&frame.payload).into_owned();
                let value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
                let twice = bridge.answers.insert(frame.sequence, value);
                assert_eq!(twice, None, "{} is answered twice", frame.sequence);
            }
            if let Some(answer) = bridge.answers.remove(&sequence) {
                return Some(answer);
            }
            if !pidfd::readable(bridge.from.as_fd(), limit).unwrap() {
                return None;
            }
            let count = bridge.from.read(&mut buffer).unwrap();
            assert_ne!(count, 0, "the guest has closed the bridge");
            bridge.decoder.feed(&buffer[..count]);
        }
    }

    /// Waits until the guest has closed the bridge.
    pub fn wait_closed(&mut self) {
        let bridge = self.bridge.as_mut().unwrap();
        let mut buffer = [0; 4096];
        loop {
            let closed = pidfd::readable(bridge.from.as_fd(), PATIENCE).unwrap();
            assert!(closed, "the guest keeps the bridge");
            if !matches!(bridge.from.read(&mut buffer), Ok(1..)) {
                return;
            }
        }
    }

    pub fn ask(&mut self, message: MessageId, body: Value) -> Value {
        let sequence = self.send(message, body);
        self.answer(sequence)
    }

    /// ExecuteProcess of a process of the utility VM, its stdout at the port given.
    pub fn send_execute(&mut self, args: &[&str], stdout: Option<u32>) -> u64 {
        let parameters = json!({
            "CommandArgs": args,
            "Environment": {"PATH": "/usr/bin:/bin"},
            "CreateStdOutPipe": stdout.is_some(),
        });
        let settings = json!({
            "ProcessParameters": parameters.to_string(),
            "VsockStdioRelaySettings": {"StdOut": stdout.unwrap_or(0)},
        });
        self.send(MessageId::EXECUTE_PROCESS, json!({"Settings": settings}))
    }

    pub fn execute(&mut self, args: &[&str], stdout: Option<u32>) -> Value {
        let sequence = self.send_execute(args, stdout);
        self.answer(sequence)
    }

    /// The text of DumpStacks.
    pub fn dump(&mut self) -> String {
        let dump = self.ask(MessageId::DUMP_STACKS, json!({}));
        dump["GuestStacks"].as_str().unwrap().to_owned()
    }

    pub fn send_wait(&mut self, started: &Value, millis: u32) -> u64 {
        let body = json!({"ProcessId": started["ProcessId"], "TimeoutInMs": millis});
        self.send(MessageId::WAIT_FOR_PROCESS, body)
    }

    pub fn exit_code(&mut self, started: &Value) -> Value {
        let sequence = self.send_wait(started, u32::MAX);
        self.answer(sequence)["ExitCode"].take()
    }

    /// Listens at a port of the host.
    pub fn listen(&self, number: u32) -> UnixListener {
        UnixListener::bind(port(&self.dir, number)).unwrap()
    }
}

fn port(dir: &tempfile::TempDir, number: u32) -> PathBuf {
    dir.path().join(format!("v_{number}"))
}

/// Takes a connection, which must be there soon.
pub fn accept(listener: &UnixListener) -> UnixStream {
    assert!(pidfd::readable(listener.as_fd(), PATIENCE).unwrap());
    listener.accept().unwrap().0
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
