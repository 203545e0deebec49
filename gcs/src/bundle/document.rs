//! Reading and changing the raw document. `null` counts as absent, and a wrong type is an error
//! that names the member.

use serde_json::{Map, Value};

use crate::error::Failure;

pub(super) type Object = Map<String, Value>;

fn wrong(path: &str, wanted: &str) -> Failure {
    Failure::unspecified(format!("invalid OCI specification: {path} is not {wanted}"))
}

fn missing(path: &str) -> Failure {
    Failure::unspecified(format!("invalid OCI specification: {path} is missing"))
}

/// The document itself.
pub(super) fn top(spec: &mut Value) -> Result<&mut Object, Failure> {
    spec.as_object_mut()
        .ok_or_else(|| wrong("the document", "an object"))
}

/// A member that must be there.
pub(super) fn required<'a>(of: &'a mut Object, name: &str) -> Result<&'a mut Object, Failure> {
    match of.get_mut(name) {
        None | Some(Value::Null) => Err(missing(name)),
        Some(value) => value
            .as_object_mut()
            .ok_or_else(|| wrong(name, "an object")),
    }
}

/// A member that is made when it is missing.
pub(super) fn object<'a>(of: &'a mut Object, name: &str) -> Result<&'a mut Object, Failure> {
    let value = of.entry(name).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    value
        .as_object_mut()
        .ok_or_else(|| wrong(name, "an object"))
}

/// A list that is made when it is missing.
pub(super) fn list<'a>(of: &'a mut Object, name: &str) -> Result<&'a mut Vec<Value>, Failure> {
    let value = of.entry(name).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Array(Vec::new());
    }
    value.as_array_mut().ok_or_else(|| wrong(name, "a list"))
}

/// A text; absent, null and empty are the same.
pub(super) fn text<'a>(of: &'a Object, name: &str) -> Result<&'a str, Failure> {
    match of.get(name) {
        None | Some(Value::Null) => Ok(""),
        Some(value) => value.as_str().ok_or_else(|| wrong(name, "a string")),
    }
}

pub(super) fn flag(of: &Object, name: &str) -> Result<bool, Failure> {
    match of.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(value) => value.as_bool().ok_or_else(|| wrong(name, "true or false")),
    }
}

/// A text of one entry of a list; `at` names the entry in errors.
pub(super) fn text_at<'a>(entry: &'a Value, at: &str, name: &str) -> Result<&'a str, Failure> {
    match entry.get(name) {
        None | Some(Value::Null) if entry.is_object() => Ok(""),
        Some(Value::String(text)) => Ok(text),
        None => Err(wrong(at, "an object")),
        Some(_) => Err(wrong(&format!("{at}.{name}"), "a string")),
    }
}

/// One annotation; `None` when there is none of that name.
pub(super) fn annotation<'a>(spec: &'a Object, name: &str) -> Result<Option<&'a str>, Failure> {
    match spec.get("annotations") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(all)) => match all.get(name) {
            None => Ok(None),
            Some(value) => value
                .as_str()
                .map(Some)
                .ok_or_else(|| wrong(&format!("annotation {name}"), "a string")),
        },
        Some(_) => Err(wrong("annotations", "an object")),
    }
}

/// `windows.network.networkNamespace`, in lower case (P-107); `None` when there is none or it
/// is empty. Read it before [`super::prepare`], which removes the section.
pub fn network_namespace(spec: &Value) -> Option<String> {
    spec.get("windows")?
        .get("network")?
        .get("networkNamespace")?
        .as_str()
        .filter(|id| !id.is_empty())
        .map(str::to_lowercase)
}

/// Whether `linux.namespaces` makes a pid namespace of the container's own (5.11).
pub fn owns_pid_namespace(linux: &Map<String, Value>) -> bool {
    linux
        .get("namespaces")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .any(|ns| {
            ns["type"] == "pid"
                && ns
                    .get("path")
                    .is_none_or(|path| path.is_null() || path == "")
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pid_namespace_is_owned_when_it_is_not_joined() {
        for (namespaces, owned) in [
            (json!({}), false),
            (json!({"namespaces": null}), false),
            (json!({"namespaces": [{"type": "mount"}]}), false),
            (
                json!({"namespaces": [{"type": "mount"}, {"type": "pid"}]}),
                true,
            ),
            (json!({"namespaces": [{"type": "pid", "path": ""}]}), true),
            (
                json!({"namespaces": [{"type": "pid", "path": "/proc/1/ns/pid"}]}),
                false,
            ),
        ] {
            let linux = namespaces.as_object().unwrap();
            assert_eq!(owns_pid_namespace(linux), owned, "{namespaces}");
        }
    }

    #[test]
    fn the_network_namespace_is_in_lower_case() {
        let spec =
            json!({"windows": {"layerFolders": null, "network": {"networkNamespace": "AB-c"}}});
        assert_eq!(network_namespace(&spec).as_deref(), Some("ab-c"));
        assert_eq!(
            network_namespace(&json!({"windows": {"network": {"networkNamespace": ""}}})),
            None
        );
        assert_eq!(network_namespace(&json!({})), None);
    }

    #[test]
    fn wrong_types_are_named() {
        let mut spec = json!({"process": [], "mounts": {}, "hostname": 1});
        let spec = spec.as_object_mut().unwrap();
        assert!(required(spec, "process")
            .unwrap_err()
            .message
            .contains("process is not an object"));
        assert!(required(spec, "root")
            .unwrap_err()
            .message
            .contains("root is missing"));
        assert!(list(spec, "mounts")
            .unwrap_err()
            .message
            .contains("mounts is not a list"));
        assert!(text(spec, "hostname")
            .unwrap_err()
            .message
            .contains("hostname is not a string"));
    }
}
