//! Every golden vector of the reference implementation, in both directions.

mod vectors;

use gcs::bridge::codec::{self, Reply, Request};
use gcs::bridge::frame::{Decoder, Frame, FrameError, MAX_FROM_HOST, MAX_TO_HOST};
use gcs::error::Failure;
use gcs::prot::json::{self, Decode};
use gcs::prot::{
    command_line, ContainerExecuteProcessResponse, ContainerGetPropertiesResponse,
    ContainerNotification, ContainerWaitForProcessResponse, DumpStacksResponse, GcsCapabilities,
    HResult, MessageBase, MessageId, MessageResponseBase, NegotiateProtocolResponse,
    ProtocolVersion,
};
use serde::Serialize;
use serde_json::Value;
use vectors::{assert_same, load, only_frame, Vector};

fn incoming(vector: &Vector) -> codec::Incoming {
    codec::decode(&Frame {
        id: vector.id(),
        sequence: vector.sequence(),
        payload: vector.payload(),
    })
}

/// What the guest understood, encoded again.
fn view(request: &Request, base: &MessageBase) -> Value {
    fn value(body: &impl Serialize) -> Value {
        serde_json::to_value(body).unwrap()
    }
    match request {
        Request::Negotiate(body) => value(body),
        Request::Create(body) => value(body),
        Request::Start(body)
        | Request::ShutdownGraceful(body)
        | Request::ShutdownForced(body)
        | Request::DeleteContainerState(body) => value(body),
        Request::ExecuteProcess(body) => value(body),
        Request::WaitForProcess(body) => value(body),
        Request::SignalProcess(body) => value(body),
        Request::ResizeConsole(body) => value(body),
        Request::GetProperties(body) => value(body),
        Request::ModifySettings(body) => value(body),
        Request::DumpStacks => value(base),
    }
}

fn guest_reads(file: &str) {
    for vector in load(file) {
        let incoming = incoming(&vector);
        assert_eq!(
            incoming.request.is_ok(),
            vector.accepted == Some(true),
            "{file} {}: {:?}",
            vector.name,
            incoming.request.as_ref().err()
        );
        match &incoming.request {
            Err(failure) => {
                assert_eq!(
                    failure.code,
                    HResult(vector.result.unwrap()),
                    "{file} {}",
                    vector.name
                );
            }
            Ok(request) => {
                let seen = view(request, &incoming.base);
                assert_same(&vector, &seen);
            }
        }
    }
}

#[test]
fn requests_are_understood() {
    guest_reads("requests");
}

#[test]
fn create_documents_are_understood() {
    guest_reads("create_documents");
}

#[test]
fn modify_settings_are_understood() {
    guest_reads("modify_settings");
}

#[test]
fn unusual_requests_are_judged_as_the_reference_does() {
    guest_reads("guest_decodes");
}

/// The outcome that the vector's response stands for.
fn outcome(id: MessageId, payload: &[u8]) -> Result<Reply, Failure> {
    fn body<T: Decode + Default>(payload: &[u8]) -> T {
        json::from_slice(payload).unwrap()
    }
    let base: MessageResponseBase = body(payload);
    if base.result != HResult::OK {
        return Err(Failure::new(base.result, base.error_message));
    }
    Ok(match id {
        MessageId::RESPONSE_NEGOTIATE_PROTOCOL => {
            let response: NegotiateProtocolResponse = body(payload);
            assert_eq!(response.capabilities, GcsCapabilities::linux());
            Reply::Negotiated {
                version: ProtocolVersion(response.version),
                capabilities: response.capabilities,
            }
        }
        MessageId::RESPONSE_CREATE => Reply::Created,
        MessageId::RESPONSE_EXECUTE_PROCESS => Reply::Executed {
            process_id: body::<ContainerExecuteProcessResponse>(payload).process_id,
        },
        MessageId::RESPONSE_WAIT_FOR_PROCESS => Reply::Exited {
            exit_code: body::<ContainerWaitForProcessResponse>(payload).exit_code,
        },
        MessageId::RESPONSE_GET_PROPERTIES => Reply::Properties(
            body::<ContainerGetPropertiesResponse>(payload)
                .properties
                .into_inner(),
        ),
        MessageId::RESPONSE_DUMP_STACKS => {
            Reply::Stacks(body::<DumpStacksResponse>(payload).guest_stacks)
        }
        _ => Reply::Done,
    })
}

/// Members and their order as text; escaping and the text of nested documents are no matter.
fn canonical(payload: &[u8]) -> String {
    let mut value: Value = serde_json::from_slice(payload).unwrap();
    if let Some(Value::String(text)) = value.get("Properties") {
        value["Properties"] = serde_json::from_str(text).unwrap();
    }
    value.to_string()
}

#[test]
fn responses_are_written_as_the_reference_does() {
    for vector in load("responses") {
        let payload = vector.payload();
        let activity: MessageResponseBase = json::from_slice(&payload).unwrap();
        // The request's type is the response's with the other kind.
        let request = MessageId(vector.id().0 & 0x0fff_ffff | 0x1000_0000);
        let outcome = outcome(vector.id(), &payload);
        let bytes =
            codec::encode_response(request, vector.sequence(), &activity.activity_id, &outcome);
        let frame = only_frame(&bytes);
        assert_eq!(frame.id, vector.id(), "{}", vector.name);
        assert_eq!(frame.sequence, vector.sequence(), "{}", vector.name);
        assert_eq!(
            canonical(&frame.payload),
            canonical(&payload),
            "{}",
            vector.name
        );
    }
}

#[test]
fn notifications_are_written_as_the_reference_does() {
    for vector in load("notifications") {
        let payload = vector.payload();
        let notification: ContainerNotification = json::from_slice(&payload).unwrap();
        let frame = only_frame(&codec::encode_notification(&notification));
        assert_eq!(frame.id, MessageId::NOTIFICATION);
        assert_eq!(frame.sequence, 0);
        let mut want: Value = serde_json::from_slice(&payload).unwrap();
        if vector.name == "empty-activity" {
            // The reference writes one that the host refuses: we leave it out.
            want.as_object_mut().unwrap().shift_remove("ActivityId");
        }
        let seen: Value = serde_json::from_slice(&frame.payload).unwrap();
        assert_eq!(seen.to_string(), want.to_string(), "{}", vector.name);
    }
}

/// What the reference's host refuses for reasons that no type of ours can express: the texts
/// of GUIDs and of documents. `codec` never writes them.
const REFUSED_FOR_TEXT: [&str; 5] = [
    "base-empty-activity",
    "base-bad-activity",
    "properties-empty-string",
    "notification-empty-activity",
    "notification-result-info-empty",
];

#[test]
fn responses_are_read_as_the_host_does() {
    fn taken<T: Decode + Default>(payload: &[u8]) -> bool {
        json::from_slice::<T>(payload).is_ok()
    }
    for vector in load("host_decodes") {
        let payload = vector.payload();
        let taken = match vector.id() {
            MessageId::RESPONSE_NEGOTIATE_PROTOCOL => taken::<NegotiateProtocolResponse>(&payload),
            MessageId::RESPONSE_EXECUTE_PROCESS => {
                taken::<ContainerExecuteProcessResponse>(&payload)
            }
            MessageId::RESPONSE_WAIT_FOR_PROCESS => {
                taken::<ContainerWaitForProcessResponse>(&payload)
            }
            MessageId::RESPONSE_GET_PROPERTIES => taken::<ContainerGetPropertiesResponse>(&payload),
            MessageId::RESPONSE_DUMP_STACKS => taken::<DumpStacksResponse>(&payload),
            MessageId::NOTIFICATION => taken::<ContainerNotification>(&payload),
            // The host reads only the base of all others.
            _ => taken::<MessageResponseBase>(&payload),
        };
        let want = vector.accepted == Some(true) || REFUSED_FOR_TEXT.contains(&&*vector.name);
        assert_eq!(taken, want, "{}", vector.name);
    }
}

#[test]
fn frames_are_cut_as_the_headers_say() {
    for vector in load("frames") {
        let limit = match vector.name.as_str() {
            "size-max-for-host" | "size-over-host-limit" => u32::try_from(MAX_TO_HOST).unwrap(),
            _ => MAX_FROM_HOST,
        };
        let mut decoder = Decoder::new(limit);
        decoder.feed(&vector.frame());
        match (vector.name.as_str(), decoder.next()) {
            ("size-zero" | "size-15", Err(FrameError::TooSmall { .. })) => {}
            ("size-over-host-limit", Err(FrameError::TooLarge { size: 65537, .. })) => {}
            ("size-max-for-host", Ok(None)) => assert!(decoder.is_mid_frame()),
            (_, Ok(Some(frame))) => {
                assert_eq!(frame.id, vector.id(), "{}", vector.name);
                assert_eq!(frame.payload, vector.payload(), "{}", vector.name);
                let header = &vector.frame()[8..16];
                assert_eq!(frame.sequence.to_le_bytes(), header, "{}", vector.name);
            }
            (name, other) => panic!("{name}: {other:?}"),
        }
    }
}

/// Requests whose answer depends only on their bytes.
#[test]
fn exchanges_that_end_in_the_codec_agree_with_the_reference() {
    /// Documents that parse, refused later for what they say.
    const FOR_THE_HANDLER: [&str; 3] = [
        "create-config-null",
        "create-schema-missing",
        "create-schema-2.0",
    ];
    for vector in load("exchanges") {
        let want = vector.response.as_deref().unwrap().as_bytes();
        let want: MessageResponseBase = json::from_slice(want).unwrap();
        let incoming = incoming(&vector);
        assert_eq!(
            incoming.base.activity_id, want.activity_id,
            "{}",
            vector.name
        );
        let response_type = vectors::hex_id(vector.response_type.as_deref().unwrap());
        assert_eq!(vector.id().response(), response_type, "{}", vector.name);
        let refused = match want.result {
            HResult::INVALID_JSON => !FOR_THE_HANDLER.contains(&&*vector.name),
            HResult::NOT_IMPLEMENTED => vector.name.starts_with("unknown-type"),
            _ => vector.name.starts_with("modify-type"),
        };
        match incoming.request {
            Err(failure) => {
                assert!(refused, "{}: {failure}", vector.name);
                assert_eq!(failure.code, want.result, "{}", vector.name);
            }
            Ok(_) => assert!(!refused, "{}", vector.name),
        }
    }
}

#[test]
fn command_lines_are_split_into_words() {
    for vector in load("command_lines") {
        let args = command_line::split(vector.text());
        if vector.accepted == Some(true) {
            assert_eq!(
                args.as_ref(),
                Ok(vector.args.as_ref().unwrap()),
                "{}",
                vector.name
            );
        } else {
            assert!(args.is_err(), "{}: {args:?}", vector.name);
        }
    }
}

/// The fake host writes requests with the same types.
#[test]
fn requests_survive_being_written_again() {
    let files = [
        "requests",
        "create_documents",
        "modify_settings",
        "guest_decodes",
    ];
    for vector in files.iter().flat_map(|file| load(file)) {
        let first = incoming(&vector);
        let Ok(request) = &first.request else {
            continue;
        };
        let again = codec::decode(&Frame {
            id: first.id,
            sequence: first.sequence,
            payload: view(request, &first.base).to_string().into_bytes(),
        });
        assert_eq!(again, first, "{}", vector.name);
    }
}
