//! OCI documents inside messages, handed on as JSON so that members nobody knows survive.
//!
//! Read by [`schema`], a table of the runtime specification: known members come out under
//! their exact names, a wrong type is an error as in the reference, null and absent members
//! take the form the reference would write. Unknown members stay as they were sent.

mod schema;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use super::json::{same_name, Cursor, Decode, JsonKind};
use schema::{Member, Shape};

/// Deeper values of unknown members become null: no member of the runtime specification nests
/// like that, and what reads the documents later recurses.
const MAX_DEPTH: usize = 100;

macro_rules! documents {
    ($( $(#[$meta:meta])* $name:ident = $shape:expr; )*) => {$(
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
                    JsonKind::Null => cursor.skip(),
                    JsonKind::Object => self.0 = shaped(&$shape, cursor),
                    _ => cursor.mismatch("an object"),
                }
            }
        }
    )*};
}

documents! {
    /// `oci.Spec`: a whole container.
    Spec = schema::SPEC;
    /// `oci.Process`: one process.
    Process = schema::PROCESS;
    /// `oci.LinuxResources`: limits.
    LinuxResources = schema::LINUX_RESOURCES;
}

/// What stands at the cursor, checked against `shape`.
fn shaped(shape: &Shape, cursor: &mut Cursor<'_>) -> Value {
    if !matches!(shape, Shape::Any) && cursor.null() {
        return zero(shape);
    }
    match (shape, cursor.kind()) {
        (Shape::Any, _) => return raw(cursor, 0),
        (Shape::Text, JsonKind::String) => return Value::String(cursor.string().into_owned()),
        (Shape::Flag, JsonKind::Bool) => return Value::Bool(cursor.scalar() == "true"),
        (Shape::Signed(bits), JsonKind::Number) => match cursor.scalar().parse::<i64>() {
            Ok(value) if value >> (bits - 1) == value >> 63 => return value.into(),
            _ => cursor.misfit(shape.text(), "another number"),
        },
        (Shape::Unsigned(bits), JsonKind::Number) => match cursor.scalar().parse::<u64>() {
            Ok(value) if *bits == 64 || value >> bits == 0 => return value.into(),
            _ => cursor.misfit(shape.text(), "another number"),
        },
        (Shape::List(element), JsonKind::Array) => {
            let mut elements = Vec::new();
            cursor.array(|cursor| elements.push(shaped(element, cursor)));
            return Value::Array(elements);
        }
        (Shape::Map(value), JsonKind::Object) => {
            let mut members = Map::new();
            cursor.object(|name, cursor| {
                members.insert(name.to_owned(), shaped(value, cursor));
            });
            return Value::Object(members);
        }
        (Shape::Record(known), JsonKind::Object) => return record(known, cursor),
        _ => cursor.mismatch(shape.text()),
    }
    zero(shape)
}

fn record(known: &[Member], cursor: &mut Cursor<'_>) -> Value {
    let mut members = Map::new();
    cursor.object(|name, cursor| {
        let Some(member) = known.iter().find(|member| same_name(name, member.name)) else {
            members.insert(name.to_owned(), raw(cursor, 0));
            return;
        };
        if cursor.null() {
            members.shift_remove(member.name);
        } else {
            let value = shaped(&member.shape, cursor.at_member(member.name));
            members.insert(member.name.to_owned(), value);
        }
    });
    complete(known, members)
}

/// Adds the members that the reference always writes.
fn complete(known: &[Member], mut members: Map<String, Value>) -> Value {
    for member in known.iter().filter(|member| member.always) {
        if !members.contains_key(member.name) {
            members.insert(member.name.to_owned(), zero(&member.shape));
        }
    }
    Value::Object(members)
}

/// What null means where a `shape` is wanted.
fn zero(shape: &Shape) -> Value {
    match shape {
        Shape::Any => Value::Null,
        Shape::Text => Value::String(String::new()),
        Shape::Flag => Value::Bool(false),
        Shape::Signed(_) | Shape::Unsigned(_) => 0.into(),
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::Map(_) => Value::Object(Map::new()),
        Shape::Record(known) => complete(known, Map::new()),
    }
}

fn raw(cursor: &mut Cursor<'_>, depth: usize) -> Value {
    if depth == MAX_DEPTH {
        cursor.skip();
        return Value::Null;
    }
    match cursor.kind() {
        JsonKind::Null => {
            cursor.skip();
            Value::Null
        }
        JsonKind::Bool => Value::Bool(cursor.scalar() == "true"),
        JsonKind::Number => number(cursor.scalar()),
        JsonKind::String => Value::String(cursor.string().into_owned()),
        JsonKind::Array => {
            let mut elements = Vec::new();
            cursor.array(|cursor| elements.push(raw(cursor, depth + 1)));
            Value::Array(elements)
        }
        JsonKind::Object => {
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
