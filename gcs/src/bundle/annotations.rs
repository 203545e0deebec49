//! Annotations that change a spec (5.12). Pure.

use serde_json::{json, Value};

use super::document::{annotation, list, required, Object};
use super::mounts::has_destination;
use crate::error::Failure;

const SHARED_MEMORY: &str = "io.microsoft.lcow.shm.size-kb";
const CORE_LIMIT: &str = "io.microsoft.lcow.rlimitcore";
pub(super) const PRIVILEGED: &str = "io.microsoft.virtualmachine.lcow.privileged";
pub(super) const SECURITY_ENV: &str = "io.microsoft.virtualmachine.lcow.securitypolicy.env";
pub(super) const AMD_CERTIFICATE: &str = "io.microsoft.virtualmachine.lcow.amd-certificate";
pub(super) const GPU_CAPABILITIES: &str = "io.microsoft.container.gpu.capabilities";

/// `true` and `false` in any case. Anything else counts as absent and is logged.
pub(super) fn flag(spec: &Object, name: &str, default: bool) -> Result<bool, Failure> {
    Ok(match annotation(spec, name)? {
        None => default,
        Some(text) if text.eq_ignore_ascii_case("true") => true,
        Some(text) if text.eq_ignore_ascii_case("false") => false,
        Some(_) => {
            log::warn!("annotation {name} is neither true nor false: taken as {default}");
            default
        }
    })
}

/// A decimal without a sign.
fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// The size of `/dev/shm` in KiB (P-117). It replaces a mount at that path.
pub(super) fn shared_memory(spec: &mut Object) -> Result<(), Failure> {
    let Some(size) = annotation(spec, SHARED_MEMORY)? else {
        return Ok(());
    };
    if decimal(size).is_none_or(|size| size == 0) {
        return Err(Failure::unspecified(format!(
            "annotation {SHARED_MEMORY} is not a positive number of KiB"
        )));
    }
    let mount = json!({
        "destination": "/dev/shm",
        "type": "tmpfs",
        "source": "shm",
        "options": ["nosuid", "noexec", "nodev", "mode=1777", format!("size={size}k")],
    });
    let mounts = list(spec, "mounts")?;
    mounts.retain(|mount| !has_destination(mount, "/dev/shm"));
    mounts.push(mount);
    Ok(())
}

/// `soft;hard` of `RLIMIT_CORE` in bytes (P-118). An existing entry is replaced, because engines
/// refuse a second one.
pub(super) fn core_limit(spec: &mut Object) -> Result<(), Failure> {
    let limits = match annotation(spec, CORE_LIMIT)? {
        None | Some("") => return Ok(()),
        Some(text) => text
            .split_once(';')
            .and_then(|(soft, hard)| Some((decimal(soft)?, decimal(hard)?))),
    };
    let Some((soft, hard)) = limits else {
        return Err(Failure::unspecified(format!(
            "annotation {CORE_LIMIT} is not \"soft;hard\" in bytes"
        )));
    };
    let rlimits = list(required(spec, "process")?, "rlimits")?;
    rlimits.retain(|limit: &Value| limit["type"] != "RLIMIT_CORE");
    rlimits.push(json!({"type": "RLIMIT_CORE", "soft": soft, "hard": hard}));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, value: &str) -> Value {
        json!({
            "annotations": {name: value},
            "process": {"rlimits": [
                {"type": "RLIMIT_CORE", "soft": 9, "hard": 9},
                {"type": "RLIMIT_NOFILE", "soft": 3, "hard": 4},
            ]},
            "mounts": [{"destination": "/dev/shm/", "source": "old"}, {"destination": "/x"}],
        })
    }

    #[test]
    fn the_core_limit_replaces_the_one_that_is_there() {
        for (text, wanted) in [
            ("1;2", Some((1, 2))),
            ("0;18446744073709551615", Some((0, u64::MAX))),
            ("2;1", Some((2, 1))),
            ("", Some((9, 9))),
            ("1", None),
            ("1;", None),
            (";1", None),
            ("1;2;3", None),
            ("-1;2", None),
            ("+1;2", None),
            (" 1;2", None),
            ("a;b", None),
            ("1;18446744073709551616", None),
        ] {
            let mut spec = spec(CORE_LIMIT, text);
            let got = core_limit(spec.as_object_mut().unwrap());
            assert_eq!(got.is_ok(), wanted.is_some(), "{text:?}");
            let Some((soft, hard)) = wanted else { continue };
            let limits = spec["process"]["rlimits"].as_array().unwrap();
            assert_eq!(limits.len(), 2, "{text:?}");
            let core = json!({"type": "RLIMIT_CORE", "soft": soft, "hard": hard});
            assert!(limits.contains(&core), "{text:?}: {limits:?}");
        }
    }

    #[test]
    fn shared_memory_gets_its_size() {
        for (text, good) in [
            ("1024", true),
            ("0", false),
            ("00", false),
            ("", false),
            ("-5", false),
            ("+5", false),
            ("5k", false),
            ("18446744073709551616", false),
        ] {
            let mut spec = spec(SHARED_MEMORY, text);
            let got = shared_memory(spec.as_object_mut().unwrap());
            assert_eq!(got.is_ok(), good, "{text:?}");
            if good {
                let shm = json!({
                    "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                    "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=1024k"],
                });
                assert_eq!(spec["mounts"], json!([{"destination": "/x"}, shm]));
            }
        }
    }

    #[test]
    fn flags_are_read_in_any_case() {
        for (text, value) in [
            ("true", Some(true)),
            ("TRUE", Some(true)),
            ("False", Some(false)),
            ("1", None),
            ("", None),
            ("yes", None),
        ] {
            let spec = spec(PRIVILEGED, text);
            for default in [false, true] {
                let got = flag(spec.as_object().unwrap(), PRIVILEGED, default).unwrap();
                assert_eq!(got, value.unwrap_or(default), "{text:?}");
            }
        }
        assert!(flag(&Object::new(), PRIVILEGED, true).unwrap());
        let wrong = json!({"annotations": {PRIVILEGED: 1}});
        assert!(flag(wrong.as_object().unwrap(), PRIVILEGED, true).is_err());
    }
}
