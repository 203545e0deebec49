//! QEMU's machine protocol: commands and events as lines of JSON, each wait with a deadline.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{json, Value};

/// For commands, which QEMU answers at once even on a loaded machine.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// Unfetched events beyond this are dropped, oldest first.
const KEPT_EVENTS: usize = 100;

#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    #[error("QEMU refused {command}: {text}")]
    Refused { command: String, text: String },
    #[error("QEMU did not answer {doing} within {limit:?}")]
    Timeout { doing: String, limit: Duration },
    #[error("QEMU closed its control socket while {doing} was under way")]
    Closed { doing: String },
    #[error("QEMU's control socket failed during {doing}: {source}")]
    Io { doing: String, source: io::Error },
}

/// A connection in command mode.
pub struct Qmp {
    stream: UnixStream,
    pending: Vec<u8>,
    events: VecDeque<Value>,
    next: u64,
}

impl Qmp {
    /// Takes the greeting and leaves the negotiation mode.
    pub fn connect(stream: UnixStream) -> Result<Self, QmpError> {
        let mut qmp = Self {
            stream,
            pending: Vec::new(),
            events: VecDeque::new(),
            next: 0,
        };
        let doing = "its greeting";
        let deadline = Instant::now() + COMMAND_LIMIT;
        while qmp
            .message(doing, deadline, COMMAND_LIMIT)?
            .get("QMP")
            .is_none()
        {}
        qmp.command("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs one command. Events that arrive meanwhile are kept.
    pub fn command(&mut self, name: &str, arguments: Value) -> Result<Value, QmpError> {
        let id = self.next;
        self.next += 1;
        let mut line = json!({"execute": name, "arguments": arguments, "id": id})
            .to_string()
            .into_bytes();
        line.push(b'\n');
        let io = |source| QmpError::Io {
            doing: name.to_owned(),
            source,
        };
        self.stream
            .set_write_timeout(Some(COMMAND_LIMIT))
            .map_err(io)?;
        (&self.stream).write_all(&line).map_err(io)?;
        let deadline = Instant::now() + COMMAND_LIMIT;
        loop {
            let mut message = self.message(name, deadline, COMMAND_LIMIT)?;
            if message.get("event").is_some() {
                self.keep(message);
            } else if message.get("id").and_then(Value::as_u64) == Some(id) {
                if let Some(error) = message.get("error") {
                    let text = error
                        .get("desc")
                        .and_then(Value::as_str)
                        .unwrap_or("(no text)");
                    let (command, text) = (name.to_owned(), text.to_owned());
                    return Err(QmpError::Refused { command, text });
                }
                return Ok(message["return"].take());
            }
        }
    }

    /// Waits for an event; one that came earlier counts. Others are kept.
    pub fn wait_event(
        &mut self,
        name: &str,
        limit: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value, QmpError> {
        let fits = |event: &Value| event["event"] == name && wanted(&event["data"]);
        if let Some(at) = self.events.iter().position(fits) {
            return Ok(self.events.remove(at).unwrap_or_default());
        }
        let deadline = Instant::now() + limit;
        loop {
            let message = self.message(&format!("the event {name}"), deadline, limit)?;
            if fits(&message) {
                return Ok(message);
            }
            if message.get("event").is_some() {
                self.keep(message);
            }
        }
    }

    fn keep(&mut self, event: Value) {
        if self.events.len() == KEPT_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    fn message(
        &mut self,
        doing: &str,
        deadline: Instant,
        limit: Duration,
    ) -> Result<Value, QmpError> {
        let io = |source| QmpError::Io {
            doing: doing.to_owned(),
            source,
        };
        let mut buffer = [0; 4096];
        loop {
            if let Some(end) = self.pending.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(|e| io(e.into()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(QmpError::Timeout {
                    doing: doing.to_owned(),
                    limit,
                });
            }
            self.stream.set_read_timeout(Some(left)).map_err(io)?;
            match (&self.stream).read(&mut buffer) {
                Ok(0) => {
                    return Err(QmpError::Closed {
                        doing: doing.to_owned(),
                    })
                }
                Ok(got) => self.pending.extend_from_slice(&buffer[..got]),
                Err(e) => match e.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                    io::ErrorKind::ConnectionReset => {
                        return Err(QmpError::Closed {
                            doing: doing.to_owned(),
                        })
                    }
                    _ => return Err(io(e)),
                },
            }
        }
    }

    /// Plugs a disk in.
    pub fn plug(
        &mut self,
        address: &ScsiAddress,
        file: &Path,
        format: &str,
        read_only: bool,
    ) -> Result<(), QmpError> {
        let node = address.node();
        self.command(
            "blockdev-add",
            json!({
            "driver": format, "node-name": node, "read-only": read_only,
            "file": {"driver": "file", "filename": file.to_string_lossy(), "locking": "off"}}),
        )?;
        let device = self.command(
            "device_add",
            json!({
            "driver": "scsi-hd", "id": node, "drive": node,
            // A full disk of this machine is the guest's error. QEMU would stop the VM for it.
            "werror": "report", "rerror": "report",
            "bus": format!("scsi{}.0", address.controller),
            "channel": 0, "scsi-id": 0, "lun": address.lun}),
        );
        if let Err(e) = device {
            // What counts is the first error.
            drop(self.command("blockdev-del", json!({"node-name": node})));
            return Err(e);
        }
        Ok(())
    }

    /// Plugs persistent memory into one of the profile's slots: a raw file of so many bytes. It
    /// cannot be unplugged.
    pub fn plug_pmem(&mut self, slot: u8, file: &Path, bytes: u64) -> Result<(), QmpError> {
        let id = format!("late{slot}");
        self.command(
            "object-add",
            json!({
            "qom-type": "memory-backend-file", "id": id, "share": true,
            "mem-path": file.to_string_lossy(), "size": bytes}),
        )?;
        let device = self.command(
            "device_add",
            json!({
            "driver": "virtio-pmem-pci", "id": format!("pmem-{id}"), "memdev": id,
            "bus": format!("port{slot}")}),
        );
        if let Err(e) = device {
            // What counts is the first error.
            drop(self.command("object-del", json!({"id": id})));
            return Err(e);
        }
        Ok(())
    }

    /// Unplugs a disk, which the guest should not use any more.
    pub fn unplug(&mut self, address: &ScsiAddress, limit: Duration) -> Result<(), QmpError> {
        let node = address.node();
        match self.command("device_del", json!({"id": node})) {
            // An earlier attempt timed out, and the disk was gone afterwards.
            Err(QmpError::Refused { text, .. }) if text.contains("not found") => {}
            asked => {
                asked?;
                self.wait_event("DEVICE_DELETED", limit, |data| {
                    data["device"] == node.as_str()
                })?;
            }
        }
        self.command("blockdev-del", json!({"node-name": node}))
            .map(drop)
    }
}

/// Where a disk is plugged in: `controller`:0:0:`lun`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScsiAddress {
    pub controller: u8,
    pub lun: u8,
}

impl ScsiAddress {
    fn node(&self) -> String {
        format!("disk-{}-{}", self.controller, self.lun)
    }
}

impl std::fmt::Display for ScsiAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:0:0:{}", self.controller, self.lun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    /// A QEMU that says `script`: for each command one list of lines, `ID` standing for its id.
    fn fake(script: &'static [&'static [&'static str]]) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(theirs.try_clone().unwrap());
            (&theirs).write_all(b"{\"QMP\": {}}\r\n").unwrap();
            for lines in script {
                let mut command = String::new();
                reader.read_line(&mut command).unwrap();
                let id = serde_json::from_str::<Value>(&command).unwrap()["id"].to_string();
                for line in *lines {
                    writeln!(&theirs, "{}", line.replace("ID", &id)).unwrap();
                }
            }
        });
        ours
    }

    #[test]
    fn commands_events_and_refusals() {
        let mut qmp = Qmp::connect(fake(&[
            &[r#"{"return": {}, "id": ID}"#],
            &[
                r#"{"event": "RESUME", "data": {}}"#,
                r#"{"return": {"a": 1}, "id": ID}"#,
            ],
            &[r#"{"error": {"class": "GenericError", "desc": "no such bus"}, "id": ID}"#],
        ]))
        .unwrap();
        assert_eq!(qmp.command("query-status", json!({})).unwrap()["a"], 1);
        let said = qmp
            .command("device_add", json!({}))
            .unwrap_err()
            .to_string();
        assert_eq!(said, "QEMU refused device_add: no such bus");
        qmp.wait_event("RESUME", Duration::from_secs(30), |_| true)
            .unwrap();
        let gone = qmp
            .wait_event("STOP", Duration::from_secs(30), |_| true)
            .unwrap_err();
        assert!(matches!(gone, QmpError::Closed { .. }), "{gone}");
    }

    #[test]
    fn a_silent_qemu_times_out() {
        let mut qmp = Qmp::connect(fake(&[&[r#"{"return": {}, "id": ID}"#], &[], &[]])).unwrap();
        let limit = Duration::from_millis(30);
        let said = qmp.wait_event("STOP", limit, |_| true).unwrap_err();
        assert!(matches!(said, QmpError::Timeout { .. }), "{said}");
    }
}
