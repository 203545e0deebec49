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

    // Of the log only what was recorded after the door was opened.
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

/// A request of the host: message, container ("": the VM itself) and body.
type Request = (MessageId, &'static str, Value);

fn resource(kind: &str, request: &str) -> Value {
    json!({"Request": {"ResourceType": kind, "RequestType": request, "Settings": {}}})
}

fn execute(parameters: &Value) -> Value {
    json!({"Settings": {"ProcessParameters": parameters.to_string()}})
}

/// What a closed door denies (9.1).
fn gated() -> Vec<Request> {
    let spec = json!({"SchemaVersion": {"Major": 2, "Minor": 1}, "OciSpecification": {}});
    let words = json!({"CommandArgs": ["true"]});
    let exec = json!({"OciProcess": {"args": ["true"], "cwd": "/"}});
    let mut requests = vec![
        (
            MessageId::CREATE,
            "c",
            json!({"ContainerConfig": spec.to_string()}),
        ),
        (MessageId::EXECUTE_PROCESS, "c", execute(&exec)),
        (MessageId::EXECUTE_PROCESS, "", execute(&words)),
        (MessageId::SHUTDOWN_GRACEFUL, "c", json!({})),
        (MessageId::SHUTDOWN_FORCED, "c", json!({})),
        (MessageId::SIGNAL_PROCESS, "c", json!({"ProcessId": 1})),
        (MessageId::SIGNAL_PROCESS, "", json!({"ProcessId": 1})),
        (MessageId::GET_PROPERTIES, "c", json!({"Query": ""})),
        (MessageId::DUMP_STACKS, "", json!({})),
        (
            MessageId::MODIFY_SETTINGS,
            "",
            resource("SecurityPolicyFragment", "Add"),
        ),
    ];
    for kind in [
        "MappedVirtualDisk",
        "VPMemDevice",
        "CombinedLayers",
        "MappedDirectory",
    ] {
        for request in ["Add", "Remove"] {
            requests.push((MessageId::MODIFY_SETTINGS, "", resource(kind, request)));
        }
    }
    requests
}

/// What no door is for. Nothing of it does anything: this machine is none of the test's.
fn free() -> Vec<Request> {
    vec![
        (MessageId::EXECUTE_PROCESS, "c", execute(&json!({}))),
        (MessageId::START, "c", json!({})),
        (
            MessageId::WAIT_FOR_PROCESS,
            "c",
            json!({"ProcessId": 1, "TimeoutInMs": 0}),
        ),
        (MessageId::RESIZE_CONSOLE, "c", json!({"ProcessId": 1})),
        (MessageId::DELETE_CONTAINER_STATE, "c", json!({})),
        (
            MessageId::MODIFY_SETTINGS,
            "",
            resource("Network", "Remove"),
        ),
        (MessageId::MODIFY_SETTINGS, "", resource("Network", "Add")),
        (
            MessageId::MODIFY_SETTINGS,
            "c",
            resource("ContainerConstraints", "Update"),
        ),
    ]
}

/// Whether the policy has denied it.
fn denied(guest: &mut Guest, (message, container, body): &Request) -> bool {
    let mut body = body.clone();
    body["ContainerId"] = match *container {
        "" => "00000000-0000-0000-0000-000000000000".into(),
        id => id.into(),
    };
    let sequence = guest.send_payload(*message, &serde_json::to_vec(&body).unwrap());
    let answer = guest.answer(sequence);
    let text = answer["ErrorMessage"].as_str().unwrap_or_default();
    let denied = text.contains("denied by the security policy");
    assert!(!denied || answer["Result"] == FAIL, "{answer}");
    denied
}

#[test]
fn each_request_is_denied_by_a_closed_door_or_free_until_the_one_policy_opens_it() {
    let mut guest = Guest::start_with(&["-initial-policy-stance", "deny"]);
    guest.ignore_log();
    let closed = |guest: &mut Guest| {
        for request in gated() {
            assert!(denied(guest, &request), "{request:?}");
        }
        for request in free() {
            assert!(!denied(guest, &request), "{request:?}");
        }
    };
    closed(&mut guest);
    // `{"allow_all": true}`: not even what would allow all is taken for an open door.
    let policy = "eyJhbGxvd19hbGwiOiB0cnVlfQ==";
    for (enforcer, encoded, part) in [
        ("", policy, "no enforcer"),
        ("standard", policy, "no enforcer"),
        ("standard", "", "no enforcer"),
        ("rego", policy, "no enforcer"),
        ("Open_Door", "", "no security policy enforcer of that name"),
        (
            "closed_door",
            "",
            "no security policy enforcer of that name",
        ),
        ("open_door", "%%%", "not base64"),
    ] {
        let sent = json!({"EnforcerType": enforcer, "EncodedSecurityPolicy": encoded});
        let answer = modify(&mut guest, "SecurityPolicy", sent);
        assert_eq!(answer["Result"], FAIL, "{enforcer} {encoded}");
        let text = answer["ErrorMessage"].as_str().unwrap();
        assert!(text.contains(part), "{enforcer} {encoded}: {text}");
    }
    closed(&mut guest);
    let answer = modify(&mut guest, "SecurityPolicy", json!({}));
    assert_eq!(answer["Result"], 0, "{answer}");
    // But for storage: an open door would let it act on this machine.
    for request in gated().iter().chain(&free()) {
        if request.0 != MessageId::MODIFY_SETTINGS {
            assert!(!denied(&mut guest, request), "{request:?}");
        }
    }
    for second in [json!({}), json!({"EnforcerType": "open_door"})] {
        let answer = modify(&mut guest, "SecurityPolicy", second);
        assert_eq!(answer["Result"], FAIL, "{answer}");
        let text = answer["ErrorMessage"].as_str().unwrap();
        assert!(text.contains("set already"), "{text}");
    }
    let fragment = json!({"Fragment": policy});
    let answer = modify(&mut guest, "SecurityPolicyFragment", fragment);
    assert_eq!(answer["Result"], FAIL, "{answer}");
    let text = answer["ErrorMessage"].as_str().unwrap();
    assert!(text.contains("not supported"), "{text}");
}
