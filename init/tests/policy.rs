//! The security policy from outside: what a closed door refuses, what it keeps inside, and what
//! opens it (protocol 7.11, 9.1).

#![allow(clippy::disallowed_methods)] // The test is the host; it may wait for its child.

mod guest;

use std::io::Read;

use gcs::prot::MessageId;
use serde_json::{json, Value};

use guest::Guest;

const FAIL: i32 = 0x8000_4005_u32.cast_signed();

fn modify(guest: &mut Guest, resource: &str, settings: Value) -> Value {
    let request = json!({"ResourceType": resource, "RequestType": "Add", "Settings": settings});
    guest.ask(MessageId::MODIFY_SETTINGS, json!({"Request": request}))
}

#[test]
fn a_closed_door_refuses_and_says_nothing_until_a_policy_opens_it() {
    let mut guest = Guest::start_with(&["-initial-policy-stance", "deny"]);
    let refused = |answer: Value| {
        assert_eq!(answer["Result"], FAIL, "{answer}");
        let text = answer["ErrorMessage"].as_str().unwrap().to_owned();
        assert!(text.contains("denied by the security policy"), "{text}");
    };
    refused(guest.execute(&["true"], None));
    refused(guest.ask(MessageId::DUMP_STACKS, json!({})));
    refused(guest.ask(MessageId::GET_PROPERTIES, json!({"Query": ""})));
    refused(modify(&mut guest, "CombinedLayers", json!({})));
    // Never asked for; what is refused does not count, nor does it open anything.
    let remove = json!({"ResourceType": "Network", "RequestType": "Remove", "Settings": {}});
    let answer = guest.ask(MessageId::MODIFY_SETTINGS, json!({"Request": remove}));
    assert_eq!(answer["Result"], 0, "{answer}");
    let policy = json!({"EnforcerType": "rego", "EncodedSecurityPolicy": "e30="});
    let answer = modify(&mut guest, "SecurityPolicy", policy);
    assert_eq!(answer["Result"], FAIL, "{answer}");
    refused(guest.execute(&["true"], None));

    let answer = modify(
        &mut guest,
        "SecurityPolicy",
        json!({"EnforcerType": "open_door"}),
    );
    assert_eq!(answer["Result"], 0, "{answer}");
    let started = guest.execute(&["true"], None);
    assert_eq!(guest.exit_code(&started), 0);
    let answer = modify(&mut guest, "SecurityPolicy", json!({}));
    assert_eq!(answer["Result"], FAIL, "{answer}");

    // Of the log only what came after the door was opened.
    let mut log = guest.log.take().unwrap();
    guest.disconnect();
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    assert!(
        text.contains("ModifySettings") || text.contains("0x10100a01"),
        "{text}"
    );
    assert!(
        !text.contains("0x10100c01") && !text.contains("DumpStacks"),
        "{text}"
    );
}
