//! What a real host's decoder takes and what makes it drop the bridge (protocol 1.7, 2).
//!
//! Payload bytes in, a checked `Value` with canonical member names out, or the text of a
//! report. The rules are those of Go's decoder: names in any letter case, null leaves the
//! default, unknown members are ignored, integers are plain decimals in range.

use serde_json::{Map, Value};

use crate::wire::Rpc;

/// What a member must be. Null is always fine.
#[derive(Clone, Copy)]
enum Shape {
    Bool,
    Text,
    Guid,
    I32,
    U32,
    /// Text that holds a JSON document.
    JsonText,
    Any,
    Object(&'static [(&'static str, Shape)]),
    List(&'static Shape),
}

const RECORD: Shape = Shape::Object(&[
    ("Result", Shape::I32),
    ("Message", Shape::Text),
    ("StackTrace", Shape::Text),
    ("ModuleName", Shape::Text),
    ("FileName", Shape::Text),
    ("Line", Shape::U32),
    ("FunctionName", Shape::Text),
]);

const BASE: &[(&str, Shape)] = &[
    ("Result", Shape::I32),
    ("ActivityId", Shape::Guid),
    ("ErrorMessage", Shape::Text),
    ("ErrorRecords", Shape::List(&RECORD)),
];

const VERSION: Shape = Shape::Object(&[("Major", Shape::U32), ("Minor", Shape::U32)]);

const CAPABILITIES: Shape = Shape::Object(&[
    ("SendHostCreateMessage", Shape::Bool),
    ("SendHostStartMessage", Shape::Bool),
    ("HvSocketConfigOnStartup", Shape::Bool),
    ("SendLifecycleNotifications", Shape::Bool),
    ("SupportedSchemaVersions", Shape::List(&VERSION)),
    ("RuntimeOsType", Shape::Text),
    ("GuestDefinedCapabilities", Shape::Any),
]);

const NOTIFICATION: &[(&str, Shape)] = &[
    ("ContainerId", Shape::Text),
    ("ActivityId", Shape::Guid),
    ("Type", Shape::Text),
    ("Operation", Shape::Text),
    ("Result", Shape::I32),
    ("ResultInfo", Shape::JsonText),
];

/// The members beyond the base that the host reads of each answer.
fn members(rpc: Rpc) -> &'static [(&'static str, Shape)] {
    match rpc {
        Rpc::NegotiateProtocol => &[("Version", Shape::U32), ("Capabilities", CAPABILITIES)],
        Rpc::ExecuteProcess => &[("ProcessId", Shape::U32)],
        Rpc::WaitForProcess => &[("ExitCode", Shape::U32)],
        Rpc::GetProperties => &[("Properties", Shape::JsonText)],
        Rpc::DumpStacks => &[("GuestStacks", Shape::Text)],
        _ => &[],
    }
}

/// Decodes the answer to `rpc` (`None`: a request type the host does not know; base only).
pub fn response(rpc: Option<Rpc>, payload: &[u8]) -> Result<Map<String, Value>, String> {
    object(payload, &[BASE, rpc.map_or(&[], members)])
}

/// Decodes a notification.
pub fn notification(payload: &[u8]) -> Result<Map<String, Value>, String> {
    object(payload, &[NOTIFICATION])
}

fn object(
    payload: &[u8],
    shapes: &[&'static [(&'static str, Shape)]],
) -> Result<Map<String, Value>, String> {
    // Go replaces what is not UTF-8 by U+FFFD; serde_json would refuse it.
    let text = String::from_utf8_lossy(payload);
    let value: Value = serde_json::from_str(&text).map_err(|e| format!("not JSON: {e}"))?;
    let members = match value {
        Value::Null => Map::new(),
        Value::Object(members) => members,
        other => return Err(format!("the payload is {}, not an object", kind(&other))),
    };
    let mut named = Map::new();
    for (name, value) in members {
        let known = shapes
            .iter()
            .flat_map(|s| s.iter())
            .find(|(n, _)| n.eq_ignore_ascii_case(&name));
        match known {
            Some((canonical, shape)) => {
                check(canonical, *shape, &value)?;
                if !value.is_null() {
                    named.insert((*canonical).to_owned(), value);
                }
            }
            None => {
                named.insert(name, value);
            }
        }
    }
    Ok(named)
}

fn check(at: &str, shape: Shape, value: &Value) -> Result<(), String> {
    let wrong = |wanted: &str| Err(format!("{at} is {}, not {wanted}", kind(value)));
    match (shape, value) {
        (Shape::Any, _) => Ok(()),
        // null keeps the default; a GUID's default is the null GUID.
        (_, Value::Null) => Ok(()),
        (Shape::Bool, Value::Bool(_)) | (Shape::Text, Value::String(_)) => Ok(()),
        (Shape::Guid, Value::String(text)) if is_guid(text) => Ok(()),
        (Shape::Guid, Value::String(text)) => Err(format!(
            "{at} is {text:?}, not a GUID; leave it out when there is none"
        )),
        (Shape::I32, Value::Number(n)) => match n.as_i64().map(i32::try_from) {
            Some(Ok(_)) => Ok(()),
            _ => Err(format!("{at} is {n}, not a plain signed 32-bit integer")),
        },
        (Shape::U32, Value::Number(n)) => match n.as_u64().map(u32::try_from) {
            Some(Ok(_)) => Ok(()),
            _ => Err(format!("{at} is {n}, not a plain unsigned 32-bit integer")),
        },
        (Shape::JsonText, Value::String(text)) => serde_json::from_str::<Value>(text)
            .map(drop)
            .map_err(|e| format!("{at} is text that does not hold JSON: {e}")),
        (Shape::Object(members), Value::Object(found)) => {
            for (name, value) in found {
                if let Some((canonical, shape)) =
                    members.iter().find(|(n, _)| n.eq_ignore_ascii_case(name))
                {
                    check(&format!("{at}.{canonical}"), *shape, value)?;
                }
            }
            Ok(())
        }
        (Shape::List(item), Value::Array(items)) => items
            .iter()
            .enumerate()
            .try_for_each(|(i, value)| check(&format!("{at}[{i}]"), *item, value)),
        (Shape::Bool, _) => wrong("a boolean"),
        (Shape::Text | Shape::Guid, _) => wrong("a string"),
        (Shape::I32 | Shape::U32, _) => wrong("a number"),
        (Shape::JsonText, _) => wrong("a string that holds JSON"),
        (Shape::Object(_), _) => wrong("an object"),
        (Shape::List(_), _) => wrong("an array"),
    }
}

fn is_guid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
