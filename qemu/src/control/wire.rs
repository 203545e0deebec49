//! Requests and answers, each a line of JSON. Descriptors travel with the first byte of a line.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A line longer than this is an error. Log records are the longest, at 1 MiB.
const LONGEST: usize = 4 << 20;
/// The streams of a process.
const MOST_DESCRIPTORS: usize = 3;
/// A peer that takes nothing for this long is given up.
const WRITE_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Status,
    Attach(Attach),
    Detach(Target),
    /// Pids of containers.
    Processes,
    /// `Properties` of containers.
    Statistics,
    Logs {
        follow: bool,
    },
    Stacks,
    Stop(Stop),
    Exec(Exec),
    /// To a process that was started by this connection.
    Signal {
        signal: i32,
    },
    /// Of its terminal.
    Resize {
        rows: u16,
        columns: u16,
    },
}

/// A path in the VM or, if one is named, in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub path: String,
    /// An id or the beginning of one; empty means the only one there is.
    pub container: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Disk,
    Share,
    Pmem,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Share => "share",
            Self::Pmem => "pmem",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    pub kind: Kind,
    /// Absolute.
    pub source: String,
    pub target: Target,
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Kills QEMU.
    pub force: bool,
    /// Seconds that processes have to end by themselves.
    pub grace: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    pub args: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub directory: Option<String>,
    pub user: Option<String>,
    /// As in [`Target`]; without it the process is one of the VM itself.
    pub container: Option<String>,
    pub stdin: bool,
    /// Rows and columns.
    pub terminal: Option<(u16, u16)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Done,
    Failed {
        message: String,
        code: Option<u8>,
    },
    Status(Status),
    /// By container.
    Processes(Vec<(String, Vec<u32>)>),
    Statistics(Vec<(String, Value)>),
    /// Records as they came, and how many before them were lost.
    Logs {
        records: Vec<Value>,
        missed: u64,
    },
    Text(String),
    /// With the descriptors of those streams, in the order of their numbers.
    Started {
        pid: u32,
        streams: [bool; 3],
    },
    Exited {
        code: u32,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub name: String,
    /// Of the tool.
    pub pid: u32,
    /// `run`, `boot` or `exec`.
    pub command: String,
    pub up_seconds: u64,
    pub memory_mib: u32,
    pub containers: Vec<String>,
    pub attachments: Vec<Attach>,
}

#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("a line of more than {LONGEST} bytes")]
    Long,
    #[error("{0} in {1:?}")]
    Json(serde_json::Error, String),
}

/// One end of a connection.
pub struct Channel {
    stream: UnixStream,
    pending: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Channel {
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_write_timeout(Some(WRITE_LIMIT))?;
        Ok(Self {
            stream,
            pending: Vec::new(),
            descriptors: VecDeque::new(),
        })
    }

    /// For another thread that sends.
    pub fn sender(&self) -> io::Result<Sender> {
        self.stream.try_clone().map(Sender)
    }

    pub fn send(&self, message: &impl Serialize) -> io::Result<()> {
        send(&self.stream, message, &[])
    }

    /// `send` with descriptors, at most three.
    pub fn send_with(
        &self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        send(&self.stream, message, descriptors)
    }

    /// The next message; `None` when the other end is gone. A time-out is an error of the kind
    /// `WouldBlock`.
    pub fn receive<T: DeserializeOwned>(
        &mut self,
        limit: Option<Duration>,
    ) -> Result<Option<T>, WireError> {
        self.stream.set_read_timeout(limit)?;
        let mut looked = 0;
        loop {
            if let Some(end) = self.pending[looked..].iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=looked + end).collect();
                let read = serde_json::from_slice(&line);
                let text = || {
                    String::from_utf8_lossy(&line)
                        .trim_end()
                        .chars()
                        .take(200)
                        .collect()
                };
                return read.map(Some).map_err(|e| WireError::Json(e, text()));
            }
            looked = self.pending.len();
            if looked > LONGEST {
                return Err(WireError::Long);
            }
            if self.read()? == 0 {
                return Ok(None);
            }
        }
    }

    /// A descriptor that came with a message before.
    pub fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop_front()
    }

    fn read(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 16 << 10];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = loop {
            let mut slices = [IoSliceMut::new(&mut buffer)];
            match recvmsg(
                &self.stream,
                &mut slices,
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Err(rustix::io::Errno::INTR) => {}
                // The other end is gone.
                Err(rustix::io::Errno::CONNRESET) => return Ok(0),
                outcome => break outcome?.bytes,
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        self.pending.extend_from_slice(&buffer[..got]);
        Ok(got)
    }
}

/// Sends on a connection whose other direction another thread has.
pub struct Sender(UnixStream);

impl Sender {
    pub fn send(&self, message: &impl Serialize) -> io::Result<()> {
        send(&self.0, message, &[])
    }

    /// Wakes this side's thread that reads, with the end of the stream.
    pub fn end_reading(&self) {
        // It may be closed already.
        drop(self.0.shutdown(std::net::Shutdown::Read));
    }
}

fn send(
    mut stream: &UnixStream,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = loop {
        let slices = [IoSlice::new(&line)];
        match sendmsg(stream.as_fd(), &slices, &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            outcome => break outcome?,
        }
    };
    stream.write_all(&line[sent..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn messages_and_descriptors_arrive_together() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut ours, mut theirs) = (Channel::new(ours).unwrap(), Channel::new(theirs).unwrap());
        let long = Reply::Text("x".repeat(1 << 20));
        let (mut end, given) = UnixStream::pair().unwrap();
        let started = Reply::Started {
            pid: 7,
            streams: [false, true, false],
        };
        let sending = std::thread::spawn({
            let (long, started) = (long.clone(), started.clone());
            move || {
                ours.send(&long).unwrap();
                ours.send_with(&started, &[given.as_fd()]).unwrap();
                assert_eq!(
                    ours.receive::<Request>(None).unwrap(),
                    Some(Request::Status)
                );
            }
        });
        assert_eq!(theirs.receive::<Reply>(None).unwrap(), Some(long));
        assert_eq!(theirs.receive::<Reply>(None).unwrap(), Some(started));
        let mut taken = UnixStream::from(theirs.take_descriptor().unwrap());
        taken.write_all(b"through").unwrap();
        drop(taken);
        theirs.send(&Request::Status).unwrap();
        sending.join().unwrap();
        assert_eq!(theirs.receive::<Reply>(None).unwrap(), None);
        let mut text = String::new();
        end.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut theirs = Channel::new(theirs).unwrap();
        ours.write_all(b"{\"rob\": 1}\n").unwrap();
        let said = theirs.receive::<Request>(None).unwrap_err().to_string();
        assert!(said.contains("rob"), "{said}");
        let limit = Some(Duration::from_millis(10));
        let late = theirs.receive::<Request>(limit).unwrap_err();
        assert!(matches!(late, WireError::Io(e) if e.kind() == io::ErrorKind::WouldBlock));
    }
}
