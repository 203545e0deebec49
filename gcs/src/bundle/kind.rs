//! What a container is to its host (5.2).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::check_id;
use super::document::{annotation, Object};
use crate::error::Failure;

const TYPE: &str = "io.kubernetes.cri.container-type";
const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";

/// The sandbox that a spec of a workload names, not yet checked.
pub fn sandbox_id(spec: &Value) -> Option<&str> {
    spec.get("annotations")?.get(SANDBOX_ID)?.as_str()
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
    pub(super) fn of(spec: &Object) -> Result<Self, Failure> {
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
                Some(workload),
            ),
            (json!({TYPE: "container"}), None),
            (json!({TYPE: "container", SANDBOX_ID: ""}), None),
            (json!({TYPE: "container", SANDBOX_ID: "../pod"}), None),
            (json!({TYPE: ""}), None),
            (json!({TYPE: "Sandbox"}), None),
            (json!({TYPE: 1}), None),
            (json!([]), None),
        ] {
            let spec = json!({"annotations": annotations});
            let got = ContainerKind::of(spec.as_object().unwrap());
            assert_eq!(got.ok(), kind, "{spec}");
        }
    }
}
