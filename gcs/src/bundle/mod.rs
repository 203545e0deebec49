//! From the OCI spec that the host sends to the one that is run (protocol section 5).
//!
//! ```text
//! Create ── check ── prepare (in a task) ── Prepared ── engine
//!                     standalone | sandbox | workload
//! Execute ── exec_user (in a task) ── exec_process ── OCI process for the runtime
//! Delete, failed Create ── remove_files (in a task)
//! ```
//!
//! Unknown members survive (P-130). No path inside a root file system, or inside what containers
//! share, is followed out of it. A failed [`prepare`] undoes what it has made, and [`Prepared`]
//! holds what a later failure has to undo.

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
mod pod;
mod sandbox;
mod security;
mod standalone;
mod user;
mod workload;

use std::io::ErrorKind::{DirectoryNotEmpty, NotFound};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Failure;
use crate::prot::HResult;
use crate::storage::{clean, tree, Roots};
use document::{flag, object, required, text, top, Object};

pub use assigned::{assigned_devices, AssignedDevice};
pub use document::{network_namespace, owns_pid_namespace};
pub use files::{hosts, resolv_conf, AdapterDns};
pub use id::check_id;
pub use kind::{sandbox_id, ContainerKind};
pub use made::Made;
pub use pod::{brings_network_namespace, Pod};
pub use security::Security;
pub use user::{exec_process, exec_user};

/// What the rewriting of a spec needs to know.
#[derive(Debug, Clone)]
pub struct Context {
    /// Parent of the per-container directories.
    pub containers: PathBuf,
    /// Parent of the bundles of later hosts. There the bundle is the per-container directory.
    pub pods: PathBuf,
    /// The pod of a workload's sandbox, when that is known.
    pub sandbox: Option<Pod>,
    /// The UVM's own name, for containers without one.
    pub hostname: String,
    /// The adapters of the container's network namespace, in the order added, or why a sandbox
    /// cannot have them.
    pub adapters: Result<Vec<AdapterDns>, Failure>,
    pub security: Security,
    pub roots: Roots,
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

    /// Refuses a directory that would be removed with the container although it holds more than the
    /// container's files. `what` names it in errors. An empty path is no directory.
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

/// Directories that are never removed, and neither are those above them.
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

/// What later requests need to know of the rewritten spec.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outline {
    /// The root file system in the UVM.
    pub root: PathBuf,
    /// `process.user` and `process.rlimits`; null when there is none.
    pub user: Value,
    pub rlimits: Value,
    /// The sources of its mounts.
    pub sources: Vec<PathBuf>,
    pub pod: Pod,
    /// The directory of its own generated files, which is removed with it.
    pub own: PathBuf,
    /// What its first process writes is also appended to this file.
    pub log: Option<PathBuf>,
}

impl Outline {
    fn of(spec: &Value, kind: &ContainerKind, job: &Job<'_>, log: Option<PathBuf>) -> Self {
        let process = &spec["process"];
        let mounts = spec["mounts"].as_array().into_iter().flatten();
        let own = match kind {
            ContainerKind::Workload { .. } => job.context.root(job.id, job.bundle),
            ContainerKind::Sandbox | ContainerKind::Standalone => job.pod.directory.clone(),
        };
        Self {
            root: job.root.clone(),
            pod: job.pod.clone(),
            own,
            log,
            user: process["user"].clone(),
            rlimits: process["rlimits"].clone(),
            sources: mounts
                .filter_map(|mount| mount["source"].as_str().map(PathBuf::from))
                .collect(),
        }
    }
}

/// A container whose files are written, ready for the runtime. The whole spec may be of any size,
/// so it is only in `<bundle>/config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prepared {
    pub outline: Outline,
    pub kind: ContainerKind,
    /// Whether its init gets a terminal.
    pub terminal: bool,
    /// Whether the kernel ends the whole container with its init (5.11).
    pub owns_pid_namespace: bool,
    /// What was made outside of the container's own directories, where [`remove_files`] does not
    /// look.
    pub shared: Made,
}

/// One Create in progress.
struct Job<'a> {
    id: &'a str,
    bundle: &'a Path,
    context: &'a Context,
    /// The root file system in the UVM.
    root: PathBuf,
    read_only: bool,
    pod: Pod,
    /// Made in the bundle and the container's own directory.
    own: Made,
    /// Made elsewhere.
    shared: Made,
}

impl Job<'_> {
    /// The directory of the container's pod, or its own, made when it is missing.
    fn directory(&mut self) -> Result<PathBuf, Failure> {
        let dir = self.pod.directory.clone();
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

/// Rewrites `spec`, and writes the generated files and `<bundle>/config.json` (5.1). It blocks, so
/// run it in a task. When a later step fails, undo it by [`Prepared::shared`] and [`remove_files`].
pub fn prepare(
    id: &str,
    bundle: &Path,
    mut spec: Value,
    context: &Context,
) -> Result<Prepared, Failure> {
    check_id(id)?;
    context.check_removable("the bundle path", bundle)?;
    let document = top(&mut spec)?;
    let kind = ContainerKind::of(document, id)?;
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
        pod: Pod::default(),
        own: Made::default(),
        shared: Made::default(),
    };
    job.pod = Pod::of(&kind, document, &job)?;
    let done = rewrite(document, &kind, &mut job).and_then(|rewritten| {
        job.write_config(&spec)?;
        Ok(rewritten)
    });
    match done {
        Ok(rewritten) => Ok(Prepared {
            outline: Outline::of(&spec, &kind, &job, rewritten.log),
            kind,
            terminal: rewritten.terminal,
            owns_pid_namespace: rewritten.owns_pid_namespace,
            shared: job.shared,
        }),
        Err(failure) => {
            job.shared.undo(|_| false);
            job.own.undo(|_| false);
            Err(failure)
        }
    }
}

/// What the rest of a Create has to know of the rewritten spec.
struct Rewritten {
    /// `process.terminal`
    terminal: bool,
    owns_pid_namespace: bool,
    log: Option<PathBuf>,
}

/// The steps that all kinds share, around those of each kind.
fn rewrite(
    spec: &mut Object,
    kind: &ContainerKind,
    job: &mut Job<'_>,
) -> Result<Rewritten, Failure> {
    // Everything that can be wrong with the document is checked before the first file is written.
    let process = required(spec, "process")?;
    let terminal = flag(process, "terminal")?;
    let cwd = PathBuf::from(text(process, "cwd")?);
    // A host sends none, and nobody else may run programs as root of the UVM.
    spec.shift_remove("hooks");
    let linux = object(spec, "linux")?;
    linux.insert(
        "cgroupsPath".into(),
        format!("/containers/{}", job.id).into(),
    );
    let owns_pid_namespace = owns_pid_namespace(linux);
    job.pod.share_network(linux)?;
    // The path of a log is part of the document that may be wrong.
    let log = pod::logs(spec, kind, job)?;
    match kind {
        ContainerKind::Standalone => standalone::rewrite(spec, job)?,
        ContainerKind::Sandbox => sandbox::rewrite(spec, job)?,
        ContainerKind::Workload { .. } => {
            let pod = job.pod.directory.clone();
            workload::rewrite(spec, &pod, job)?;
        }
    }
    spec.shift_remove("windows");
    security::add(spec, &job.root, &job.context.security, &mut job.shared)?;
    // P-127. When the directory cannot be made, the start fails later with an error that names it.
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
    Ok(Rewritten {
        terminal,
        owns_pid_namespace,
        log,
    })
}

/// Removes the bundle, the generated files in `own` and the scratch directory of a container (6.11),
/// and then the directory of its pod, or of all virtual pods, when that is empty (P-390). It unmounts
/// below them first and never crosses into a mount. The bundle may be mounted from the scratch, which
/// therefore comes last and only when the others are gone. An empty path or a missing directory is a
/// success.
pub fn remove_files(
    own: &Path,
    scratch: &Path,
    bundle: &Path,
    context: &Context,
) -> Result<(), Failure> {
    tree::remove(bundle).and(tree::remove(own))?;
    tree::remove(scratch)?;
    let of_pod = bundle
        .parent()
        .filter(|pod| pod.parent() == Some(&context.pods));
    let of_all = own.parent().filter(|all| all.ends_with(pod::VIRTUAL_PODS));
    for directory in of_pod.into_iter().chain(of_all) {
        match std::fs::remove_dir(directory) {
            Err(error) if !matches!(error.kind(), NotFound | DirectoryNotEmpty) => {
                return Err(made::failed("remove", directory, &error));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod testing;
