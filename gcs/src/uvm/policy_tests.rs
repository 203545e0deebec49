use serde_json::{json, Value};

use super::*;
use crate::bridge::codec;
use crate::bridge::frame::Frame;
use crate::prot::{HResult, MessageId};

fn request(id: MessageId, body: &Value) -> Request {
    let frame = Frame {
        id,
        sequence: 1,
        payload: body.to_string().into_bytes(),
    };
    codec::decode(&frame)
        .request
        .expect("a request that decodes")
}

fn modify(resource: &str, request_type: &str) -> Request {
    let body = json!({
        "ContainerId": UVM_ID,
        "Request": {"ResourceType": resource, "RequestType": request_type, "Settings": {}},
    });
    request(MessageId::MODIFY_SETTINGS, &body)
}

fn execute(parameters: &Value) -> Request {
    let body = json!({"Settings": {"ProcessParameters": parameters.to_string()}});
    request(MessageId::EXECUTE_PROCESS, &body)
}

#[test]
fn a_closed_door_denies_what_it_must_and_nothing_else() {
    let created =
        json!({"ContainerConfig": json!({"SchemaVersion": {"Major": 2, "Minor": 1}}).to_string()});
    let base = json!({"ContainerId": "c"});
    let table = [
        (request(MessageId::CREATE, &created), "c", Some(Act::Create)),
        (
            execute(&json!({"OciProcess": {}})),
            "c",
            Some(Act::ExecInContainer),
        ),
        (execute(&json!({})), "c", None),
        (execute(&json!({})), UVM_ID, Some(Act::ExecInVm)),
        (
            execute(&json!({"CreateInUtilityVM": true})),
            "c",
            Some(Act::ExecInVm),
        ),
        (
            request(MessageId::SHUTDOWN_GRACEFUL, &base),
            "c",
            Some(Act::Shutdown),
        ),
        (
            request(MessageId::SHUTDOWN_FORCED, &base),
            "c",
            Some(Act::Shutdown),
        ),
        (request(MessageId::SHUTDOWN_FORCED, &base), UVM_ID, None),
        (
            request(MessageId::SIGNAL_PROCESS, &base),
            "c",
            Some(Act::Signal),
        ),
        (
            request(MessageId::SIGNAL_PROCESS, &base),
            UVM_ID,
            Some(Act::Signal),
        ),
        (
            request(MessageId::GET_PROPERTIES, &base),
            "c",
            Some(Act::Properties),
        ),
        (
            request(MessageId::DUMP_STACKS, &base),
            UVM_ID,
            Some(Act::Stacks),
        ),
        (request(MessageId::START, &base), "c", None),
        (request(MessageId::WAIT_FOR_PROCESS, &base), "c", None),
        (request(MessageId::RESIZE_CONSOLE, &base), "c", None),
        (request(MessageId::DELETE_CONTAINER_STATE, &base), "c", None),
        (
            modify("MappedVirtualDisk", "Add"),
            UVM_ID,
            Some(Act::MountDevice),
        ),
        (
            modify("MappedVirtualDisk", "Remove"),
            UVM_ID,
            Some(Act::UnmountDevice),
        ),
        (modify("VPMemDevice", ""), UVM_ID, Some(Act::MountDevice)),
        (
            modify("VPMemDevice", "Remove"),
            UVM_ID,
            Some(Act::UnmountDevice),
        ),
        (
            modify("CombinedLayers", "Add"),
            UVM_ID,
            Some(Act::MountOverlay),
        ),
        (
            modify("CombinedLayers", "Remove"),
            UVM_ID,
            Some(Act::UnmountOverlay),
        ),
        (
            modify("MappedDirectory", "Add"),
            UVM_ID,
            Some(Act::MountPlan9),
        ),
        (
            modify("MappedDirectory", "Remove"),
            UVM_ID,
            Some(Act::UnmountPlan9),
        ),
        (
            modify("SecurityPolicyFragment", "Add"),
            UVM_ID,
            Some(Act::Fragment),
        ),
        (modify("SecurityPolicy", "Add"), UVM_ID, None),
        (modify("SCSIDevice", "Remove"), UVM_ID, None),
        (modify("Network", "Add"), UVM_ID, None),
        (modify("VPCIDevice", "Add"), UVM_ID, None),
        (modify("ContainerConstraints", "Update"), "c", None),
    ];
    let (open, closed) = (Policy::new(Stance::Allow), Policy::new(Stance::Deny));
    for (request, id, act) in table {
        assert_eq!(Act::of(&request, id), act, "{request:?} for {id}");
        let Some(act) = act else { continue };
        assert_eq!(open.permit(act), Ok(()));
        assert_eq!(closed.permit(act).unwrap_err().code, HResult::FAIL);
    }
}

fn policy(enforcer: &str, encoded: &str, reference: &str) -> SecurityPolicy {
    SecurityPolicy {
        enforcer_type: enforcer.into(),
        encoded_security_policy: encoded.into(),
        encoded_uvm_reference: reference.into(),
        ..SecurityPolicy::default()
    }
}

#[test]
fn one_policy_that_can_be_kept_is_taken() {
    for sent in [
        policy("", "", ""),
        policy("", "", "cmVm"),
        policy("open_door", "", ""),
        policy("open_door", "e30=", "cmVm"),
    ] {
        for stance in [Stance::Allow, Stance::Deny] {
            let mut state = Policy::new(stance);
            assert_eq!(state.permit(Act::Create).is_ok(), stance == Stance::Allow);
            state.set(sent.clone(), false).unwrap();
            assert_eq!(state.permit(Act::Create), Ok(()));
            assert_eq!(state.sent().policy, sent.encoded_security_policy);
            assert_eq!(state.sent().reference, sent.encoded_uvm_reference);
            let second = state.set(policy("", "", ""), false).unwrap_err();
            assert!(second.message.contains("set already"));
        }
    }
}

#[test]
fn a_policy_that_cannot_be_kept_is_refused_and_does_not_count() {
    for (sent, confidential, part) in [
        (policy("", "e30=", ""), false, "no enforcer"),
        (policy("standard", "", ""), false, "no enforcer"),
        (policy("rego", "e30=", ""), false, "no enforcer"),
        (
            policy("OPEN_DOOR", "", ""),
            false,
            "no security policy enforcer",
        ),
        (policy("open_door", "e30", ""), false, "not base64"),
        (policy("", "", ""), true, "attestation"),
    ] {
        let mut state = Policy::new(Stance::Deny);
        let refused = state.set(sent, confidential).unwrap_err();
        assert_eq!(refused.code, HResult::FAIL);
        assert!(refused.message.contains(part), "{refused}");
        assert_eq!(state, Policy::new(Stance::Deny));
        state.set(policy("", "", ""), false).unwrap();
    }
}

#[test]
fn base64_is_told_from_other_texts() {
    for (text, is) in [
        ("", true),
        ("e30=", true),
        ("e3==", true),
        ("ab+/", true),
        ("e30", false),
        ("a===", false),
        ("e3=0", false),
        ("e3-_", false),
    ] {
        assert_eq!(is_base64(text), is, "{text}");
    }
}
