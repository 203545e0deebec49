//! What the containers of a pod share, and what hosts of 2026 say about it by annotations
//! (protocol 16.4).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::document::{annotation, list, Object};
use super::mounts::{below, bind};
use super::{annotations, inside, made, ContainerKind, Job};
use crate::error::Failure;

const HOST_NETWORK: &str = "io.microsoft.virtualmachine.lcow.hostnetwork";
const SKIP_NETWORK: &str = "io.microsoft.cri.skip-pod-networking";
pub(super) const VIRTUAL_POD: &str = "io.microsoft.cri.virtual-pod-id";
const LOG_PATH: &str = "io.microsoft.container.lcow.tee-log-path";
const LOG_MOUNT: &str = "io.microsoft.container.lcow.tee-log-dir-mount";

/// Beside the bundles of sandboxes: the directories of virtual pods.
pub(super) const VIRTUAL_PODS: &str = "virtual-pods";
/// Below a pod's directory.
const LOGS: &str = "logs";

/// What the containers of a pod have together. A container without a pod has it for itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Holds the generated files, the mounts of `sandbox://` and the logs.
    pub directory: PathBuf,
    /// Its containers live in the network namespace of the VM.
    pub host_network: bool,
}

impl Pod {
    /// The pod of a container that is being created. A workload has that of its sandbox, whatever
    /// its own annotations say.
    pub(super) fn of(kind: &ContainerKind, spec: &Object, job: &Job<'_>) -> Result<Self, Failure> {
        let own = job.context.root(job.id, job.bundle);
        let directory = match kind {
            ContainerKind::Workload { sandbox } => {
                let known = job.context.sandbox.clone();
                return Ok(known.unwrap_or_else(|| Self {
                    directory: job.context.bundle(sandbox),
                    host_network: false,
                }));
            }
            ContainerKind::Sandbox if virtual_pod(spec)?.is_some() => {
                let beside = job.bundle.parent().unwrap_or(job.bundle);
                beside.join(VIRTUAL_PODS).join(job.id)
            }
            ContainerKind::Sandbox | ContainerKind::Standalone => own,
        };
        Ok(Self {
            directory,
            host_network: annotations::flag(spec, HOST_NETWORK, false)?,
        })
    }

    /// Takes a container of a pod in the VM's network namespace out of every other one.
    pub(super) fn share_network(&self, linux: &mut Object) -> Result<(), Failure> {
        if self.host_network {
            list(linux, "namespaces")?.retain(|namespace| namespace["type"] != "network");
        }
        Ok(())
    }
}

/// The virtual pod that a container belongs to, if it is in one.
pub(super) fn virtual_pod(spec: &Object) -> Result<Option<&str>, Failure> {
    Ok(annotation(spec, VIRTUAL_POD)?.filter(|id| !id.is_empty()))
}

/// Whether the Create of this container makes its network namespace known, instead of needing one to
/// which an adapter was added: pods without a network of their own, and virtual pods (P-384).
pub fn brings_network_namespace(spec: &Value, id: &str) -> bool {
    let said = |name: &str| spec.get("annotations")?.get(name)?.as_str();
    let skips = said(SKIP_NETWORK).is_some_and(|text| text.eq_ignore_ascii_case("true"));
    skips || said(VIRTUAL_POD) == Some(id)
}

/// Makes the directory of the pod's logs, shows it to the container where it asks for that (P-380),
/// and returns the file to which the output of its first process is to be copied (P-378).
pub(super) fn logs(
    spec: &mut Object,
    kind: &ContainerKind,
    job: &mut Job<'_>,
) -> Result<Option<PathBuf>, Failure> {
    let said = |name| annotation(spec, name).map(|text| text.filter(|text| !text.is_empty()));
    let directory = job.pod.directory.join(LOGS);
    let file = match said(LOG_PATH)? {
        None => None,
        Some(path) => {
            let refused = |why: &str| {
                Failure::unspecified(format!("annotation {LOG_PATH} is {path:?}: {why}"))
            };
            let file = below(&directory, path).map_err(|why| refused(&why))?;
            if file.as_os_str().is_empty() {
                return Err(refused("it names no file"));
            }
            Some(file)
        }
    };
    let shown = said(LOG_MOUNT)?.map(str::to_owned);
    if *kind == ContainerKind::Sandbox || file.is_some() || shown.is_some() {
        let made = match kind {
            ContainerKind::Workload { .. } => &mut job.shared,
            ContainerKind::Sandbox | ContainerKind::Standalone => &mut job.own,
        };
        made.directories(&job.pod.directory, 0o755)?;
        made.directories(&directory, 0o777)?;
        if let Some(parent) = file.as_deref().and_then(Path::parent) {
            let mut new = Vec::new();
            let done = inside::make_directories(&directory, parent, 0o777, &mut new);
            new.into_iter().for_each(|path| made.made_directory(path));
            done.map_err(|error| made::failed("make", &directory.join(parent), &error))?;
        }
    }
    if let Some(destination) = shown {
        list(spec, "mounts")?.push(bind(&destination, &directory, false));
    }
    Ok(file.map(|file| directory.join(file)))
}

#[cfg(test)]
#[path = "pod_tests.rs"]
mod tests;
