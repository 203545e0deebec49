//! The side of a command that asks a running VM.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::wire::{Channel, Exec, Reply, Request, Sender, WireError};
use super::{ControlError, Directory};
use uvm_host::{relay, Stdio};

/// Longer than any request waits for the guest and for QEMU.
const LIMIT: Duration = Duration::from_secs(600);

/// The tool answers this by itself.
const STATUS_LIMIT: Duration = Duration::from_secs(30);

/// A connection to one VM, good for one request.
pub struct Client {
    name: String,
    channel: Channel,
}

impl Client {
    /// Connects to the VM of this name, or to the only one.
    pub fn connect(name: Option<&str>) -> Result<Self, ControlError> {
        let (name, stream) = Directory::of_user().connect(name)?;
        match Channel::new(stream) {
            Ok(channel) => Ok(Self { name, channel }),
            Err(source) => Err(ControlError::Io { name, source }),
        }
    }

    /// Of the VM.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends a request and gives the answer, which is not a failure.
    pub fn ask(mut self, request: &Request) -> Result<Reply, ControlError> {
        self.send(request)?;
        let limit = match request {
            Request::Status => STATUS_LIMIT,
            _ => LIMIT,
        };
        self.answer(Some(limit))
    }

    /// `ask` for what is only done or refused.
    pub fn order(self, request: &Request) -> Result<(), ControlError> {
        let name = self.name.clone();
        match self.ask(request)? {
            Reply::Done => Ok(()),
            other => Err(unexpected(name, &other)),
        }
    }

    /// Asks for the log and gives every answer to `sink`, until `sink` has seen enough or there are
    /// no more; with `follow`, until the VM ends.
    pub fn logs(
        mut self,
        follow: bool,
        mut sink: impl FnMut(Reply) -> bool,
    ) -> Result<(), ControlError> {
        self.send(&Request::Logs { follow })?;
        loop {
            match self.answer(Some(LIMIT)) {
                Ok(reply) => {
                    if !sink(reply) {
                        return Ok(());
                    }
                }
                Err(ControlError::Gone { .. }) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    }

    /// Starts a process.
    pub fn exec(mut self, order: Exec) -> Result<Remote, ControlError> {
        self.send(&Request::Exec(order))?;
        let streams = match self.answer(Some(LIMIT))? {
            Reply::Started { streams, .. } => streams,
            other => return Err(unexpected(self.name, &other)),
        };
        let mut stdio = Stdio::default();
        let places = [&mut stdio.stdin, &mut stdio.stdout, &mut stdio.stderr];
        for (place, there) in places.into_iter().zip(streams) {
            if there {
                let descriptor = self.channel.take_descriptor();
                let descriptor = descriptor.ok_or_else(|| ControlError::Answer {
                    name: self.name.clone(),
                    got: "a process without its streams".into(),
                })?;
                *place = Some(UnixStream::from(descriptor));
            }
        }
        Ok(Remote {
            client: self,
            stdio,
        })
    }

    fn send(&self, request: &Request) -> Result<(), ControlError> {
        self.channel.send(request).map_err(|e| self.failed(e))
    }

    fn answer(&mut self, limit: Option<Duration>) -> Result<Reply, ControlError> {
        let name = self.name.clone();
        match self.channel.receive(limit) {
            Ok(Some(Reply::Failed { message, code })) => Err(ControlError::Refused {
                name,
                message,
                code,
            }),
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(ControlError::Gone { name }),
            Err(WireError::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                let limit = limit.unwrap_or_default();
                Err(ControlError::Silent { name, limit })
            }
            Err(WireError::Io(e)) => Err(self.failed(e)),
            Err(other) => Err(ControlError::Answer {
                name,
                got: other.to_string(),
            }),
        }
    }

    fn failed(&self, source: io::Error) -> ControlError {
        let name = self.name.clone();
        match source.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                ControlError::Gone { name }
            }
            _ => ControlError::Io { name, source },
        }
    }
}

fn unexpected(name: String, reply: &Reply) -> ControlError {
    let got = format!("{reply:?}").chars().take(80).collect();
    ControlError::Answer { name, got }
}

/// A process of another tool's VM, with its streams here.
pub struct Remote {
    client: Client,
    stdio: Stdio,
}

impl Remote {
    /// For another thread: signals and sizes.
    pub fn sender(&self) -> Result<Sender, ControlError> {
        self.client
            .channel
            .sender()
            .map_err(|e| self.client.failed(e))
    }

    /// Connects the process to this one's standard streams until it exits, losing nothing.
    pub fn relay(mut self) -> Result<u32, ControlError> {
        let sender = self.sender()?;
        let kill = move || {
            let signal = libc::SIGKILL;
            if let Err(e) = sender.send(&Request::Signal { signal }) {
                log::debug!("ending a process that nobody reads: {e}");
            }
        };
        relay(self.stdio, kill, || match self.client.answer(None)? {
            Reply::Exited { code } => Ok(code),
            other => Err(unexpected(self.client.name.clone(), &other)),
        })
    }
}
