//! A directory of this machine in the VM: diod serves it over 9P2000.L.
//!
//! diod has links, renames, locks and extended attributes. It takes a connection as its standard
//! streams, so neither a socket nor a port of this machine is opened.
//!
//! It gets the directory as an open descriptor, and exports what `/proc/self/fd` has of that. So
//! nobody needs a right to the directories above, as with a bind mount: root's diod answers each
//! user of the guest with that user's rights, and attaches as `nobody`.

use std::fs::File;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{ChildStderr, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use nix::fcntl::OFlag;
use serde_json::json;

use uvm_host::HostError;
use uvm_vm::{child, choice};

use crate::attach_error::AttachError;
use crate::uvm::Uvm;

/// Where a host serves its directories (protocol 7.3).
pub(crate) const PORT: u32 = 564;
const SERVER: &str = "diod";
/// The server ends with its connection; this is for a machine that swaps.
const SERVER_LIMIT: Duration = Duration::from_secs(30);
/// The most that is kept of what it says, in bytes.
const SAID: u64 = 4096;

/// A 9P server at work.
pub(crate) struct ShareServer {
    connection: UnixStream,
    /// Gets what the server said, when it ended.
    ended: Receiver<String>,
}

impl ShareServer {
    /// Waits until it is gone. The guest has closed its connection; otherwise it is closed here.
    /// Returns what it said on its standard error, the first time.
    pub(crate) fn end(&mut self) -> String {
        // It is closed already, as a rule.
        drop(self.connection.shutdown(Shutdown::Both));
        match self.ended.recv_timeout(SERVER_LIMIT) {
            Ok(said) => said,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                log::error!("{SERVER} does not end though its connection did");
                String::new()
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => String::new(),
        }
    }
}

/// Makes the guest dial a server of `directory` and mount it.
pub(crate) fn share(
    vm: &Uvm,
    directory: &Path,
    path: &str,
    read_only: bool,
) -> Result<ShareServer, AttachError> {
    let name = directory.to_string_lossy().into_owned();
    let server = choice::program(SERVER).ok_or(AttachError::NoServer)?;
    let opened = File::options()
        .read(true)
        .custom_flags((OFlag::O_PATH | OFlag::O_DIRECTORY).bits())
        .open(directory)
        .map_err(|source| AttachError::Source {
            path: name.clone(),
            source,
        })?;
    let opened = OwnedFd::from(opened);
    // With the dot it is the directory, and not a symbolic link to it.
    let export = format!("/proc/self/fd/{}/.", child::number(&opened));
    let command = server_command(&server, &export, read_only);
    // The guest dials the same port for every share.
    let _turn = vm.plan9_turn();
    let (send, dialled) = mpsc::channel();
    let taker = move |stream: UnixStream| {
        // Nobody listens when the request has failed meanwhile.
        drop(send.send(serve(command, opened, stream)));
    };
    vm.on_dial(PORT, taker).map_err(AttachError::mount(&name))?;
    let settings = json!({"MountPath": path, "Port": PORT, "ShareName": export,
        "ReadOnly": read_only});
    let added = vm
        .modify("MappedDirectory", "Add", settings)
        .map_err(AttachError::mount(&name));
    if added.is_err() {
        vm.off_dial(PORT);
    }
    match (added, dialled.try_recv()) {
        (Ok(()), Ok(Ok(server))) => Ok(server),
        (Err(_), Ok(Err(source))) => Err(AttachError::Server { path: name, source }),
        (Err(e), Ok(Ok(mut server))) => {
            let said = server.end();
            match said.is_empty() {
                true => Err(e),
                false => Err(AttachError::Served {
                    failure: Box::new(e),
                    said,
                }),
            }
        }
        (Err(e), Err(_)) => Err(e),
        (Ok(()), Ok(Err(_)) | Err(_)) => Err(AttachError::mount(&name)(HostError::Unusable {
            doing: "MappedDirectory".into(),
            detail: "the guest reported success without a server".into(),
        })),
    }
}

fn server_command(server: &Path, export: &str, read_only: bool) -> Command {
    let mut command = Command::new(server);
    command.args("-f -n -L stderr -c /dev/null --rfdno=0 --wfdno=1".split(' '));
    command.arg("-e").arg(export);
    if read_only {
        command.args(["-o", "ro"]);
    }
    if !nix::unistd::geteuid().is_root() {
        // It cannot become other users, so every user of the guest is this one.
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid())
            .ok()
            .flatten();
        let user = user.map_or_else(String::new, |user| user.name);
        command.args(["-S", "-U", &user]);
    }
    command
}

/// Runs the server on a thread of its own, to the end of the connection. It would die with the
/// thread.
fn serve(mut command: Command, directory: OwnedFd, stream: UnixStream) -> io::Result<ShareServer> {
    let (connection, output) = (stream.try_clone()?, stream.try_clone()?);
    command
        .stdin(OwnedFd::from(stream))
        .stdout(OwnedFd::from(output))
        .stderr(Stdio::piped());
    let (tell, ended) = mpsc::channel();
    let last = connection.try_clone()?;
    let run = move || {
        let started = child::spawn_bound(&mut command, vec![directory]);
        // The command holds copies of the connection. They are dropped so that the guest sees its
        // end.
        drop(command);
        let said = match started {
            Ok(mut server) => {
                let said = server.stderr.take().map(hear).unwrap_or_default();
                match server.wait() {
                    Ok(status) => log::debug!("{SERVER} ended: {status}"),
                    Err(e) => log::error!("waiting for {SERVER}: {e}"),
                }
                said
            }
            Err(e) => {
                log::error!("{SERVER} cannot be started: {e}");
                format!("it cannot be started: {e}")
            }
        };
        drop(last.shutdown(Shutdown::Both));
        // The share may have been dropped.
        drop(tell.send(said));
    };
    std::thread::Builder::new().name("9p".into()).spawn(run)?;
    Ok(ShareServer { connection, ended })
}

/// Reads to the end, keeps the beginning, and makes one line of it.
fn hear(mut stderr: ChildStderr) -> String {
    let mut kept = Vec::new();
    let read = Read::by_ref(&mut stderr).take(SAID).read_to_end(&mut kept);
    let read = read.and_then(|_| io::copy(&mut stderr, &mut io::sink()));
    if let Err(e) = read {
        log::debug!("what {SERVER} says: {e}");
    }
    let text = String::from_utf8_lossy(&kept);
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.join("; ")
}
