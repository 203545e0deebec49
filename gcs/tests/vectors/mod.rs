//! The vector files under `testdata` and how their views are compared.

#![allow(dead_code)] // Each test binary uses its part.

use std::sync::LazyLock;

use gcs::bridge::codec;
use gcs::bridge::frame::{Decoder, Frame, MAX_FROM_HOST, MAX_TO_HOST};
use gcs::prot::MessageId;
use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Deserialize)]
pub struct Vector {
    pub name: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    id: Option<String>,
    json: Option<String>,
    raw_hex: Option<String>,
    pub frame_hex: Option<String>,
    pub accepted: Option<bool>,
    pub result: Option<i32>,
    pub view: Option<String>,
    pub embedded_view: Option<String>,
    pub args: Option<Vec<String>>,
    pub response: Option<String>,
    pub response_type: Option<String>,
}

pub fn load(file: &str) -> Vec<Vector> {
    let path = format!("{}/testdata/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let vectors: Vec<Vector> = serde_json::from_str(&text).unwrap();
    assert!(!vectors.is_empty(), "{path}");
    vectors
}

impl Vector {
    pub fn id(&self) -> MessageId {
        hex_id(self.kind.as_deref().unwrap())
    }

    pub fn sequence(&self) -> u64 {
        self.id.as_deref().map_or(0, |id| id.parse().unwrap())
    }

    pub fn text(&self) -> &str {
        self.json.as_deref().unwrap()
    }

    pub fn payload(&self) -> Vec<u8> {
        match &self.raw_hex {
            Some(raw) => unhex(raw),
            None => self.json.clone().unwrap_or_default().into_bytes(),
        }
    }

    pub fn frame(&self) -> Vec<u8> {
        unhex(self.frame_hex.as_deref().unwrap())
    }
}

pub fn hex_id(text: &str) -> MessageId {
    MessageId(u32::from_str_radix(text.trim_start_matches("0x"), 16).unwrap())
}

pub fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// Texts that hold documents, anywhere in a message.
const NESTED: [&str; 4] = [
    "ContainerConfig",
    "ProcessParameters",
    "Query",
    "Properties",
];

/// Views leave out members with their default value, so that is no difference; neither is the
/// order, nor the escaping inside nested documents.
pub fn normal(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut out = Map::new();
            for (name, value) in members {
                let value = match value {
                    Value::String(text) if NESTED.contains(&name.as_str()) => {
                        match serde_json::from_str(text) {
                            Ok(inner) => normal(&inner),
                            Err(_) => Value::String(text.clone()),
                        }
                    }
                    other => normal(other),
                };
                if !empty(&value) {
                    out.insert(name.clone(), value);
                }
            }
            out.sort_keys();
            Value::Object(out)
        }
        Value::Array(elements) => Value::Array(elements.iter().map(normal).collect()),
        other => other.clone(),
    }
}

fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(value) => value.as_f64() == Some(0.0),
        Value::String(value) => value.is_empty(),
        Value::Array(value) => value.is_empty(),
        Value::Object(value) => value.is_empty(),
    }
}

/// Compares what was understood with the vector's views.
pub fn assert_same(vector: &Vector, seen: &Value) {
    let mut seen = normal(seen);
    let mut want = normal(&serde_json::from_str(vector.view.as_deref().unwrap()).unwrap());
    if let Some(embedded) = &vector.embedded_view {
        let embedded = normal(&serde_json::from_str(embedded).unwrap());
        replace_nested(&mut want, &embedded);
    }
    keep_known(&mut seen, &want, false);
    assert_eq!(
        serde_json::to_string_pretty(&seen).unwrap(),
        serde_json::to_string_pretty(&want).unwrap(),
        "{}",
        vector.name
    );
}

fn replace_nested(want: &mut Value, embedded: &Value) {
    let Value::Object(members) = want else { return };
    for name in NESTED {
        if empty(embedded) {
            members.shift_remove(name);
        } else if let Some(member) = members.get_mut(name) {
            *member = embedded.clone();
        }
    }
    for (_, value) in members.iter_mut() {
        if let Value::Object(_) = value {
            if value.get("ProcessParameters").is_some() {
                replace_nested(value, embedded);
            }
        }
    }
}

/// Inside an OCI document the reference drops what it does not know; we keep it. So there,
/// only what the view has is compared.
fn keep_known(seen: &mut Value, want: &Value, oci: bool) {
    match (seen, want) {
        (Value::Object(seen), Value::Object(want)) => {
            if oci {
                seen.retain(|name, _| want.contains_key(name));
            }
            for (name, value) in seen.iter_mut() {
                let oci = oci || name.starts_with("Oci");
                keep_known(value, want.get(name).unwrap_or(&Value::Null), oci);
            }
        }
        (Value::Array(seen), Value::Array(want)) => {
            for (seen, want) in seen.iter_mut().zip(want) {
                keep_known(seen, want, oci);
            }
        }
        _ => {}
    }
}

/// The one frame in `bytes`, which a host takes.
pub fn only_frame(bytes: &[u8]) -> Frame {
    assert!(bytes.len() <= MAX_TO_HOST, "{} bytes", bytes.len());
    let mut decoder = Decoder::new(MAX_FROM_HOST);
    decoder.feed(bytes);
    let frame = decoder.next().unwrap().expect("a whole frame");
    assert!(!decoder.is_mid_frame() && decoder.next() == Ok(None));
    frame
}

/// Every frame of the vectors with its bytes.
pub fn all_vector_frames() -> &'static [(Frame, Vec<u8>)] {
    static FRAMES: LazyLock<Vec<(Frame, Vec<u8>)>> = LazyLock::new(|| {
        let files = [
            "requests",
            "create_documents",
            "modify_settings",
            "responses",
            "notifications",
        ];
        let vectors = files.iter().flat_map(|file| load(file));
        vectors
            .map(|vector| {
                let frame = Frame {
                    id: vector.id(),
                    sequence: vector.sequence(),
                    payload: vector.payload(),
                };
                (frame, vector.frame())
            })
            .collect()
    });
    &FRAMES
}

/// What the guest makes of a payload.
pub fn request(id: MessageId, payload: impl Into<Vec<u8>>) -> codec::Incoming {
    codec::decode(&Frame {
        id,
        sequence: 1,
        payload: payload.into(),
    })
}
