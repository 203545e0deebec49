//! What a container is to its host (5.2).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::document::annotation;
use crate::error::Failure;

const TYPE: &str = "io.kubernetes.cri.container-type";
const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Standalone,
    /// A pod's first container; its id is the pod's.
    Sandbox,
    Workload {
        sandbox: String,
    },
}

impl Kind {
    pub fn of(spec: &Value) -> Result<Self, Failure> {
        match annotation(spec, TYPE)? {
            None => Ok(Self::Standalone),
            Some("sandbox") => Ok(Self::Sandbox),
            Some("container") => match annotation(spec, SANDBOX_ID)? {
                Some(sandbox) if !sandbox.is_empty() => Ok(Self::Workload {
                    sandbox: sandbox.to_owned(),
                }),
                _ => Err(Failure::unspecified(format!(
                    "a container of a pod needs the annotation {SANDBOX_ID}"
                ))),
            },
            Some(other) => Err(Failure::unspecified(format!(
                "annotation {TYPE} is {other:?}, not \"sandbox\" or \"container\""
            ))),
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Standalone => "standalone",
            Self::Sandbox => "sandbox",
            Self::Workload { .. } => "workload",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_annotation_decides_the_kind() {
        let workload = Kind::Workload {
            sandbox: "pod".into(),
        };
        for (annotations, kind) in [
            (json!({}), Some(Kind::Standalone)),
            (json!(null), Some(Kind::Standalone)),
            (json!({TYPE: "sandbox"}), Some(Kind::Sandbox)),
            (
                json!({TYPE: "container", SANDBOX_ID: "pod"}),
                Some(workload),
            ),
            (json!({TYPE: "container"}), None),
            (json!({TYPE: "container", SANDBOX_ID: ""}), None),
            (json!({TYPE: ""}), None),
            (json!({TYPE: "Sandbox"}), None),
            (json!({TYPE: 1}), None),
            (json!([]), None),
        ] {
            let spec = json!({"annotations": annotations});
            assert_eq!(Kind::of(&spec).ok(), kind, "{spec}");
        }
    }
}
