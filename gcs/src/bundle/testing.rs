//! For unit tests: directories of a utility VM of their own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{json, Value};

use super::{prepare, AdapterDns, Context, Prepared};
use crate::error::Failure;
use crate::storage::Roots;

/// A container that was prepared.
#[derive(Debug)]
pub struct Written {
    /// What its `config.json` holds.
    pub config: Value,
    pub prepared: Prepared,
}

pub struct TestBundle {
    pub dir: tempfile::TempDir,
    pub context: Context,
}

impl TestBundle {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let context = Context {
            containers: top.join("c"),
            pods: top.join("pods"),
            hostname: "uvm".into(),
            adapters: Ok(vec![AdapterDns {
                dns_suffix: "d".into(),
                dns_servers: "1.1.1.1".into(),
            }]),
            roots: Roots {
                sys: top.join("sys"),
                dev: top.join("dev"),
            },
            ..Context::default()
        };
        Self { dir, context }
    }

    pub fn adapters(&mut self) -> &mut Vec<AdapterDns> {
        self.context.adapters.as_mut().unwrap()
    }

    pub fn bundle(&self, id: &str) -> PathBuf {
        self.context.bundle(id)
    }

    pub fn prepare(&self, id: &str, spec: &Value) -> Result<Written, Failure> {
        let prepared = prepare(id, &self.bundle(id), spec.clone(), &self.context)?;
        let config = self.read(&format!("{id}/config.json")).unwrap();
        Ok(Written {
            config: serde_json::from_str(&config).unwrap(),
            prepared,
        })
    }

    /// The text of a file below the containers' directory.
    pub fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.context.containers.join(name)).ok()
    }
}

pub fn minimal() -> Value {
    json!({"process": {"args": ["a"], "cwd": "/"}, "root": {"path": "rootfs"}})
}

pub fn sandbox() -> Value {
    let mut spec = minimal();
    spec["annotations"] = json!({"io.kubernetes.cri.container-type": "sandbox"});
    spec
}

/// A workload of the pod `pod`.
pub fn workload() -> Value {
    let mut spec = minimal();
    spec["annotations"] = json!({
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.sandbox-id": "pod",
    });
    spec
}

pub fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}
