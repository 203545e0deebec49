//! What a container is to its host (5.2).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::check_id;
use super::document::{annotation, Object};
use super::pod::{virtual_pod, VIRTUAL_POD};
use crate::error::Failure;

const TYPE: &str = "io.kubernetes.cri.container-type";
const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";

/// The sandbox that a spec of a workload names, not yet checked.
pub fn sandbox_id(spec: &Value) -> Option<&str> {
    let annotations = spec.get("annotations")?;
    let named = |name: &str| annotations.get(name)?.as_str().filter(|id| !id.is_empty());
    named(VIRTUAL_POD).or_else(|| named(SANDBOX_ID))
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerKind {
    Standalone,
    /// A pod's first container; its id is the pod's.
    Sandbox,
    Workload {
        sandbox: String,
    },
}

impl ContainerKind {
    /// The kind of the container `id`. In a virtual pod the ids alone decide (P-382).
    pub(super) fn of(spec: &Object, id: &str) -> Result<Self, Failure> {
        if let Some(pod) = virtual_pod(spec)? {
            check_id(pod).map_err(|f| f.during(VIRTUAL_POD))?;
            return Ok(match pod {
                _ if pod == id => Self::Sandbox,
                _ => Self::Workload {
                    sandbox: pod.to_owned(),
                },
            });
        }
        match annotation(spec, TYPE)? {
            None => Ok(Self::Standalone),
            Some("sandbox") => Ok(Self::Sandbox),
            Some("container") => match annotation(spec, SANDBOX_ID)? {
                Some(sandbox) if !sandbox.is_empty() => {
                    // It becomes part of paths.
                    check_id(sandbox).map_err(|f| f.during(SANDBOX_ID))?;
                    Ok(Self::Workload {
                        sandbox: sandbox.to_owned(),
                    })
                }
                _ => Err(Failure::unspecified(format!(
                    "a container of a pod needs the annotation {SANDBOX_ID}"
                ))),
            },
            Some(other) => Err(Failure::unspecified(format!(
                "annotation {TYPE} is {other:?}, not \"sandbox\" or \"container\""
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_annotation_decides_the_kind() {
        let workload = ContainerKind::Workload {
            sandbox: "pod".into(),
        };
        for (annotations, kind) in [
            (json!({}), Some(ContainerKind::Standalone)),
            (json!(null), Some(ContainerKind::Standalone)),
            (json!({TYPE: "sandbox"}), Some(ContainerKind::Sandbox)),
            (
                json!({TYPE: "container", SANDBOX_ID: "pod"}),
                Some(workload.clone()),
            ),
            (json!({TYPE: "container"}), None),
            (json!({TYPE: "container", SANDBOX_ID: ""}), None),
            (json!({TYPE: "container", SANDBOX_ID: "../pod"}), None),
            (json!({TYPE: ""}), None),
            (json!({TYPE: "Sandbox"}), None),
            (json!({TYPE: 1}), None),
            (json!({VIRTUAL_POD: "me"}), Some(ContainerKind::Sandbox)),
            (
                json!({TYPE: "sandbox", VIRTUAL_POD: "pod"}),
                Some(workload.clone()),
            ),
            (
                json!({TYPE: "sandbox", VIRTUAL_POD: ""}),
                Some(ContainerKind::Sandbox),
            ),
            (json!({VIRTUAL_POD: "../pod"}), None),
            (json!([]), None),
        ] {
            let spec = json!({"annotations": annotations});
            let got = ContainerKind::of(spec.as_object().unwrap(), "me");
            assert_eq!(got.ok(), kind, "{spec}");
        }
    }
}
