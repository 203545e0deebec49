//! Every golden vector of the reference implementation, in both directions.

mod vectors;

use gcs::bridge::codec::{self, Request};
use gcs::bridge::frame::Frame;
use gcs::prot::{HResult, MessageBase};
use serde::Serialize;
use serde_json::Value;
use vectors::{assert_same, load, Vector};

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
