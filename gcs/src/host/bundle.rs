//! The files of a container, for the time being.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{json, Value};

use crate::error::Failure;
use crate::storage::tree;

pub struct Order {
    pub id: String,
    pub bundle: PathBuf,
    pub spec: Value,
}

#[derive(Serialize, Deserialize)]
pub struct Prepared {
    pub terminal: bool,
    pub owns_pid_namespace: bool,
}

pub fn check_id(_id: &str) -> Result<(), Failure> {
    Ok(())
}

pub fn prepare(order: &Order) -> Result<Prepared, Failure> {
    let mut spec = order.spec.clone();
    spec["linux"]["cgroupsPath"] = json!(format!("/containers/{}", order.id));
    if let Some(map) = spec.as_object_mut() {
        map.remove("windows");
    }
    std::fs::create_dir_all(&order.bundle).map_err(|e| Failure::unspecified(e.to_string()))?;
    std::fs::write(order.bundle.join("config.json"), spec.to_string())
        .map_err(|e| Failure::unspecified(e.to_string()))?;
    let namespaces = spec["linux"]["namespaces"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    Ok(Prepared {
        terminal: spec["process"]["terminal"].as_bool().unwrap_or(false),
        owns_pid_namespace: namespaces
            .iter()
            .any(|n| n["type"] == "pid" && n["path"].is_null()),
    })
}

pub fn remove_bundle(bundle: &Path) -> Result<(), Failure> {
    tree::remove(bundle)
}

pub fn remove_state(bundle: &Path, scratch: Option<&Path>) -> Result<(), Failure> {
    if let Some(scratch) = scratch {
        tree::remove(scratch)?;
    }
    tree::remove(bundle)
}
