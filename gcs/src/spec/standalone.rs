//! A container of its own, without a pod (5.6).

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::{json, Value};

use super::document::{flag, list, object, owns_pid_namespace, required, text, top, Object};
use super::{files, inside, user, Context, Kind, Prepared};
use crate::error::Failure;
use crate::storage::clean;

pub(super) fn prepare(
    id: &str,
    bundle: &Path,
    mut spec: Value,
    context: &Context,
) -> Result<Prepared, Failure> {
    if !bundle.is_absolute() {
        return Err(Failure::unspecified(format!(
            "the bundle path {:?} is not absolute",
            bundle.display().to_string()
        )));
    }
    let mut made = Made::default();
    match write(id, bundle, &mut spec, context, &mut made) {
        Ok((terminal, owns_pid_namespace)) => Ok(Prepared {
            config: spec,
            kind: Kind::Standalone,
            terminal,
            owns_pid_namespace,
        }),
        Err(failure) => {
            made.undo();
            Err(failure)
        }
    }
}

fn write(
    id: &str,
    bundle: &Path,
    spec: &mut Value,
    context: &Context,
    made: &mut Made,
) -> Result<(bool, bool), Failure> {
    let top = top(spec)?;
    // All that can be wrong with the document, before the first file.
    let root = required(top, "root")?;
    let read_only = flag(root, "readonly")?;
    let root = match text(root, "path")? {
        "" => {
            return Err(Failure::unspecified(
                "invalid OCI specification: root.path is missing",
            ))
        }
        path => bundle.join(path),
    };
    let process = required(top, "process")?;
    let terminal = flag(process, "terminal")?;
    let cwd = PathBuf::from(text(process, "cwd")?);
    if process.get("user").is_some_and(|user| !user.is_null()) {
        user::resolve_in(&root, object(process, "user")?)?;
    }
    let linux = object(top, "linux")?;
    linux.insert("cgroupsPath".into(), format!("/containers/{id}").into());
    let owns_pid_namespace = owns_pid_namespace(linux);
    top.remove("windows");
    // The host has none to send; others must not run programs as root of the UVM.
    top.remove("hooks");

    let dir = context.root(id);
    made.directories(&dir, 0o755)?;
    generated(top, &dir, read_only, context, made)?;

    // P-127; what cannot be made fails later, by name, when the process goes there.
    if cwd != Path::new("/") && !cwd.as_os_str().is_empty() {
        if let Err(e) = inside::make_directories(&root, &cwd) {
            log::debug!("make working directory {} of {id}: {e}", cwd.display());
        }
    }

    made.directories(bundle, 0o700)?;
    let config = serde_json::to_vec(spec)
        .map_err(|e| Failure::unspecified(format!("encode config.json: {e}")))?;
    made.file(&bundle.join("config.json"), &config, 0o600)?;
    Ok((terminal, owns_pid_namespace))
}

/// Writes the files under `/etc` that the spec does not mount itself, and mounts them.
fn generated(
    spec: &mut Object,
    dir: &Path,
    read_only: bool,
    context: &Context,
    made: &mut Made,
) -> Result<(), Failure> {
    let name = match text(spec, "hostname")? {
        "" => context.hostname.as_str(),
        name => name,
    };
    let contents = [
        ("hostname", files::hostname(name)),
        ("hosts", files::hosts(name)),
        ("resolv.conf", files::resolv_conf(&context.adapters)?),
    ];
    let mounts = list(spec, "mounts")?;
    for (name, text) in contents {
        let destination = format!("/etc/{name}");
        if mounted(mounts, &destination) {
            continue;
        }
        let source = dir.join(name);
        made.file(&source, text.as_bytes(), 0o644)?;
        mounts.push(bind(&destination, &source, read_only));
    }
    Ok(())
}

/// Whether a mount has this destination, however it is spelt.
pub(super) fn mounted(mounts: &[Value], destination: &str) -> bool {
    mounts.iter().any(|mount| {
        mount["destination"].as_str().is_some_and(|given| {
            // Destinations may lack the leading slash; they mean the same.
            clean(&Path::new("/").join(given)).is_ok_and(|path| path == Path::new(destination))
        })
    })
}

pub(super) fn bind(destination: &str, source: &Path, read_only: bool) -> Value {
    let options: &[&str] = if read_only {
        &["bind", "ro"]
    } else {
        &["bind"]
    };
    json!({
        "destination": destination,
        "type": "bind",
        "source": source.to_string_lossy(),
        "options": options,
    })
}

/// What was made, in order, to be taken back.
#[derive(Default)]
struct Made(Vec<PathBuf>);

impl Made {
    /// The directory and its missing parents, each with `mode`; existing ones are left alone.
    fn directories(&mut self, path: &Path, mode: u32) -> Result<(), Failure> {
        let missing: Vec<&Path> = path.ancestors().take_while(|dir| !dir.exists()).collect();
        for dir in missing.into_iter().rev() {
            match DirBuilder::new().mode(mode).create(dir) {
                Ok(()) => self.0.push(dir.to_path_buf()),
                // By another create, at the same time.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(failed("make", dir, &e)),
            }
            fs::set_permissions(dir, Permissions::from_mode(mode))
                .map_err(|e| failed("set the mode of", dir, &e))?;
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, content: &[u8], mode: u32) -> Result<(), Failure> {
        self.0.push(path.to_path_buf());
        fs::write(path, content).map_err(|e| failed("write", path, &e))?;
        fs::set_permissions(path, Permissions::from_mode(mode))
            .map_err(|e| failed("set the mode of", path, &e))
    }

    /// Directories only when nothing else is in them.
    fn undo(self) {
        for path in self.0.iter().rev() {
            let done = if path.is_dir() {
                fs::remove_dir(path)
            } else {
                fs::remove_file(path)
            };
            if let Err(e) = done {
                log::warn!("take back {}: {e}", path.display());
            }
        }
    }
}

fn failed(doing: &str, path: &Path, e: &io::Error) -> Failure {
    Failure::unspecified(format!("{doing} {}: {e}", path.display()))
}

#[cfg(test)]
#[path = "standalone_tests.rs"]
mod tests;
