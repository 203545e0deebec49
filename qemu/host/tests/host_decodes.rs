//! Strict mode against the golden vectors: it flags what a real host refuses, and only that.

use serde_json::Value;
use uvm_host::{strict, wire};

#[test]
fn every_vector_is_judged_as_a_real_host_does() {
    let text = include_str!("../../../gcs/testdata/host_decodes.json");
    let vectors: Vec<Value> = serde_json::from_str(text).unwrap();
    assert!(vectors.len() >= 40, "only {} vectors", vectors.len());
    for vector in vectors {
        let name = vector["name"].as_str().unwrap();
        let message = vector["type"].as_str().unwrap().trim_start_matches("0x");
        let message = u32::from_str_radix(message, 16).unwrap();
        let payload = match vector.get("raw_hex") {
            Some(raw) => hex::decode(raw.as_str().unwrap()).unwrap(),
            None => vector["json"].as_str().unwrap().as_bytes().to_vec(),
        };
        let judged = if message == wire::NOTIFICATION {
            strict::notification(&payload)
        } else {
            strict::response(wire::Rpc::of(message), &payload)
        };
        let accepted = vector["accepted"].as_bool().unwrap();
        assert_eq!(judged.is_ok(), accepted, "{name}: {judged:?}");
        if let (Ok(members), Some(view)) = (judged, vector["view"].as_str()) {
            let view: Value = serde_json::from_str(view).unwrap();
            for member in ["Result", "Version", "ProcessId", "ExitCode", "GuestStacks"] {
                if let Some(expected) = view.get(member) {
                    let zero = Value::from(0);
                    assert_eq!(
                        members.get(member).unwrap_or(&zero),
                        expected,
                        "{name}: {member}"
                    );
                }
            }
        }
    }
}
