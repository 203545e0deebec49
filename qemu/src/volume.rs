//! What a container gets beside its root file system: directories of this machine over 9P, and
//! disk images over SCSI.
//!
//! ```text
//! directory ── diod, one per share, on the connection that the guest opens ── MappedDirectory
//! disk      ── SCSI hot-plug ── MappedVirtualDisk
//!   both at a path of the VM, which the container's spec binds to the path inside
//! ```
//!
//! diod serves the whole of 9P2000.L: links, renames, locks, extended attributes. It takes a
//! connection as its standard streams, so neither a socket nor a port of this machine is opened.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{json, Value};

use crate::choice;
use crate::host::HostError;
use crate::qmp::Place;
use crate::sys::child;
use crate::uvm::{Uvm, UvmError};

/// Where a host serves its directories (protocol.md 7.3).
const PORT: u32 = 564;
const SERVER: &str = "diod";

#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("{text:?} is not of the form {form}")]
    Form { text: String, form: &'static str },
    #[error("{path} cannot be given to a container: {source}")]
    Source {
        path: String,
        source: std::io::Error,
    },
    #[error("{path} cannot be shared: its name contains a comma, which 9P mounts do not take")]
    Comma { path: String },
    #[error("sharing directories needs the 9P server diod (apt-get install diod)")]
    NoServer,
    #[error("mounting {path}: {source}")]
    Host { path: String, source: HostError },
    #[error(transparent)]
    Uvm(#[from] UvmError),
}

/// One thing for a container, as the command line names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    source: Source,
    /// Its place in the container.
    target: String,
    read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    /// A directory, or a file in one.
    Share(PathBuf),
    /// A disk image.
    Disk(PathBuf),
}

impl Volume {
    /// `HOST:CONTAINER[:ro]`
    pub fn share(text: &str) -> Result<Self, VolumeError> {
        Self::parse(text, "HOST:CONTAINER[:ro]", Source::Share)
    }

    /// `FILE:PATH[:ro]`
    pub fn disk(text: &str) -> Result<Self, VolumeError> {
        Self::parse(text, "FILE:PATH[:ro]", Source::Disk)
    }

    fn parse(
        text: &str,
        form: &'static str,
        source: impl FnOnce(PathBuf) -> Source,
    ) -> Result<Self, VolumeError> {
        let (rest, read_only) = match text.strip_suffix(":ro") {
            Some(rest) => (rest, true),
            None => (text.strip_suffix(":rw").unwrap_or(text), false),
        };
        match rest.rsplit_once(':') {
            Some((from, target)) if !from.is_empty() && target.starts_with('/') => Ok(Self {
                source: source(from.into()),
                target: target.to_owned(),
                read_only,
            }),
            _ => Err(VolumeError::Form {
                text: text.to_owned(),
                form,
            }),
        }
    }
}

/// A volume in the VM.
pub struct Mounted {
    /// For the container's spec.
    pub mount: Value,
    what: What,
    path: String,
}

enum What {
    Share,
    Disk(Place),
}

impl Mounted {
    /// Gives the VM the volume with this number of container `id`.
    pub fn new(vm: &Uvm, id: &str, number: usize, volume: &Volume) -> Result<Self, VolumeError> {
        // As hosts place them.
        let path = format!("/run/gcs/c/{id}/mounts/m{number}");
        let (what, inside) = match &volume.source {
            Source::Share(host) => {
                let (directory, file) = resolve(host)?;
                share(vm, &directory, &path, volume.read_only)?;
                let inside = file.map_or_else(|| path.clone(), |file| format!("{path}/{file}"));
                (What::Share, inside)
            }
            Source::Disk(file) => {
                let place = vm.attach_disk(file, format_of(file), volume.read_only)?;
                let settings = json!({"MountPath": path, "Lun": place.lun,
                    "Controller": place.controller, "ReadOnly": volume.read_only});
                modify(vm, "MappedVirtualDisk", "Add", &path, settings)?;
                (What::Disk(place), path.clone())
            }
        };
        let access = if volume.read_only { "ro" } else { "rw" };
        Ok(Self {
            mount: json!({"destination": volume.target, "type": "none", "source": inside,
                "options": ["rbind", access]}),
            what,
            path,
        })
    }

    /// Takes it away again; the container must be gone.
    pub fn remove(self, vm: &Uvm) -> Result<(), VolumeError> {
        let path = &self.path;
        match self.what {
            What::Share => {
                let settings = json!({"MountPath": path, "Port": PORT});
                modify(vm, "MappedDirectory", "Remove", path, settings)
            }
            What::Disk(place) => {
                let settings = json!({"MountPath": path, "Lun": place.lun,
                    "Controller": place.controller});
                modify(vm, "MappedVirtualDisk", "Remove", path, settings)?;
                Ok(vm.detach_disk(place)?)
            }
        }
    }
}

fn modify(
    vm: &Uvm,
    resource: &str,
    request: &str,
    path: &str,
    settings: Value,
) -> Result<(), VolumeError> {
    vm.modify(resource, request, settings)
        .map_err(|source| VolumeError::Host {
            path: path.to_owned(),
            source,
        })
}

/// Has the guest mount a directory of this machine at `path`.
pub fn share(vm: &Uvm, directory: &Path, path: &str, read_only: bool) -> Result<(), VolumeError> {
    let name = directory.to_string_lossy().into_owned();
    if name.contains(',') {
        return Err(VolumeError::Comma { path: name });
    }
    let server = choice::program(SERVER).ok_or(VolumeError::NoServer)?;
    let mut command = Command::new(server);
    command.args([
        "-f",
        "-n",
        "-L",
        "stderr",
        "-c",
        "/dev/null",
        "--rfdno=0",
        "--wfdno=1",
    ]);
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
    let failed = |source| VolumeError::Host {
        path: name.clone(),
        source,
    };
    vm.on_dial(PORT, move |stream| serve(command, stream))
        .map_err(failed)?;
    let settings = json!({"MountPath": path, "Port": PORT, "ShareName": name,
        "ReadOnly": read_only});
    let added = modify(vm, "MappedDirectory", "Add", &name, settings);
    if added.is_err() {
        vm.off_dial(PORT);
    }
    added
}

/// Runs the server to the end of the connection, on a thread with which it would die.
fn serve(mut command: Command, stream: UnixStream) {
    std::thread::spawn(move || {
        let output = match stream.try_clone() {
            Ok(output) => output,
            Err(e) => return log::error!("{SERVER}: {e}"),
        };
        command
            .stdin(OwnedFd::from(stream))
            .stdout(OwnedFd::from(output))
            .stderr(Stdio::null());
        let started = child::spawn_bound(&mut command, Vec::new());
        // Our copies of the connection: the guest must see its end.
        drop(command);
        let ended = started.and_then(|mut server| server.wait());
        match ended {
            Ok(status) => log::debug!("{SERVER} ended: {status}"),
            Err(e) => log::error!("{SERVER} cannot be started: {e}"),
        }
    });
}

/// The directory to be shared, and the file in it if it is one that is wanted.
fn resolve(host: &Path) -> Result<(PathBuf, Option<String>), VolumeError> {
    let failed = |source| VolumeError::Source {
        path: host.display().to_string(),
        source,
    };
    let path = host.canonicalize().map_err(failed)?;
    if path.is_dir() {
        return Ok((path, None));
    }
    let file = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
    Ok((directory, file))
}

/// QEMU's name of an image's format, by the file's own.
fn format_of(file: &Path) -> &'static str {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_name_volumes() {
        let share = |text| Volume::share(text).map(|v| (v.source, v.target, v.read_only));
        let path = |path: &str| Source::Share(path.into());
        assert_eq!(share("/a:/b").unwrap(), (path("/a"), "/b".into(), false));
        assert_eq!(share("a:/b:ro").unwrap(), (path("a"), "/b".into(), true));
        assert_eq!(
            share("/a:b:/c:rw").unwrap(),
            (path("/a:b"), "/c".into(), false)
        );
        for wrong in ["", "/a", "/a:", "/a:b", ":/b", "/a:ro", ":ro"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
        let disk = Volume::disk("x.vhdx:/data:ro").unwrap();
        assert_eq!(disk.source, Source::Disk("x.vhdx".into()));
    }

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
}
