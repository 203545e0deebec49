//! A guest made of a thread and Unix sockets, to test the host without a VM.
#![allow(dead_code)] // Each test binary uses a part of it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use serde_json::{json, Value};
use uvm_host::wire::{self, Frame, Rpc};
use uvm_host::{Host, HostConfig, Transport, BRIDGE_PORT, ENTROPY_PORT, LOG_PORT};

pub struct FakeGuest {
    pub bridge: UnixStream,
    pub log: UnixStream,
    base: PathBuf,
}

impl FakeGuest {
    /// Dials as a guest does at its start.
    pub fn boot(base: &Path) -> Self {
        let dial = |port| UnixStream::connect(Transport::socket_of(base, port)).unwrap();
        let mut entropy = Vec::new();
        dial(ENTROPY_PORT).read_to_end(&mut entropy).unwrap();
        assert_eq!(entropy.len(), 512);
        Self {
            log: dial(LOG_PORT),
            bridge: dial(BRIDGE_PORT),
            base: base.to_owned(),
        }
    }

    pub fn dial(&self, port: u64) -> UnixStream {
        let port = u32::try_from(port).unwrap();
        UnixStream::connect(Transport::socket_of(&self.base, port)).unwrap()
    }

    /// The next request, with its payload decoded.
    pub fn request(&mut self) -> Option<(Rpc, u64, Value)> {
        // Requests have no upper limit; those of the tests fit.
        let frame = wire::read_frame(&mut self.bridge).unwrap()?;
        let rpc = Rpc::of(frame.message).unwrap();
        Some((
            rpc,
            frame.id,
            serde_json::from_slice(&frame.payload).unwrap(),
        ))
    }

    pub fn send(&mut self, message: u32, id: u64, payload: &str) {
        let payload = payload.as_bytes().to_vec();
        Frame {
            message,
            id,
            payload,
        }
        .write(&mut self.bridge)
        .unwrap();
    }

    pub fn answer(&mut self, rpc: Rpc, id: u64, payload: Value) {
        self.send(wire::response_to(rpc as u32), id, &payload.to_string());
    }

    pub fn notify(&mut self, container: &str) {
        let payload = json!({"ContainerId": container, "Type": "UnexpectedExit",
            "Operation": "None", "Result": 0});
        self.send(wire::NOTIFICATION, 0, &payload.to_string());
    }

    pub fn say(&mut self, line: &str) {
        self.log.write_all(line.as_bytes()).unwrap();
    }
}

/// The ports that an ExecuteProcess request names: stdin, stdout, stderr; 0 for none.
pub fn stdio_ports(request: &Value) -> [u64; 3] {
    let relay = &request["Settings"]["VsockStdioRelaySettings"];
    ["StdIn", "StdOut", "StdErr"].map(|name| relay[name].as_u64().unwrap_or(0))
}

/// A host and a guest that runs `behave` on its own thread.
pub fn pair<T: Send + 'static>(
    dir: &Path,
    strict: bool,
    behave: impl FnOnce(FakeGuest) -> T + Send + 'static,
) -> (Host, JoinHandle<T>) {
    let base = dir.join("vsock");
    let host = Host::listen(HostConfig {
        strict,
        ..HostConfig::new(Transport::Unix(base.clone()))
    })
    .unwrap();
    let guest = std::thread::spawn(move || behave(FakeGuest::boot(&base)));
    (host, guest)
}
