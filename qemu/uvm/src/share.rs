//! A directory or file of this machine in the VM: a thread of this process serves it over 9P2000.L
//! ([`uvm_share`]) to the connection that the guest opens, so no socket of this machine is opened.
//!
//! A host serves its directories on port 564 (protocol 7.3). Here each has a port of its own that
//! nobody can guess, because a container can dial too, and the first who dials is served.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use serde_json::json;

use uvm_host::HostError;
use uvm_share::{Access, Share};

use crate::attach_error::AttachError;
use crate::uvm::Uvm;

/// The server ends with its connection; this is for a machine that swaps.
const SERVER_LIMIT: Duration = Duration::from_secs(30);

/// A 9P server at work.
pub(crate) struct ShareServer {
    connection: UnixStream,
    /// Closed when the server has ended.
    ended: Receiver<()>,
    port: u32,
}

impl ShareServer {
    /// The port that the guest dialled.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Waits until it is gone. The guest has closed its connection; otherwise it is closed here.
    pub(crate) fn end(&mut self) {
        // It is closed already, as a rule.
        drop(self.connection.shutdown(Shutdown::Both));
        if self.ended.recv_timeout(SERVER_LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
            log::error!("a 9P server does not end though its connection did");
        }
    }
}

/// Makes the guest dial a server of the directory or file and mount it at `path`. A file is the
/// only entry there.
pub(crate) fn share(
    vm: &Uvm,
    source: &Path,
    path: &str,
    read_only: bool,
) -> Result<ShareServer, AttachError> {
    let name = source.display().to_string();
    let access = match read_only {
        true => Access::ReadOnly,
        false => Access::ReadWrite,
    };
    let served = Share::open(source, access).map_err(|source| AttachError::Source {
        path: name.clone(),
        source,
    })?;
    let (send, dialled) = mpsc::channel();
    let taker = move |stream: UnixStream| {
        // Nobody listens when the request has failed meanwhile.
        drop(send.send(serve(served, stream)));
    };
    let port = vm
        .on_dial_anywhere(taker)
        .map_err(AttachError::mount(&name))?;
    let settings = json!({"MountPath": path, "Port": port, "ReadOnly": read_only});
    let added = vm
        .modify("MappedDirectory", "Add", settings)
        .map_err(AttachError::mount(&name));
    if added.is_err() {
        vm.off_dial(port);
    }
    match (added, dialled.try_recv()) {
        (Ok(()), Ok(Ok((connection, ended)))) => Ok(ShareServer {
            connection,
            ended,
            port,
        }),
        (Err(e), _) => Err(e),
        (Ok(()), Ok(Err(source))) => Err(AttachError::Server { path: name, source }),
        (Ok(()), Err(_)) => Err(AttachError::mount(&name)(HostError::Unusable {
            doing: "MappedDirectory".into(),
            detail: "the guest reported success without a server".into(),
        })),
    }
}

/// Serves on a thread of its own, to the end of the connection. Returns that, and what is closed
/// when the server has ended.
fn serve(share: Share, stream: UnixStream) -> std::io::Result<(UnixStream, Receiver<()>)> {
    let connection = stream.try_clone()?;
    let (tell, ended) = mpsc::channel::<()>();
    let run = move || {
        if let Err(e) = share.serve(&stream) {
            log::error!("a 9P server ended: {e}");
        }
        drop(stream.shutdown(Shutdown::Both));
        drop(tell);
    };
    std::thread::Builder::new().name("9p".into()).spawn(run)?;
    Ok((connection, ended))
}
