//! The service as a process of this machine, its bridge on stdin and stdout and its stdio ports
//! on Unix sockets: what it does when what it talks to goes away.

#![allow(clippy::disallowed_methods)] // The test is the host; it may wait for its child.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use gcs::bridge::frame::{self, Decoder, MAX_FROM_HOST};
use gcs::prot::{MessageId, UVM_ID};
use gcs::sys::pidfd;
use serde_json::{json, Value};

const PATIENCE: Duration = Duration::from_secs(60);

struct Guest {
    child: Child,
    bridge: Option<(ChildStdin, ChildStdout)>,
    log: Option<ChildStderr>,
    decoder: Decoder,
    sequence: u64,
    dir: tempfile::TempDir,
}

impl Guest {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_init"))
            .args(["gcs", "-use-inouterr", "-loglevel", "debug", "-dial-unix"])
            .arg(dir.path().join("v"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let bridge = child.stdin.take().zip(child.stdout.take());
        let log = child.stderr.take();
        let mut guest = Self {
            child,
            bridge,
            log,
            decoder: Decoder::new(MAX_FROM_HOST),
            sequence: 0,
            dir,
        };
        let versions = json!({"MinimumVersion": 4, "MaximumVersion": 4});
        let answer = guest.ask(MessageId::NEGOTIATE_PROTOCOL, versions);
        assert_eq!(answer["Result"], 0, "{answer}");
        guest
    }

    fn send(&mut self, message: MessageId, mut body: Value) -> u64 {
        self.sequence += 1;
        body["ContainerId"] = UVM_ID.into();
        body["ActivityId"] = UVM_ID.into();
        let payload = serde_json::to_vec(&body).unwrap();
        let bytes = frame::encode(message, self.sequence, &payload, 1 << 20).unwrap();
        let (stdin, _) = self.bridge.as_mut().unwrap();
        stdin.write_all(&bytes).unwrap();
        self.sequence
    }

    fn answer(&mut self, sequence: u64) -> Value {
        let (_, stdout) = self.bridge.as_mut().unwrap();
        let mut buffer = [0; 4096];
        loop {
            if let Some(frame) = self.decoder.next().unwrap() {
                assert_eq!(frame.sequence, sequence, "answers come in order here");
                return serde_json::from_slice(&frame.payload).unwrap();
            }
            assert!(
                pidfd::readable(stdout.as_fd(), PATIENCE).unwrap(),
                "no answer to {sequence}"
            );
            let count = stdout.read(&mut buffer).unwrap();
            assert_ne!(count, 0, "the service has ended");
            self.decoder.feed(&buffer[..count]);
        }
    }

    fn ask(&mut self, message: MessageId, body: Value) -> Value {
        let sequence = self.send(message, body);
        self.answer(sequence)
    }

    /// ExecuteProcess of a process of the utility VM, its stdout at the port given.
    fn execute(&mut self, args: &[&str], stdout: Option<u32>) -> Value {
        let parameters = json!({
            "CommandArgs": args,
            "Environment": {"PATH": "/usr/bin:/bin"},
            "CreateStdOutPipe": stdout.is_some(),
        });
        let settings = json!({
            "ProcessParameters": parameters.to_string(),
            "VsockStdioRelaySettings": {"StdOut": stdout.unwrap_or(0)},
        });
        self.ask(MessageId::EXECUTE_PROCESS, json!({"Settings": settings}))
    }

    fn dump(&mut self) -> String {
        let dump = self.ask(MessageId::DUMP_STACKS, json!({}));
        dump["GuestStacks"].as_str().unwrap().to_owned()
    }

    fn exit_code(&mut self, started: &Value) -> Value {
        let body = json!({"ProcessId": started["ProcessId"], "TimeoutInMs": u32::MAX});
        self.ask(MessageId::WAIT_FOR_PROCESS, body)["ExitCode"].take()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Ends by itself when its bridge does; this is for tests that fail.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn a_lost_log_connection_ends_nothing() {
    let mut guest = Guest::start();
    drop(guest.log.take());
    // The first records find out; programs start although low descriptor numbers are free now.
    for code in [0, 7] {
        let started = guest.execute(&["sh", "-c", &format!("exit {code}")], None);
        assert_eq!(started["Result"], 0, "{started}");
        assert_eq!(guest.exit_code(&started), code);
    }
    let text = guest.dump();
    assert!(text.contains("the log connection is lost"), "{text}");
}

#[test]
fn no_child_reaches_the_bridge_through_the_services_own_streams() {
    let mut guest = Guest::start();
    let script = "for fd in 0 1; do readlink /proc/$PPID/fd/$fd; done; ls /proc/$$/fd | wc -l";
    let path = guest.dir.path().join("v_7");
    let listener = UnixListener::bind(&path).unwrap();
    let started = guest.execute(&["sh", "-c", script], Some(7));
    assert_eq!(started["Result"], 0, "{started}");
    let mut said = String::new();
    let (mut stream, _) = listener.accept().unwrap();
    assert_eq!(guest.exit_code(&started), 0);
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said.lines().take(2).collect::<Vec<_>>(), ["/dev/null"; 2]);
}

#[test]
fn a_port_without_listener_and_a_program_that_is_not_there_are_named() {
    let mut guest = Guest::start();
    for (args, port, named) in [
        (&["true"][..], Some(9), "port 9"),
        (&["no-such-program"], None, "no-such-program"),
        (&["/etc/passwd"], None, "/etc/passwd"),
    ] {
        let refused = guest.execute(args, port);
        assert_ne!(refused["Result"], 0, "{refused}");
        assert!(
            refused["ErrorMessage"].as_str().unwrap().contains(named),
            "{refused}"
        );
    }
    let started = guest.execute(&["true"], None);
    assert_eq!(guest.exit_code(&started), 0);
}

#[test]
fn answers_that_nobody_reads_do_not_block_the_service() {
    let mut guest = Guest::start();
    // Far more than a pipe holds.
    let dumps: Vec<u64> = (0..100)
        .map(|_| guest.send(MessageId::DUMP_STACKS, json!({})))
        .collect();
    let mark = guest.dir.path().join("mark");
    let parameters = json!({"CommandArgs": ["touch", mark]});
    let settings = json!({"ProcessParameters": parameters.to_string()});
    let last = guest.send(MessageId::EXECUTE_PROCESS, json!({"Settings": settings}));
    let begun = std::time::Instant::now();
    while !mark.exists() {
        assert!(begun.elapsed() < PATIENCE, "the service is blocked");
        std::thread::yield_now();
    }
    for sequence in dumps.into_iter().chain([last]) {
        assert_eq!(guest.answer(sequence)["Result"], 0);
    }
}

#[test]
fn a_dump_tells_all_and_fits_its_frame_when_everything_is_full() {
    let mut guest = Guest::start();
    let started = guest.execute(&["sleep", "1000"], None);
    let pid = started["ProcessId"].as_u64().unwrap();
    let text = guest.dump();
    for words in [
        "received 3 frames",
        "sent 2 frames",
        "pending requests (1)",
        &format!("pid {pid} External"),
        "open descriptors ",
        "last log records (",
    ] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
    assert!(!text.contains("are cut"), "{text}");

    // Fills the list of requests and their deadlines, then the log.
    let wait = |limit: u32| json!({"ProcessId": pid, "TimeoutInMs": limit});
    for _ in 0..1000 {
        guest.send(MessageId::WAIT_FOR_PROCESS, wait(3_600_000));
    }
    for _ in 0..1000 {
        let unknown = json!({"ProcessId": pid + 1, "TimeoutInMs": 0});
        let answer = guest.ask(MessageId::WAIT_FOR_PROCESS, unknown);
        assert_eq!(answer["Result"], 0x8007_0490_u32.cast_signed(), "{answer}");
    }
    let text = guest.dump();
    for words in [
        "pending requests (1001)",
        "waiters=1000",
        "deadlines (1000)",
        &format!("time-out of a wait for process {pid}"),
        "more\n",
        "older ones are cut)",
        "counts (7)",
    ] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
    // The newest record is the one that stays.
    let last = text.lines().last().unwrap();
    assert!(last.contains("DumpStacks"), "{last}");
    let size = serde_json::to_vec(&text).unwrap().len();
    assert!((50_000..60_100).contains(&size), "{size} bytes");
}

#[test]
fn the_end_of_the_bridge_ends_the_service() {
    let mut guest = Guest::start();
    drop(guest.bridge.take());
    assert!(!guest.child.wait().unwrap().success());
}
