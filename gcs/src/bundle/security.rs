//! The security context directory (5.10). A program in the container finds there what its VM is
//! attested against.

use std::path::Path;

use nix::unistd::mkdtemp;

use super::annotations::{self, AMD_CERTIFICATE, SECURITY_ENV};
use super::document::{annotation, list, required, Object};
use super::made::{failed, set_mode, Made};
use crate::error::Failure;

const VARIABLE: &str = "UVM_SECURITY_CONTEXT_DIR";

/// What the host has sent about the security of this VM, as received (7.11). "" means nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Security {
    /// `EncodedSecurityPolicy`
    pub policy: String,
    /// `EncodedUVMReference`
    pub reference: String,
    /// `EncodedUVMHashEnvelopeReference`
    pub hash_envelope: String,
}

/// Writes the directory into the root file system and names it in the environment. Does nothing
/// without data, or when the annotation turns it off (P-133).
pub(super) fn add(
    spec: &mut Object,
    root: &Path,
    security: &Security,
    made: &mut Made,
) -> Result<(), Failure> {
    if !annotations::flag(spec, SECURITY_ENV, true)? {
        return Ok(());
    }
    let certificate = annotation(spec, AMD_CERTIFICATE)?.unwrap_or_default();
    let files: Vec<_> = [
        ("security-policy-base64", security.policy.as_str()),
        ("reference-info-base64", security.reference.as_str()),
        (
            "transparent-reference-info-base64",
            security.hash_envelope.as_str(),
        ),
        ("host-amd-cert-base64", certificate),
    ]
    .into_iter()
    .filter(|(_, text)| !text.is_empty())
    .collect();
    if files.is_empty() {
        return Ok(());
    }
    let template = root.join("security-context-XXXXXX");
    let dir = mkdtemp(&template)
        .map_err(|e| failed("make the security context directory", &template, &e.into()))?;
    made.made_directory(dir.clone());
    set_mode(&dir, 0o755)?;
    for (name, text) in files {
        made.file(&dir.join(name), text.as_bytes(), 0o744)?;
    }
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let variable = format!("{VARIABLE}=/{name}");
    list(required(spec, "process")?, "env")?.push(variable.into());
    Ok(())
}

#[cfg(test)]
#[path = "security_tests.rs"]
mod tests;
