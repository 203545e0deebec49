//! Hides environment and annotation values in a JSON document that goes to the log (P-308).

use serde_json::Value;

const HIDDEN: &str = "<scrubbed>";

/// Replaces, at any depth: the values of members named like environments or annotations (maps
/// of strings), and the part after `=` in lists of `NAME=value` words.
pub fn scrub(document: &mut Value) {
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
                .and_then(|word| word.split_once('='))
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
