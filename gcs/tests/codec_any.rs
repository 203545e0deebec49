//! Properties of the frame decoder, the JSON reader and the codec that hold for any input.

mod vectors;

use gcs::bridge::codec::{self, Reply, Request};
use gcs::bridge::frame::{Decoder, MAX_FROM_HOST};
use gcs::error::Failure;
use gcs::prot::json;
use gcs::prot::{DumpStacksResponse, HResult, MessageBase, MessageId, MessageResponseBase};
use proptest::prelude::*;
use vectors::{all_vector_frames, only_frame, request};

/// Something like a request: known names with anything as values.
fn jsonish() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        Just("1e999999".to_owned()),
        "\\PC*".prop_map(|text| serde_json::to_string(&text).unwrap()),
        Just("\"{\\\"OciProcess\\\":{\\\"args\\\":[1]}}\"".to_owned()),
    ];
    let name = prop::sample::select(vec![
        "ContainerId",
        "activityid",
        "ocsc",
        "Settings",
        "ProcessParameters",
        "Request",
        "ResourceType",
        "Query",
        "ContainerConfig",
        "Options",
        "Signal",
        "ProcessId",
        "Layers",
        "VsockStdioRelaySettings",
        "TraceID",
        "x",
    ]);
    leaf.prop_recursive(6, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(|v| format!("[{}]", v.join(","))),
            prop::collection::vec((name.clone(), inner), 0..8).prop_map(|v| {
                let members: Vec<_> = v.iter().map(|(n, v)| format!("\"{n}\":{v}")).collect();
                format!("{{{}}}", members.join(" , "))
            }),
        ]
    })
}

fn known_request() -> impl Strategy<Value = MessageId> {
    let ids: Vec<_> = MessageId::NAMED.iter().map(|(id, _)| *id).collect();
    prop::sample::select(ids)
}

proptest! {
    #[test]
    fn any_bytes_are_frames_or_a_final_error(
        bytes in prop::collection::vec(any::<u8>(), 0..4096),
        limit in 16u32..5000,
    ) {
        let mut decoder = Decoder::new(limit);
        let mut taken = 0;
        for chunk in bytes.chunks(97) {
            decoder.feed(chunk);
            while let Ok(Some(frame)) = decoder.next() {
                taken += 16 + frame.payload.len();
                prop_assert!(frame.payload.len() + 16 <= limit as usize);
            }
        }
        prop_assert!(taken <= bytes.len());
    }

    #[test]
    fn any_payload_gets_a_verdict(
        id in known_request(),
        payload in prop::collection::vec(any::<u8>(), 0..512),
    ) {
        let incoming = request(id, payload);
        prop_assert_eq!(incoming.id, id);
    }

    /// Our reader agrees with serde_json about what is JSON at all, and everything it
    /// understands reads the same when written again.
    #[test]
    fn any_json_gets_the_verdict_of_its_types(id in known_request(), payload in jsonish()) {
        let incoming = request(id, payload.clone());
        if let Err(failure) = &incoming.request {
            let codes = [HResult::INVALID_JSON, HResult::NOT_IMPLEMENTED, HResult::FAIL];
            prop_assert!(codes.contains(&failure.code));
            prop_assert!(!failure.message.starts_with("payload:"), "{} {}", payload, failure);
        }
        if let Ok(Request::ExecuteProcess(body)) = incoming.request {
            let again = request(id, serde_json::to_vec(&body).unwrap());
            prop_assert_eq!(again.request, Ok(Request::ExecuteProcess(body)));
        }
    }

    /// One byte changed in a good request: no panic, and serde_json's view of the syntax is
    /// ours wherever both can have one.
    #[test]
    fn a_changed_byte_is_judged_like_serde_json_does(
        pick in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let frames = all_vector_frames();
        let mut frame = pick.get(frames).0.clone();
        let at = at.index(frame.payload.len());
        frame.payload[at] = byte;
        let ours = json::read::<MessageBase>(&frame.payload).is_ok();
        if let Ok(text) = std::str::from_utf8(&frame.payload) {
            let theirs = serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok();
            prop_assert_eq!(ours, theirs, "{}", text);
        }
        prop_assert_eq!(codec::decode(&frame).sequence, frame.sequence);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn frames_do_not_depend_on_how_the_stream_is_cut(
        cuts in prop::collection::vec(1usize..200, 1..400),
    ) {
        let frames = all_vector_frames();
        let stream: Vec<u8> = frames.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        let mut decoder = Decoder::new(MAX_FROM_HOST);
        let mut rest = &stream[..];
        let mut seen = Vec::new();
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let (chunk, tail) = rest.split_at(rest.len().min(cuts.next().unwrap() * 7));
            rest = tail;
            decoder.feed(chunk);
            while let Some(frame) = decoder.next().unwrap() {
                seen.push(frame);
            }
        }
        let want: Vec<_> = frames.iter().map(|(frame, _)| frame.clone()).collect();
        prop_assert_eq!(seen, want);
    }

    #[test]
    fn what_is_written_fits_and_reads_back(
        sequence in any::<u64>(),
        activity in "\\PC{0,40}",
        message in any::<String>(),
        stacks in prop::collection::vec(any::<char>(), 0..30_000),
        code in any::<i32>(),
    ) {
        let failure = Failure::new(HResult(code), message.clone());
        let bytes = codec::encode_response(MessageId::START, sequence, &activity, &Err(failure));
        let frame = only_frame(&bytes);
        prop_assert_eq!(frame.id, MessageId::RESPONSE_START);
        prop_assert_eq!(frame.sequence, sequence);
        let response: MessageResponseBase = json::from_slice(&frame.payload).unwrap();
        prop_assert_eq!(&response.activity_id, &activity);
        prop_assert_eq!(&response.error_message, &message);
        prop_assert!(response.result != HResult::OK);

        let stacks: String = stacks.into_iter().collect();
        let reply = Ok(Reply::Stacks(stacks.clone()));
        let bytes = codec::encode_response(MessageId::DUMP_STACKS, sequence, &activity, &reply);
        let response: DumpStacksResponse = json::from_slice(&only_frame(&bytes).payload).unwrap();
        let kept = response.guest_stacks.trim_end_matches(" … (shortened)");
        prop_assert!(stacks.starts_with(kept));
    }
}
