//! The streams of a process that is about to start: the ports to dial, the connections, and what
//! the process gets of them.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::OFlag;

use super::container::InitStreams;
use crate::error::Failure;
use crate::prot::{HResult, ProcessParameters, VsockStdioRelaySettings};
use crate::stdio::{input_pipe, output_pipe, Input, Output, Relay, StreamKind};
use crate::sys::channel::set_nonblocking;
use crate::sys::fds;

/// The ports to dial, by stream.
pub struct Ports(pub [Option<u32>; 3]);

/// The connections made, by stream.
pub struct Connections(pub [Option<OwnedFd>; 3]);

impl Ports {
    /// A stream is dialled when its flag is set; then it needs a port (P-150, P-151).
    pub fn new(
        parameters: &ProcessParameters,
        ports: &VsockStdioRelaySettings,
    ) -> Result<Self, Failure> {
        let wanted = [
            ("stdin", parameters.create_std_in_pipe, ports.std_in),
            ("stdout", parameters.create_std_out_pipe, ports.std_out),
            ("stderr", parameters.create_std_err_pipe, ports.std_err),
        ];
        let mut result = [None; 3];
        for (slot, (name, flag, port)) in result.iter_mut().zip(wanted) {
            if flag && port == 0 {
                let text = format!("{name} is asked for without a port");
                return Err(Failure::new(HResult::INVALID_ARGUMENT, text));
            }
            *slot = flag.then_some(port);
        }
        Ok(Self(result))
    }

    /// The connections made to these ports in their order, by stream.
    pub fn connections(&self, dialled: Vec<OwnedFd>) -> Connections {
        let mut open = dialled.into_iter();
        Connections(self.0.map(|port| port.and_then(|_| open.next())))
    }
}

impl Connections {
    /// The relay of an init. A stream that was not asked for gives no input, and its output is
    /// dropped.
    pub fn relay(self, streams: InitStreams) -> std::io::Result<Relay> {
        let Self([stdin, stdout, stderr]) = self;
        let mut relay = Relay::default();
        match streams {
            InitStreams::Pipes {
                stdin: to,
                stdout: out,
                stderr: err,
            } => {
                if let Some(connection) = stdin {
                    relay.add(StreamKind::Stdin, Input::new(connection, to, false));
                }
                relay.add(StreamKind::Stdout, Output::new(out, stdout, false));
                relay.add(StreamKind::Stderr, Output::new(err, stderr, false));
            }
            InitStreams::Terminal(master) => {
                set_nonblocking(master.as_fd(), true)?;
                if let Some(connection) = stdin {
                    relay.add(
                        StreamKind::Stdin,
                        Input::new(connection, master.try_clone()?, true),
                    );
                }
                relay.terminal = Some(master.try_clone()?);
                relay.add(StreamKind::Stdout, Output::new(master, stdout, true));
                relay.idle.extend(stderr);
            }
        }
        Ok(relay)
    }

    /// The connections themselves become the descriptors of the process. There is no relay, and the
    /// exit is published as soon as the process is reaped (protocol 6.6).
    pub fn handed_over(self) -> std::io::Result<([OwnedFd; 3], Relay)> {
        let mut stdio = null_streams()?;
        for (slot, connection) in stdio.iter_mut().zip(self.0) {
            if let Some(connection) = connection {
                set_nonblocking(connection.as_fd(), false)?;
                *slot = connection;
            }
        }
        Ok((stdio, Relay::default()))
    }

    /// Pipes for the streams asked for, `/dev/null` for the others (P-163).
    pub fn pipes(self) -> std::io::Result<([OwnedFd; 3], Relay)> {
        let Self([stdin, stdout, stderr]) = self;
        let mut stdio = null_streams()?;
        let mut relay = Relay::default();
        if let Some(connection) = stdin {
            let (read, write) = input_pipe()?;
            stdio[0] = read;
            relay.add(StreamKind::Stdin, Input::new(connection, write, false));
        }
        let outputs = [(StreamKind::Stdout, stdout), (StreamKind::Stderr, stderr)];
        for (slot, (kind, connection)) in stdio[1..].iter_mut().zip(outputs) {
            if connection.is_some() {
                let (read, write) = output_pipe()?;
                *slot = write;
                relay.add(kind, Output::new(read, connection, false));
            }
        }
        Ok((stdio, relay))
    }

    /// A new terminal for the process, relayed like a container's.
    pub fn through_terminal(self) -> std::io::Result<([OwnedFd; 3], Relay)> {
        use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = posix_openpt(flags)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave: OwnedFd = std::fs::File::options()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_NOCTTY)
            .open(ptsname_r(&master)?)?
            .into();
        let relay = self.relay(InitStreams::Terminal(OwnedFd::from(master)))?;
        Ok(([slave.try_clone()?, slave.try_clone()?, slave], relay))
    }
}

pub fn null_streams() -> std::io::Result<[OwnedFd; 3]> {
    let null = fds::null()?;
    Ok([null.try_clone()?, null.try_clone()?, null])
}
