//! From the OCI spec that the host sends to the one that is run (protocol section 5).
//!
//! ```text
//! Create ── check ── prepare (in a task) ── Prepared ── engine
//!                     standalone | sandbox | workload
//! Execute ── exec_user (in a task) ── exec_process ── OCI process for the runtime
//! Delete, failed Create ── remove_files (in a task)
//! ```
//!
//! Holds: members that nobody here knows survive (P-130); no path inside a root file system,
//! or inside what containers share, is followed out of it; a failed [`prepare`] takes back
//! what it made, and what a later failure has to take back is in [`Prepared`].

mod annotations;
mod assigned;
mod devices;
mod document;
mod files;
mod id;
mod inside;
mod kind;
mod made;
mod mounts;
mod sandbox;
mod security;
mod standalone;
mod user;
mod workload;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Failure;
use crate::prot::HResult;
use crate::storage::{clean, tree, Roots};
use document::{flag, object, required, text, top, Object};

pub use document::{network_namespace, owns_pid_namespace};
pub use files::{hosts, resolv_conf, Adapter};
pub use id::check_id;
pub use kind::{sandbox_id, Kind};
pub use made::Made;
pub use security::Security;
pub use user::{exec_process, exec_user};

/// What a spec is rewritten against.
#[derive(Debug, Clone)]
pub struct Context {
    /// Parent of the per-container directories.
    pub containers: PathBuf,
    /// Parent of the bundles of later hosts, which are the per-container directories there.
    pub pods: PathBuf,
    /// The directory of a workload's sandbox, when that is known.
    pub sandbox: Option<PathBuf>,
    /// The UVM's own name, for containers without one.
    pub hostname: String,
    /// The adapters of the container's network namespace, in the order added, or why a sandbox
    /// cannot have them.
    pub adapters: Result<Vec<Adapter>, Failure>,
    pub security: Security,
    pub roots: Roots,
    /// How long all assigned devices together may take to appear.
    pub device_limit: Duration,
}

impl Default for Context {
    fn default() -> Self {
        let hostname = nix::unistd::gethostname()
            .ok()
            .and_then(|name| name.into_string().ok())
            .unwrap_or_else(|| "localhost".into());
        Self {
            containers: "/run/gcs/c".into(),
            pods: "/run/gcs/pods".into(),
            sandbox: None,
            hostname,
            adapters: Ok(Vec::new()),
            security: Security::default(),
            roots: Roots::default(),
            device_limit: Duration::from_secs(50),
        }
    }
}

impl Context {
    /// `/run/gcs/c/<cid>`: the bundle of a container whose host names none.
    pub fn bundle(&self, id: &str) -> PathBuf {
        self.containers.join(id)
    }

    /// Where the generated files of a container are.
    pub fn root(&self, id: &str, bundle: &Path) -> PathBuf {
        if bundle.starts_with(&self.pods) {
            bundle.to_owned()
        } else {
            self.containers.join(id)
        }
    }

    /// Refuses a directory of the host's that is removed with the container, but is not only
    /// the container's. `what` names it in errors; an empty path is none.
    pub fn check_removable(&self, what: &str, path: &Path) -> Result<(), Failure> {
        let refused = |why: &str| {
            let text = format!("{what} {:?}: {why}", path.display().to_string());
            Err(Failure::new(HResult::INVALID_ARGUMENT, text))
        };
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        let path = match clean(path) {
            Ok(path) => path,
            Err(error) => return refused(&error.to_string()),
        };
        let kept = SYSTEM.iter().map(Path::new);
        let kept = kept.chain([self.containers.as_path(), self.pods.as_path()]);
        for kept in kept {
            if kept.starts_with(&path) {
                return refused("it holds more than this container, with which it is removed");
            }
        }
        Ok(())
    }
}

/// Directories that stay, with all above them.
const SYSTEM: [&str; 14] = [
    "/bin",
    "/dev",
    "/etc",
    "/lib",
    "/proc",
    "/run/gcs/runtime",
    "/run/layers",
    "/run/mounts/scsi",
    "/sbin",
    "/sys",
    "/sys/fs/cgroup",
    "/tmp",
    "/usr",
    "/var",
];

/// What later requests need of a spec as it was rewritten.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outline {
    /// The root file system in the UVM.
    pub root: PathBuf,
    /// `process.user` and `process.rlimits`; null when there is none.
    pub user: Value,
    pub rlimits: Value,
    /// The sources of its mounts.
    pub sources: Vec<PathBuf>,
}

impl Outline {
    fn of(spec: &Value, root: PathBuf) -> Self {
        let process = &spec["process"];
        let mounts = spec["mounts"].as_array().into_iter().flatten();
        Self {
            root,
            user: process["user"].clone(),
            rlimits: process["rlimits"].clone(),
            sources: mounts
                .filter_map(|mount| mount["source"].as_str().map(PathBuf::from))
                .collect(),
        }
    }
}

/// A container whose files are written, ready for the runtime. The whole spec is only in
/// `<bundle>/config.json`: it may be of any size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prepared {
    pub outline: Outline,
    pub kind: Kind,
    /// Its init gets a pty.
    pub terminal: bool,
    /// The kernel ends the whole container with its init (5.11).
    pub owns_pid_namespace: bool,
    /// What was made outside of the container's own directories, which [`remove_files`] does
    /// not know.
    pub shared: Made,
}

/// One Create under way.
struct Job<'a> {
    id: &'a str,
    bundle: &'a Path,
    context: &'a Context,
    /// The root file system in the UVM.
    root: PathBuf,
    read_only: bool,
    /// Made in the bundle and the container's own directory.
    own: Made,
    /// Made elsewhere.
    shared: Made,
}

impl Job<'_> {
    /// The container's own directory, made when it is missing.
    fn directory(&mut self) -> Result<PathBuf, Failure> {
        let dir = self.context.root(self.id, self.bundle);
        self.own.directories(&dir, 0o755)?;
        Ok(dir)
    }

    fn write_config(&mut self, spec: &Value) -> Result<(), Failure> {
        self.own.directories(self.bundle, 0o700)?;
        let config = serde_json::to_vec(spec)
            .map_err(|e| Failure::unspecified(format!("encode config.json: {e}")))?;
        self.own
            .file(&self.bundle.join("config.json"), &config, 0o600)
    }
}

/// Rewrites `spec`, writes the generated files and `<bundle>/config.json` (5.1 steps 3 to 5).
/// Blocks: run it in a task. After a later step failed undo it by [`Prepared::shared`] and
/// [`remove_files`].
pub fn prepare(
    id: &str,
    bundle: &Path,
    mut spec: Value,
    context: &Context,
) -> Result<Prepared, Failure> {
    check_id(id)?;
    context.check_removable("the bundle path", bundle)?;
    let document = top(&mut spec)?;
    let kind = Kind::of(document)?;
    let root = required(document, "root")?;
    let mut job = Job {
        id,
        bundle,
        context,
        read_only: flag(root, "readonly")?,
        root: match text(root, "path")? {
            "" => {
                return Err(Failure::unspecified(
                    "invalid OCI specification: root.path is missing",
                ))
            }
            path => bundle.join(path),
        },
        own: Made::default(),
        shared: Made::default(),
    };
    let done = rewrite(document, &kind, &mut job).and_then(|(terminal, owns_pid_namespace)| {
        job.write_config(&spec)?;
        Ok((terminal, owns_pid_namespace))
    });
    match done {
        Ok((terminal, owns_pid_namespace)) => Ok(Prepared {
            outline: Outline::of(&spec, job.root),
            kind,
            terminal,
            owns_pid_namespace,
            shared: job.shared,
        }),
        Err(failure) => {
            job.shared.undo(|_| false);
            job.own.undo(|_| false);
            Err(failure)
        }
    }
}

/// What all kinds have in common around what each has of its own; gives `process.terminal` and
/// whether it has a pid namespace of its own.
fn rewrite(spec: &mut Object, kind: &Kind, job: &mut Job<'_>) -> Result<(bool, bool), Failure> {
    // All that can be wrong with the document, before the first file.
    let process = required(spec, "process")?;
    let terminal = flag(process, "terminal")?;
    let cwd = PathBuf::from(text(process, "cwd")?);
    // The host has none to send; others must not run programs as root of the UVM.
    spec.shift_remove("hooks");
    let linux = object(spec, "linux")?;
    linux.insert(
        "cgroupsPath".into(),
        format!("/containers/{}", job.id).into(),
    );
    let owns_pid_namespace = owns_pid_namespace(linux);
    match kind {
        Kind::Standalone => standalone::rewrite(spec, job)?,
        Kind::Sandbox => sandbox::rewrite(spec, job)?,
        Kind::Workload { sandbox } => {
            let pod = job.context.sandbox.clone();
            let pod = pod.unwrap_or_else(|| job.context.bundle(sandbox));
            workload::rewrite(spec, &pod, job)?;
        }
    }
    spec.shift_remove("windows");
    security::add(spec, &job.root, &job.context.security, &mut job.shared)?;
    // P-127; what cannot be made fails later, by name, when the process goes there.
    if cwd != Path::new("/") && !cwd.as_os_str().is_empty() {
        let made = inside::make_directories(&job.root, &cwd, 0o755, &mut Vec::new());
        if let Err(e) = made {
            log::debug!(
                "make working directory {} of {}: {e}",
                cwd.display(),
                job.id
            );
        }
    }
    Ok((terminal, owns_pid_namespace))
}

/// Removes the scratch directory, the bundle and the generated files of a container (6.11
/// step 4), unmounting below them first and never crossing into a mount. Tries all, returns
/// the first failure. An empty path or a missing directory is a success.
pub fn remove_files(
    id: &str,
    scratch: &Path,
    bundle: &Path,
    context: &Context,
) -> Result<(), Failure> {
    let root = context.root(id, bundle);
    [scratch, bundle, root.as_path()]
        .into_iter()
        .map(tree::remove)
        .fold(Ok(()), Result::and)
}

#[cfg(test)]
mod testing;
