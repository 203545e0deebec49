//! The frame decoder and the codec on input nobody promised: split anyhow, deep, long, broken.

mod vectors;

use gcs::bridge::codec::{self, Reply, Request};
use gcs::bridge::frame::{self, Decoder, FrameError, MAX_FROM_HOST, MAX_TO_HOST};
use gcs::error::Failure;
use gcs::prot::json::{self, MAX_DEPTH};
use gcs::prot::stats::{Blkio, BlkioEntry, Hugetlb, Memory, Metrics};
use gcs::prot::{
    ContainerGetPropertiesResponse, ContainerNotification, DumpStacksResponse, HResult,
    MessageBase, MessageId, MessageResponseBase, NotificationType, ProcessDetails, PropertiesV2,
};
use vectors::{all_vector_frames, only_frame, request};

fn start(payload: impl Into<Vec<u8>>) -> Result<MessageBase, HResult> {
    match request(MessageId::START, payload).request {
        Ok(Request::Start(base)) => Ok(base),
        Ok(other) => panic!("{other:?}"),
        Err(failure) => Err(failure.code),
    }
}

#[test]
fn frames_arrive_whole_when_fed_one_byte_at_a_time() {
    let mut decoder = Decoder::new(MAX_FROM_HOST);
    for (want, bytes) in all_vector_frames() {
        let (last, head) = bytes.split_last().unwrap();
        for byte in head {
            decoder.feed(&[*byte]);
            assert_eq!(decoder.next(), Ok(None));
            assert!(decoder.is_mid_frame());
        }
        decoder.feed(&[*last]);
        assert_eq!(decoder.next(), Ok(Some(want.clone())));
        assert!(!decoder.is_mid_frame());
    }
}

#[test]
fn frames_before_a_bad_header_are_still_delivered() {
    let good = frame::encode(MessageId::START, 7, b"{}", MAX_TO_HOST).unwrap();
    let mut bytes = [good.clone(), good].concat();
    bytes.extend_from_slice(&[1, 2, 16, 16, 15, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, b'x']);
    let mut decoder = Decoder::new(MAX_FROM_HOST);
    decoder.feed(&bytes);
    assert!(decoder.next().unwrap().is_some());
    assert!(decoder.next().unwrap().is_some());
    for _ in 0..2 {
        let error = FrameError::TooSmall {
            id: MessageId::START,
            size: 15,
        };
        assert_eq!(decoder.next(), Err(error));
        decoder.feed(b"more");
    }
}

#[test]
fn an_empty_payload_is_a_frame_at_once() {
    let frame = only_frame(&frame::encode(MessageId::START, 5, b"", MAX_TO_HOST).unwrap());
    assert!(frame.payload.is_empty());
}

#[test]
fn nesting_ends_at_the_limit_without_a_stack() {
    let deep = |levels: usize| {
        // The outer object is a level too.
        let inner = "[".repeat(levels - 1) + &"]".repeat(levels - 1);
        format!("{{\"X\":{inner},\"ContainerId\":\"c\"}}")
    };
    assert_eq!(start(deep(MAX_DEPTH)).unwrap().container_id, "c");
    assert_eq!(start(deep(MAX_DEPTH + 1)), Err(HResult::INVALID_JSON));
    assert_eq!(start("[".repeat(1 << 20)), Err(HResult::INVALID_JSON));
    assert_eq!(start("{\"a\":".repeat(1 << 20)), Err(HResult::INVALID_JSON));
}

/// A deep member of a document that is kept must not break those who read it recursively.
#[test]
fn deep_members_of_oci_documents_are_cut() {
    let deep = "[".repeat(5000) + &"]".repeat(5000);
    let config = format!(
        "{{\"OciSpecification\":{{\"future\":{deep},\"windows\":{{\"credentialSpec\":{deep}}},\
         \"ociVersion\":\"1\"}}}}"
    );
    let payload = serde_json::json!({ "ContainerConfig": config }).to_string();
    let Ok(Request::Create(create)) = request(MessageId::CREATE, payload).request else {
        panic!("refused");
    };
    let spec = create.container_config.oci_specification.as_ref().unwrap();
    let text = serde_json::to_string(&spec.0).unwrap();
    // Its readers have a limit of 128.
    serde_json::from_str::<serde_json::Value>(&text).unwrap();
    assert_eq!(spec.0["ociVersion"], "1");
}

#[test]
fn a_create_of_a_mebibyte_is_taken() {
    let env: Vec<String> = (0..20_000)
        .map(|i| format!("VARIABLE_{i}={:050}", i))
        .collect();
    let config = serde_json::json!({
        "SchemaVersion": {"Major": 2, "Minor": 1},
        "OciSpecification": {"process": {"env": env}},
    });
    let payload = serde_json::json!({
        "ContainerId": "big", "ActivityId": "a", "ContainerConfig": config.to_string(),
    });
    let payload = payload.to_string();
    assert!(payload.len() > 1 << 20);
    let incoming = request(MessageId::CREATE, payload);
    let Ok(Request::Create(create)) = incoming.request else {
        panic!("{:?}", incoming.request);
    };
    let spec = create.container_config.oci_specification.as_ref().unwrap();
    assert_eq!(spec.0["process"]["env"].as_array().unwrap().len(), 20_000);
}

/// (payload, container id and activity id that are understood)
#[test]
fn members_follow_the_rules_of_the_hosts_decoder() {
    let cases: &[(&str, &str, &str)] = &[
        // Null changes nothing, not even what an earlier duplicate said.
        (r#"{"ContainerId":"a","ContainerId":null}"#, "a", ""),
        (r#"{"ContainerId":"a","CONTAINERID":"b"}"#, "b", ""),
        // Two signs outside ASCII fold into it.
        (
            "{\"Container\u{131}d\":\"x\",\"ContainerId\":\"a\"}",
            "a",
            "",
        ),
        ("{\"ocſc\":{},\"ActivityId\":\"b\"}", "", "b"),
        // Escapes in names count as what they mean.
        (r#"{"\u0043ontainerId":"a"}"#, "a", ""),
        (
            r#"{"ContainerId":"\ud83d\ude00\ud83d\ud83d\ude00\ude00"}"#,
            "😀\u{fffd}😀\u{fffd}",
            "",
        ),
        (r#"{"ContainerId":"\ud800A"}"#, "\u{fffd}A", ""),
        (
            r#"{"":1,"a":{"ContainerId":"no"},"b":[{"ContainerId":"no"}],"ContainerId":"a"}"#,
            "a",
            "",
        ),
        (
            r#"{"otsc":[1],"x":-0.0E+10,"y":"\"}","ActivityId":"b"}"#,
            "",
            "b",
        ),
        ("null", "", ""),
        (" \t\r\n{ } \n", "", ""),
    ];
    for (payload, container, activity) in cases {
        let base = start(*payload).unwrap_or_else(|code| panic!("{payload}: {code}"));
        assert_eq!(base.container_id, *container, "{payload}");
        assert_eq!(base.activity_id, *activity, "{payload}");
    }
}

#[test]
fn names_fold_as_unicode_does() {
    // U+017F is a long s, so this is `ocsc`, which is no string.
    assert_eq!(start("{\"oc\u{17f}c\":\"x\"}"), Err(HResult::INVALID_JSON));
}

#[test]
fn broken_syntax_is_refused() {
    let cases = [
        "",
        " ",
        "{",
        "}",
        "{]",
        "[}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{\"a\":1 \"b\":2}",
        "nul",
        "nulll",
        "truefalse",
        "{\"a\":01}",
        "{\"a\":-}",
        "{\"a\":1.}",
        "{\"a\":.5}",
        "{\"a\":1e}",
        "{\"a\":+1}",
        "{\"a\":0x1}",
        "{\"a\":NaN}",
        "{\"a\":\"\\u12g4\"}",
        "{\"a\":\"\\u123",
        "{\"a\":\"\\",
        "{\"a\":\"x",
        "{\"a\":1}{}",
        "{\"a\":1}\0",
        "\u{feff}{}",
        "{\"a\":\"\u{1}\"}",
        "{\"a\":1}]",
        "{\"a\":[1,]}",
        "{\"a\":[,1]}",
        "{\"a\":[1 2]}",
        "{'a':1}",
    ];
    for payload in cases {
        let incoming = request(MessageId::START, payload);
        assert_eq!(
            incoming.request.unwrap_err().code,
            HResult::INVALID_JSON,
            "{payload:?}"
        );
        assert_eq!(incoming.base, MessageBase::default(), "{payload:?}");
    }
}

#[test]
fn base_members_around_a_type_error_are_kept() {
    let payload =
        r#"{"ContainerId":"c","ProcessId":[1],"Width":{},"ActivityId":"a","ocsc":{"TraceID":"t"}}"#;
    let incoming = request(MessageId::RESIZE_CONSOLE, payload);
    let failure = incoming.request.unwrap_err();
    assert_eq!(failure.code, HResult::INVALID_JSON);
    assert!(failure.message.contains("ProcessId"), "{failure}");
    assert_eq!(incoming.base.container_id, "c");
    assert_eq!(incoming.base.activity_id, "a");
    assert_eq!(incoming.base.span_context.unwrap().trace_id, "t");
}

#[test]
fn errors_never_quote_what_was_sent() {
    let secret = "hunter2";
    let payloads = [
        format!("{{\"ContainerConfig\":{secret}}}"),
        format!("{{\"ContainerConfig\":[\"{secret}\"]}}"),
        format!("{{\"ContainerConfig\":\"{secret}\"}}"),
        format!("{{\"ContainerConfig\":\"{{\\\"OciSpecification\\\":\\\"{secret}\\\"}}\"}}"),
        format!("{{\"{secret}\":1,\"SupportedVersions\":\"{secret}\"}}"),
    ];
    for payload in payloads {
        let failure = request(MessageId::CREATE, payload.clone())
            .request
            .unwrap_err();
        assert!(!failure.message.contains(secret), "{payload}: {failure}");
    }
}

#[test]
fn bodies_of_messages_that_need_none_are_not_judged() {
    for payload in ["", "[1]", "not json", "{\"ocsc\":\"x\"}"] {
        let dump = request(MessageId::DUMP_STACKS, payload);
        assert_eq!(dump.request, Ok(Request::DumpStacks));
        let unknown = request(MessageId(0x1010_0e01), payload);
        assert_eq!(unknown.request.unwrap_err().code, HResult::NOT_IMPLEMENTED);
    }
}

/// Every character costs the most it can; whatever is said fits the frame and stays JSON.
#[test]
fn long_texts_are_shortened() {
    for text in ["x", "\"", "\u{1}", "\u{2028}", "😀"] {
        let long = text.repeat(100_000);
        let failure = Failure::unspecified(long.clone());
        let bytes = codec::encode_response(MessageId::CREATE, 3, &"a".repeat(36), &Err(failure));
        let response: MessageResponseBase = json::from_slice(&only_frame(&bytes).payload).unwrap();
        assert_eq!(response.result, HResult::FAIL);
        assert_eq!(response.error_message, response.error_records[0].message);
        assert!(response.error_message.starts_with(text));
        assert!(response.error_message.ends_with("(shortened)"));

        let reply = Ok(Reply::Stacks(long));
        let bytes = codec::encode_response(MessageId::DUMP_STACKS, 3, "", &reply);
        let response: DumpStacksResponse = json::from_slice(&only_frame(&bytes).payload).unwrap();
        assert_eq!(response.base.result, HResult::OK);
        assert!(response.guest_stacks.ends_with("(shortened)"));
    }
}

fn properties(metrics: Metrics) -> MessageResponseBase {
    let reply = Reply::Properties(PropertiesV2 {
        metrics: Some(Box::new(metrics)),
        ..PropertiesV2::default()
    });
    let bytes = codec::encode_response(MessageId::GET_PROPERTIES, 1, "a", &Ok(reply));
    let payload = only_frame(&bytes).payload;
    let response: MessageResponseBase = json::from_slice(&payload).unwrap();
    if response.result == HResult::OK {
        let response: ContainerGetPropertiesResponse = json::from_slice(&payload).unwrap();
        assert!(response.properties.is_present());
        let metrics = response.properties.into_inner().metrics.unwrap();
        assert_eq!((metrics.blkio, metrics.memory.unwrap().cache), (None, 1));
    }
    response
}

#[test]
fn statistics_that_do_not_fit_lose_block_io_first() {
    let entry = BlkioEntry {
        op: "Read".into(),
        device: "/dev/sda".into(),
        value: u64::MAX,
        ..BlkioEntry::default()
    };
    let mut metrics = Metrics {
        memory: Some(Memory {
            cache: 1,
            ..Memory::default()
        }),
        blkio: Some(Blkio {
            io_serviced_recursive: vec![entry; 2000],
            ..Blkio::default()
        }),
        ..Metrics::default()
    };
    assert_eq!(properties(metrics.clone()).result, HResult::OK);
    metrics.cpu.get_or_insert_default().usage.per_cpu = vec![u64::MAX; 10_000];
    assert_eq!(properties(metrics.clone()).result, HResult::OK);
    // Nothing left to drop: an error, not a broken bridge.
    metrics.hugetlb = vec![Hugetlb::default(); 30_000];
    assert_eq!(properties(metrics).result, HResult::FAIL);
}

#[test]
fn a_list_of_processes_that_does_not_fit_is_cut() {
    for (count, told) in [(2000, 2000), (100_000, 2000)] {
        let process_id = u32::MAX;
        let reply = Reply::Properties(PropertiesV2 {
            process_list: vec![ProcessDetails { process_id }; count],
            ..PropertiesV2::default()
        });
        let bytes = codec::encode_response(MessageId::GET_PROPERTIES, 1, "a", &Ok(reply));
        let payload = only_frame(&bytes).payload;
        let response: ContainerGetPropertiesResponse = json::from_slice(&payload).unwrap();
        assert_eq!(response.properties.process_list.len(), told);
    }
}

#[test]
fn a_failure_never_reads_as_success() {
    let outcome = Err(Failure::new(HResult::OK, "confused"));
    let bytes = codec::encode_response(MessageId::START, 1, "", &outcome);
    let response: MessageResponseBase = json::from_slice(&only_frame(&bytes).payload).unwrap();
    assert_eq!(response.result, HResult::FAIL);
}

#[test]
fn endless_ids_do_not_break_the_bridge() {
    let long = "\u{1}".repeat(70_000);
    let bytes = codec::encode_response(MessageId::START, 1, &long, &Ok(Reply::Done));
    assert_eq!(only_frame(&bytes).payload, b"{\"Result\":0}");
    let exit = ContainerNotification::exit(&long, &long, NotificationType::ForcedExit);
    let frame = only_frame(&codec::encode_notification(&exit));
    let read: ContainerNotification = json::from_slice(&frame.payload).unwrap();
    assert_eq!(read.kind, NotificationType::ForcedExit);
}
