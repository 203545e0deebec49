//! Requests in the form for the log at level trace. With `-scrub-logs` the values of environments
//! and annotations are left out (P-308).

use serde_json::Value;

const HIDDEN: &str = "<scrubbed>";
/// Members that hold a document as text.
const INNER: [&str; 3] = ["ContainerConfig", "ProcessParameters", "Query"];

/// A request's payload as one line of JSON, in which embedded documents are objects. A payload that
/// is not JSON is not shown, because it could hold anything.
pub fn document(payload: &[u8], scrubbed: bool) -> String {
    let Ok(mut document) = serde_json::from_slice::<Value>(payload) else {
        return format!("{} bytes that are not JSON", payload.len());
    };
    open_inner(&mut document);
    if scrubbed {
        scrub(&mut document);
    }
    document.to_string()
}

fn open_inner(document: &mut Value) {
    match document {
        Value::Object(members) => {
            for (name, value) in members {
                let is_inner = INNER.iter().any(|inner| name.eq_ignore_ascii_case(inner));
                let opened = value.as_str().filter(|_| is_inner).map(|text| {
                    let hidden = format!("{} bytes that are not JSON", text.len());
                    serde_json::from_str(text).unwrap_or(Value::String(hidden))
                });
                match opened {
                    Some(opened) => *value = opened,
                    None => open_inner(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(open_inner),
        _ => {}
    }
}

/// Replaces, at any depth: the values of members named like environments or annotations (maps
/// of strings), and the part after `=` in lists of `NAME=value`.
fn scrub(document: &mut Value) {
    match document {
        Value::Object(members) => {
            for (name, value) in members {
                if ["env", "environment", "annotations"]
                    .iter()
                    .any(|secret| name.eq_ignore_ascii_case(secret))
                {
                    hide(value);
                } else {
                    scrub(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(scrub),
        _ => {}
    }
}

fn hide(value: &mut Value) {
    match value {
        Value::Object(members) => members.values_mut().for_each(|v| *v = HIDDEN.into()),
        Value::Array(items) => items.iter_mut().for_each(|item| {
            let name = item
                .as_str()
                .and_then(|text| text.split_once('='))
                .map(|(n, _)| n);
            *item = name.map_or_else(|| HIDDEN.into(), |n| format!("{n}={HIDDEN}").into());
        }),
        Value::Null => {}
        other => *other = HIDDEN.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn inner_documents_are_opened_and_scrubbed() {
        let inner = json!({"Environment": {"A": "hunter2"}}).to_string();
        let payload = json!({"Settings": {"processparameters": inner}}).to_string();
        let scrubbed = document(payload.as_bytes(), true);
        let wanted = json!({"Settings": {"processparameters": {"Environment": {"A": HIDDEN}}}});
        assert_eq!(scrubbed, wanted.to_string());
        assert!(document(payload.as_bytes(), false).contains("hunter2"));
        for broken in [&b"{\"hunter2"[..], br#"{"ContainerConfig":"{\"hunter2"}"#] {
            assert!(!document(broken, false).contains("hunter2"));
        }
    }

    #[test]
    fn values_go_and_names_stay() {
        let mut document = json!({
            "Environment": {"TOKEN": "secret"},
            "OciProcess": {"env": ["PATH=/bin", "odd"], "args": ["A=b"]},
            "list": [{"annotations": {"k": 1}}],
        });
        scrub(&mut document);
        assert_eq!(
            document,
            json!({
                "Environment": {"TOKEN": "<scrubbed>"},
                "OciProcess": {"env": ["PATH=<scrubbed>", "<scrubbed>"], "args": ["A=b"]},
                "list": [{"annotations": {"k": "<scrubbed>"}}],
            })
        );
    }
}
