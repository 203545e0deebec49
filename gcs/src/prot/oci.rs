//! OCI documents inside messages, handed on as raw JSON so that members nobody knows survive.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use super::json::{Cursor, Decode, Kind};

/// Deeper values become null: no member of the runtime specification nests like that, and
/// what reads the documents later recurses.
const MAX_DEPTH: usize = 100;

macro_rules! documents {
    ($( $(#[$meta:meta])* $name:ident; )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Value);

        impl Default for $name {
            fn default() -> Self {
                Self(Value::Object(Map::new()))
            }
        }

        impl Decode for $name {
            fn decode(&mut self, cursor: &mut Cursor<'_>) {
                match cursor.kind() {
                    Kind::Null => cursor.skip(),
                    Kind::Object => self.0 = raw(cursor, 0),
                    _ => cursor.mismatch("an object"),
                }
            }
        }
    )*};
}

documents! {
    /// `oci.Spec`: a whole container.
    Spec;
    /// `oci.Process`: one process.
    Process;
    /// `oci.LinuxResources`: limits.
    LinuxResources;
}

fn raw(cursor: &mut Cursor<'_>, depth: usize) -> Value {
    if depth == MAX_DEPTH {
        cursor.skip();
        return Value::Null;
    }
    match cursor.kind() {
        Kind::Null => {
            cursor.skip();
            Value::Null
        }
        Kind::Bool => Value::Bool(cursor.scalar() == "true"),
        Kind::Number => number(cursor.scalar()),
        Kind::String => Value::String(cursor.string().into_owned()),
        Kind::Array => {
            let mut elements = Vec::new();
            cursor.array(|cursor| elements.push(raw(cursor, depth + 1)));
            Value::Array(elements)
        }
        Kind::Object => {
            let mut members = Map::new();
            cursor.object(|name, cursor| {
                members.insert(name.to_owned(), raw(cursor, depth + 1));
            });
            Value::Object(members)
        }
    }
}

/// Null when no machine number can hold it.
fn number(text: &str) -> Value {
    text.parse::<u64>()
        .map(Number::from)
        .or_else(|_| text.parse::<i64>().map(Number::from))
        .ok()
        .or_else(|| text.parse().ok().and_then(Number::from_f64))
        .map_or(Value::Null, Value::Number)
}
