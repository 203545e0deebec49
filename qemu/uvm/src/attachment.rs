//! What a running VM has of this machine, each at a path of the VM: directories over 9P, disk
//! images over SCSI, files as persistent memory.
//!
//! ```text
//! directory ── diod, one per share, on the connection that the guest opens ── MappedDirectory
//! disk      ── SCSI hot-plug ── MappedVirtualDisk
//! memory    ── virtio-pmem behind a root port ── VPMemDevice
//! ```
//!
//! An attach that fails leaves neither the guest nor QEMU with anything; a removal that fails can
//! be tried again. The exception is QEMU's own: it cannot unplug persistent memory. Such a device
//! stays, unmounted, and is used again when its file is.
//!
//! diod serves the whole of 9P2000.L: links, renames, locks, extended attributes. It takes a
//! connection as its standard streams, so neither a socket nor a port of this machine is opened.

use std::fs::File;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use serde_json::{json, Value};

use crate::{Uvm, UvmError};
use uvm_host::HostError;
use uvm_vm::child;
use uvm_vm::choice;
use uvm_vm::qmp::Place;

/// Where a host serves its directories (protocol.md 7.3).
const PORT: u32 = 564;
const SERVER: &str = "diod";
/// The server ends with its connection; this is for a machine that swaps.
const SERVER_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("{path} cannot be given to a VM: {source}")]
    Source { path: String, source: io::Error },
    #[error("{path} cannot be shared: its name contains a comma, which 9P mounts do not take")]
    Comma { path: String },
    #[error("sharing directories needs the 9P server diod (apt-get install diod)")]
    NoServer,
    #[error("the 9P server {SERVER} of {path} cannot be started: {source}")]
    Server { path: String, source: io::Error },
    #[error(
        "{path} holds no file system that the guest mounts (ext4, xfs, EROFS, SquashFS); it was \
         not plugged in, because QEMU cannot unplug persistent memory"
    )]
    NoFileSystem { path: String },
    #[error("mounting {path}: {source}")]
    Mount { path: String, source: HostError },
    #[error("unmounting {path}: {source}")]
    Unmount { path: String, source: HostError },
    #[error(transparent)]
    Uvm(#[from] UvmError),
}

/// One thing, mounted.
pub struct Attachment {
    path: String,
    what: What,
}

enum What {
    Share(Server),
    Disk(Place),
    /// By its device number.
    Pmem(u32),
}

impl Attachment {
    /// Shares a directory of this machine at `path` of the VM.
    pub fn share(
        vm: &Uvm,
        directory: &Path,
        path: &str,
        read_only: bool,
    ) -> Result<Self, AttachError> {
        let server = share(vm, directory, path, read_only)?;
        Ok(Self::new(path, What::Share(server)))
    }

    /// Mounts a disk image, of the format that its name tells, at `path` of the VM.
    pub fn disk(vm: &Uvm, file: &Path, path: &str, read_only: bool) -> Result<Self, AttachError> {
        Self::disk_with(vm, file, path, read_only, &[])
    }

    /// Mounts a disk image so that mounts below `path` propagate to where it is bound to.
    pub fn shared_disk(vm: &Uvm, file: &Path, path: &str) -> Result<Self, AttachError> {
        Self::disk_with(vm, file, path, false, &["shared"])
    }

    fn disk_with(
        vm: &Uvm,
        file: &Path,
        path: &str,
        read_only: bool,
        options: &[&str],
    ) -> Result<Self, AttachError> {
        let place = vm.attach_disk(file, format_of(file), read_only)?;
        let settings = json!({"MountPath": path, "Lun": place.lun, "Options": options,
            "Controller": place.controller, "ReadOnly": read_only});
        if let Err(e) = mount(vm, "MappedVirtualDisk", path, settings) {
            if let Err(undo) = vm.detach_disk(place) {
                log::error!("a disk that cannot be mounted stays plugged in: {undo}");
            }
            return Err(e);
        }
        Ok(Self::new(path, What::Disk(place)))
    }

    /// Mounts a raw file as persistent memory, read-only as all of it is, at `path` of the VM.
    pub fn pmem(vm: &Uvm, file: &Path, path: &str) -> Result<Self, AttachError> {
        let failed = |source| AttachError::Source {
            path: file.display().to_string(),
            source,
        };
        if !has_file_system(file).map_err(failed)? {
            let path = file.display().to_string();
            return Err(AttachError::NoFileSystem { path });
        }
        let number = vm.attach_pmem(file)?;
        let settings = json!({"DeviceNumber": number, "MountPath": path});
        if let Err(e) = mount(vm, "VPMemDevice", path, settings) {
            vm.park_pmem(number);
            return Err(e);
        }
        Ok(Self::new(path, What::Pmem(number)))
    }

    fn new(path: &str, what: What) -> Self {
        let path = path.to_owned();
        Self { path, what }
    }

    /// Where it is in the VM.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Takes it away again; nothing in the VM may use it. What an attempt that failed has done
    /// already is no obstacle to the next.
    pub fn remove(&mut self, vm: &Uvm) -> Result<(), AttachError> {
        let path = &self.path;
        match &mut self.what {
            What::Share(server) => {
                let settings = json!({"MountPath": path, "Port": PORT});
                unmount(vm, "MappedDirectory", path, settings)?;
                server.end();
            }
            What::Disk(place) => {
                let settings = json!({"MountPath": path, "Lun": place.lun,
                    "Controller": place.controller});
                unmount(vm, "MappedVirtualDisk", path, settings)?;
                vm.detach_disk(*place)?;
            }
            What::Pmem(number) => {
                let settings = json!({"DeviceNumber": *number, "MountPath": path});
                unmount(vm, "VPMemDevice", path, settings)?;
                vm.park_pmem(*number);
            }
        }
        Ok(())
    }
}

fn mount(vm: &Uvm, resource: &str, path: &str, settings: Value) -> Result<(), AttachError> {
    vm.modify(resource, "Add", settings)
        .map_err(|source| AttachError::Mount {
            path: path.to_owned(),
            source,
        })
}

fn unmount(vm: &Uvm, resource: &str, path: &str, settings: Value) -> Result<(), AttachError> {
    vm.modify(resource, "Remove", settings)
        .map_err(|source| AttachError::Unmount {
            path: path.to_owned(),
            source,
        })
}

/// A 9P server at work.
struct Server {
    connection: UnixStream,
    /// Says how it went, at the end.
    ended: Receiver<io::Result<()>>,
}

impl Server {
    /// Waits until it is gone. The guest has closed its connection; one that did not gets no
    /// more.
    fn end(&mut self) {
        // It is closed, as a rule.
        drop(self.connection.shutdown(Shutdown::Both));
        match self.ended.recv_timeout(SERVER_LIMIT) {
            Err(mpsc::RecvTimeoutError::Timeout) => {
                log::error!("{SERVER} does not end though its connection did");
            }
            // It told its thread's log.
            Ok(_) | Err(mpsc::RecvTimeoutError::Disconnected) => {}
        }
    }
}

/// Has the guest dial a server of `directory` and mount it.
fn share(vm: &Uvm, directory: &Path, path: &str, read_only: bool) -> Result<Server, AttachError> {
    let name = directory.to_string_lossy().into_owned();
    if name.contains(',') {
        return Err(AttachError::Comma { path: name });
    }
    let server = choice::program(SERVER).ok_or(AttachError::NoServer)?;
    let command = server_command(&server, directory, read_only);
    let mounting = |source| AttachError::Mount {
        path: name.clone(),
        source,
    };
    // All dial the same port.
    let _turn = vm.plan9_turn();
    let (send, dialled) = mpsc::channel();
    let taker = move |stream: UnixStream| {
        // Nobody listens any more when the request failed meanwhile.
        drop(send.send(serve(command, stream)));
    };
    vm.on_dial(PORT, taker).map_err(mounting)?;
    let settings = json!({"MountPath": path, "Port": PORT, "ShareName": name,
        "ReadOnly": read_only});
    let added = mount(vm, "MappedDirectory", &name, settings);
    if added.is_err() {
        vm.off_dial(PORT);
    }
    match (added, dialled.try_recv()) {
        (Ok(()), Ok(Ok(server))) => Ok(server),
        (Err(_), Ok(Err(source))) => Err(AttachError::Server { path: name, source }),
        (Err(e), Ok(Ok(mut server))) => {
            server.end();
            Err(e)
        }
        (Err(e), Err(_)) => Err(e),
        (Ok(()), Ok(Err(_)) | Err(_)) => Err(mounting(HostError::Unusable {
            doing: "MappedDirectory".into(),
            detail: "the guest reported success without a server".into(),
        })),
    }
}

fn server_command(server: &Path, directory: &Path, read_only: bool) -> Command {
    let mut command = Command::new(server);
    command.args("-f -n -L stderr -c /dev/null --rfdno=0 --wfdno=1".split(' '));
    command.arg("-e").arg(directory);
    if read_only {
        command.args(["-o", "ro"]);
    }
    if !nix::unistd::geteuid().is_root() {
        // It cannot become other users, so all of the guest's are this one.
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid())
            .ok()
            .flatten();
        let user = user.map_or_else(String::new, |user| user.name);
        command.args(["-S", "-U", &user]);
    }
    command
}

/// Runs the server to the end of the connection, on a thread with which it would die.
fn serve(mut command: Command, stream: UnixStream) -> io::Result<Server> {
    let (connection, output) = (stream.try_clone()?, stream.try_clone()?);
    command
        .stdin(OwnedFd::from(stream))
        .stdout(OwnedFd::from(output))
        .stderr(Stdio::null());
    let (tell, ended) = mpsc::channel();
    let last = connection.try_clone()?;
    let run = move || {
        let started = child::spawn_bound(&mut command, Vec::new());
        // Our copies of the connection: the guest must see its end.
        drop(command);
        let done = started.and_then(|mut server| server.wait());
        match &done {
            Ok(status) => log::debug!("{SERVER} ended: {status}"),
            Err(e) => log::error!("{SERVER} cannot be started: {e}"),
        }
        drop(last.shutdown(Shutdown::Both));
        // The share may be gone.
        drop(tell.send(done.map(drop)));
    };
    std::thread::Builder::new().name("9p".into()).spawn(run)?;
    Ok(Server { connection, ended })
}

/// QEMU's name of an image's format, by the file's own.
pub fn format_of(file: &Path) -> &'static str {
    let extension = file
        .extension()
        .map(|extension| extension.to_ascii_lowercase());
    match extension
        .as_deref()
        .and_then(|extension| extension.to_str())
    {
        Some("vhd") => "vpc",
        Some("vhdx") => "vhdx",
        Some("qcow2") => "qcow2",
        _ => "raw",
    }
}

/// Offset and bytes of the file systems that the guest finds by content.
const MAGICS: [(usize, &[u8]); 4] = [
    (1024 + 0x38, &[0x53, 0xef]),
    (0, b"XFSB"),
    (1024, &[0xe2, 0xe1, 0xf5, 0xe0]),
    (0, b"hsqs"),
];

fn has_file_system(file: &Path) -> io::Result<bool> {
    let mut head = Vec::new();
    File::open(file)?.take(4096).read_to_end(&mut head)?;
    Ok(MAGICS
        .iter()
        .any(|(at, magic)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_formats() {
        for (name, format) in [
            ("a.vhd", "vpc"),
            ("a.VHDX", "vhdx"),
            ("a.qcow2", "qcow2"),
            ("a.img", "raw"),
            ("a", "raw"),
        ] {
            assert_eq!(format_of(Path::new(name)), format, "{name}");
        }
    }

    #[test]
    fn content_tells_file_systems() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        for (at, magic) in MAGICS {
            let mut bytes = vec![0; at];
            bytes.extend_from_slice(magic);
            std::fs::write(&file, &bytes).unwrap();
            assert!(has_file_system(&file).unwrap());
            bytes[at] ^= 1;
            std::fs::write(&file, &bytes).unwrap();
            assert!(!has_file_system(&file).unwrap());
        }
    }
}
