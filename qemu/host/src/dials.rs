//! Ports that the guest is told to dial: of streams, and of whatever else somebody serves.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::end::HostError;
use crate::host::{Host, BRIDGE_PORT};

/// Where such a port is chosen.
const FRESH_PORTS: std::ops::Range<u32> = BRIDGE_PORT + 1..0x8000_0000;

impl Host {
    /// Listens on a port of the host for one connection, which `taker` gets on the accepting
    /// thread: it must not block. A port that is open already is an error.
    pub fn on_dial(
        &self,
        port: u32,
        taker: impl FnOnce(UnixStream) + Send + 'static,
    ) -> Result<(), HostError> {
        let opened = self.ports().open(port, Box::new(taker));
        opened.map_err(HostError::io(format!("listening on port {port}")))
    }

    /// Like [`Self::on_dial`], on a port that nobody can guess. Whoever dials first is served, and a
    /// container may be able to dial.
    pub fn on_dial_anywhere(
        &self,
        taker: impl FnOnce(UnixStream) + Send + 'static,
    ) -> Result<u32, HostError> {
        let port = fresh_port();
        self.on_dial(port, taker)?;
        Ok(port)
    }

    /// Stops listening; no-op when the connection has come.
    pub fn off_dial(&self, port: u32) {
        self.ports().close(port);
    }

    /// Listens on a fresh stdio port, for a request that names it.
    pub fn open_stream(&self) -> Result<u32, HostError> {
        let port = fresh_port();
        let to = self.shared().clone();
        let taker = move |stream| {
            to.update(|state| state.streams.insert(port, stream));
        };
        let doing = format!("listening on stdio port {port:#x}");
        self.ports()
            .open(port, Box::new(taker))
            .map_err(HostError::io(doing))?;
        Ok(port)
    }

    /// Waits for the connection to a stdio port, and takes it.
    pub fn take_stream(&self, port: u32, limit: Duration) -> Result<UnixStream, HostError> {
        let doing =
            format!("the guest reported success; waiting for its dial to stdio port {port:#x}");
        self.shared()
            .wait(&doing, limit, |state| state.streams.remove(&port))
    }

    /// Whether the guest has dialled a stdio port whose connection nobody has taken.
    pub fn has_stream(&self, port: u32) -> bool {
        self.shared().lock().streams.contains_key(&port)
    }

    /// Stops listening at a stdio port, and drops a connection that nobody has taken.
    pub fn close_stream(&self, port: u32) {
        self.ports().close(port);
        self.shared()
            .update(|state| drop(state.streams.remove(&port)));
    }
}

/// A port at random. One that is in use is so rare that listening on it may fail.
fn fresh_port() -> u32 {
    let (random, ..) = uuid::Uuid::new_v4().as_fields();
    FRESH_PORTS.start + random % (FRESH_PORTS.end - FRESH_PORTS.start)
}
