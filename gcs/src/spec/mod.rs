//! From the OCI spec that the host sends to the one that is run (protocol section 5).
//!
//! ```text
//! Create ── check_id ── prepare (in a task) ── Prepared
//! Execute ── exec_process (in a task) ── OCI process for the runtime
//! Delete, failed Create ── remove_files (in a task)
//! ```
//!
//! Holds: members that nobody here knows survive (P-130); no path inside a root file system
//! is followed out of it; a failed [`prepare`] takes back what it made.

mod document;
mod files;
mod id;
mod inside;
mod kind;
mod standalone;
mod user;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Failure;
use crate::storage::tree;

pub use document::network_namespace;
pub use files::{hosts, resolv_conf, Adapter};
pub use id::check_id;
pub use kind::Kind;
pub use user::exec_process;

/// What a spec is rewritten against.
#[derive(Debug, Clone)]
pub struct Context {
    /// Parent of the per-container directories.
    pub containers: PathBuf,
    /// The UVM's own name, for containers without one.
    pub hostname: String,
    /// The adapters of the container's network namespace, in the order added.
    pub adapters: Vec<Adapter>,
}

impl Default for Context {
    fn default() -> Self {
        let hostname = nix::unistd::gethostname()
            .ok()
            .and_then(|name| name.into_string().ok())
            .unwrap_or_else(|| "localhost".into());
        Self {
            containers: "/run/gcs/c".into(),
            hostname,
            adapters: Vec::new(),
        }
    }
}

impl Context {
    /// `/run/gcs/c/<cid>`: where the generated files of a container are.
    pub fn root(&self, id: &str) -> PathBuf {
        self.containers.join(id)
    }
}

/// A container whose files are written, ready for the runtime.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prepared {
    /// What `<bundle>/config.json` holds.
    pub config: Value,
    pub kind: Kind,
    /// Its init gets a pty.
    pub terminal: bool,
    /// The kernel ends the whole container with its init (5.11).
    pub owns_pid_namespace: bool,
}

/// Rewrites `spec`, writes the generated files and `<bundle>/config.json` (5.1 steps 3 and 5).
/// Blocks: run it in a task. After a later step failed undo it by [`remove_files`].
pub fn prepare(
    id: &str,
    bundle: &Path,
    spec: Value,
    context: &Context,
) -> Result<Prepared, Failure> {
    check_id(id)?;
    let kind = Kind::of(&spec)?;
    match kind {
        Kind::Standalone => standalone::prepare(id, bundle, spec, context),
        Kind::Sandbox | Kind::Workload { .. } => Err(Failure::unspecified(format!(
            "containers of kind {} are not supported yet",
            kind.name()
        ))),
    }
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
    let root = context.root(id);
    [scratch, bundle, root.as_path()]
        .into_iter()
        .map(tree::remove)
        .fold(Ok(()), Result::and)
}
