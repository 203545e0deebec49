//! Frames in, typed requests out; typed replies in, frames out (protocol sections 2 to 4).
//!
//! ```text
//! Frame ─ decode ─► Incoming { base, request: Request | Failure }
//! Reply | Failure ─ encode_response ─► bytes of one frame, never above 65536
//! ```
//!
//! A request that cannot be understood still gets an answer, with its `ActivityId` if that could be
//! read. What is sent is always valid JSON of the right shape. No text quotes a payload.

use serde::Serialize;

use super::frame::{self, Frame, MAX_PAYLOAD_TO_HOST, MAX_TO_HOST};
use super::text::{fit, shorten};
use crate::error::Failure;
use crate::prot::json::{self, Decode, TypeError};
use crate::prot::v1;
use crate::prot::{
    ContainerCreate, ContainerCreateResponse, ContainerExecuteProcess,
    ContainerExecuteProcessResponse, ContainerGetProperties, ContainerGetPropertiesResponse,
    ContainerModifySettings, ContainerNotification, ContainerResizeConsole, ContainerSignalProcess,
    ContainerWaitForProcess, ContainerWaitForProcessResponse, DumpStacksResponse, ErrorRecord,
    GcsCapabilities, HResult, MessageBase, MessageId, MessageResponseBase, NegotiateProtocol,
    NegotiateProtocolResponse, PropertiesV2, ProtocolVersion, Resource, SequenceId,
};

/// One frame from the host, understood as far as it can be.
#[derive(Debug, Clone, PartialEq)]
pub struct Incoming {
    pub id: MessageId,
    pub sequence: SequenceId,
    /// All base members that could be read; empty when the payload is not JSON.
    pub base: MessageBase,
    pub request: Result<Request, Failure>,
}

/// A request with its body. The container id stands in the body's `base`.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    Negotiate(NegotiateProtocol),
    Create(ContainerCreate),
    Start(MessageBase),
    ExecuteProcess(ContainerExecuteProcess),
    WaitForProcess(ContainerWaitForProcess),
    SignalProcess(ContainerSignalProcess),
    ResizeConsole(ContainerResizeConsole),
    ShutdownGraceful(MessageBase),
    ShutdownForced(MessageBase),
    GetProperties(ContainerGetProperties),
    ModifySettings(ContainerModifySettings),
    /// Its body is never looked at: any payload succeeds.
    DumpStacks,
    DeleteContainerState(MessageBase),
}

/// What a request is answered with when it succeeds.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// Success without further members: Start, Signal, Resize, Shutdown, Modify, Delete.
    Done,
    Negotiated {
        version: ProtocolVersion,
        capabilities: GcsCapabilities,
    },
    Created,
    /// The same in the retired protocol.
    CreatedV1,
    Executed {
        process_id: u32,
    },
    Exited {
        exit_code: u32,
    },
    Properties(PropertiesV2),
    Stacks(String),
}

/// Understands one frame. Whether its type is allowed now is for the caller to say.
#[must_use]
pub fn decode(frame: &Frame) -> Incoming {
    let body = &frame.payload;
    let (base, request) = match frame.id {
        MessageId::NEGOTIATE_PROTOCOL => read(body, Request::Negotiate, |_| Ok(())),
        MessageId::CREATE => read(body, Request::Create, |create| {
            Ok(create.container_config.required("ContainerConfig")?)
        }),
        MessageId::START => read(body, Request::Start, |_| Ok(())),
        MessageId::SHUTDOWN_GRACEFUL => read(body, Request::ShutdownGraceful, |_| Ok(())),
        MessageId::SHUTDOWN_FORCED => read(body, Request::ShutdownForced, |_| Ok(())),
        MessageId::EXECUTE_PROCESS => read(body, Request::ExecuteProcess, |execute| {
            let parameters = &execute.settings.process_parameters;
            Ok(parameters.required("ProcessParameters")?)
        }),
        MessageId::WAIT_FOR_PROCESS => read(body, Request::WaitForProcess, |_| Ok(())),
        MessageId::SIGNAL_PROCESS => read(body, Request::SignalProcess, |_| Ok(())),
        MessageId::RESIZE_CONSOLE => read(body, Request::ResizeConsole, |_| Ok(())),
        MessageId::GET_PROPERTIES => read(body, Request::GetProperties, |_| Ok(())),
        MessageId::MODIFY_SETTINGS => read(body, Request::ModifySettings, known_resource),
        MessageId::DELETE_CONTAINER_STATE => read(body, Request::DeleteContainerState, |_| Ok(())),
        MessageId::DUMP_STACKS => (base_only(body), Ok(Request::DumpStacks)),
        other => (base_only(body), Err(unsupported(other))),
    };
    Incoming {
        id: frame.id,
        sequence: frame.sequence,
        base,
        request,
    }
}

/// A request of the retired protocol: one that only it has, or one that has not changed since.
#[derive(Debug, Clone, PartialEq)]
pub enum RequestV1 {
    Create(v1::ContainerCreate),
    Modify(v1::ContainerModifySettings),
    Common(Request),
}

/// Understands one frame of the retired protocol (section 8).
pub fn decode_v1(frame: &Frame) -> (MessageBase, Result<RequestV1, Failure>) {
    match frame.id {
        MessageId::CREATE => read(&frame.payload, RequestV1::Create, |create| {
            Ok(create.container_config.required("ContainerConfig")?)
        }),
        MessageId::MODIFY_SETTINGS => read(&frame.payload, RequestV1::Modify, |_| Ok(())),
        _ => {
            let Incoming { base, request, .. } = decode(frame);
            (base, request.map(RequestV1::Common))
        }
    }
}

/// The failure of a request whose type is unknown, or known but not valid now.
#[must_use]
pub fn unsupported(id: MessageId) -> Failure {
    let text = format!("message type {id} is not supported here");
    Failure::new(HResult::NOT_IMPLEMENTED, text)
}

/// Bodies that carry the base members.
trait Body: Decode + Default {
    fn base(&self) -> &MessageBase;
}

impl Body for MessageBase {
    fn base(&self) -> &MessageBase {
        self
    }
}

macro_rules! bodies {
    ($($body:ty),*) => {$(
        impl Body for $body {
            fn base(&self) -> &MessageBase {
                &self.base
            }
        }
    )*};
}

bodies!(
    NegotiateProtocol,
    ContainerCreate,
    ContainerExecuteProcess,
    ContainerWaitForProcess,
    ContainerSignalProcess,
    ContainerResizeConsole,
    ContainerGetProperties,
    ContainerModifySettings,
    v1::ContainerCreate,
    v1::ContainerModifySettings
);

fn read<T: Body, R>(
    payload: &[u8],
    request: impl FnOnce(T) -> R,
    check: impl FnOnce(&T) -> Result<(), Failure>,
) -> (MessageBase, Result<R, Failure>) {
    match json::read::<T>(payload) {
        Ok((body, error)) => {
            let base = body.base().clone();
            let checked = match error {
                Some(error) => Err(error.into()),
                None => check(&body),
            };
            (base, checked.map(|()| request(body)))
        }
        Err(syntax) => {
            let failure = Failure::new(HResult::INVALID_JSON, format!("payload: {syntax}"));
            (MessageBase::default(), Err(failure))
        }
    }
}

fn base_only(payload: &[u8]) -> MessageBase {
    json::read::<MessageBase>(payload).map_or_else(|_| MessageBase::default(), |(base, _)| base)
}

fn known_resource(modify: &ContainerModifySettings) -> Result<(), Failure> {
    match &modify.request.resource {
        Resource::Unknown(name) => Err(Failure::unspecified(format!(
            "resource type {:?} is not known",
            shorten(name, 40)
        ))),
        _ => Ok(()),
    }
}

impl From<TypeError> for Failure {
    fn from(error: TypeError) -> Self {
        Self::new(HResult::INVALID_JSON, error.to_string())
    }
}

/// The bytes of the answer to the request of type `request`, at most [`MAX_TO_HOST`]. A text that
/// is too long is shortened; an answer that cannot be shortened becomes an error.
#[must_use]
pub fn encode_response(
    request: MessageId,
    sequence: SequenceId,
    activity_id: &str,
    outcome: &Result<Reply, Failure>,
) -> Vec<u8> {
    let payload = match outcome {
        Ok(reply) => success(activity_id, reply).unwrap_or_else(|failure| {
            log::error!("answer to {request}: {failure}");
            refusal(activity_id, &failure)
        }),
        Err(failure) => refusal(activity_id, failure),
    };
    framed(request.response(), sequence, &payload)
}

/// The bytes of an exit notification.
#[must_use]
pub fn encode_notification(notification: &ContainerNotification) -> Vec<u8> {
    let payload = json_bytes(notification);
    if payload.len() <= MAX_PAYLOAD_TO_HOST {
        return framed(MessageId::NOTIFICATION, 0, &payload);
    }
    // Only absurd ids or a huge ResultInfo get here. The exit itself must still be reported.
    let mut short = notification.clone();
    short.result_info.clear();
    short.base.activity_id = echo(&short.base.activity_id).to_owned();
    let payload = json_bytes(&short);
    if payload.len() > MAX_PAYLOAD_TO_HOST {
        short.base.container_id = shorten(&short.base.container_id, TEXT_LIMIT / 6).to_owned();
        return framed(MessageId::NOTIFICATION, 0, &json_bytes(&short));
    }
    framed(MessageId::NOTIFICATION, 0, &payload)
}

/// Bytes for each of the two error texts as JSON, in which one byte becomes at most six.
const TEXT_LIMIT: usize = 30_000;
/// Bytes for the text of DumpStacks, as JSON.
pub const STACKS_LIMIT: usize = 60_000;

fn framed(id: MessageId, sequence: SequenceId, payload: &[u8]) -> Vec<u8> {
    frame::encode(id, sequence, payload, MAX_TO_HOST).unwrap_or_else(|error| {
        // This cannot happen, because every payload above was made to fit. An empty object is still
        // an answer.
        log::error!("{id}: {error}");
        frame::encode(id, sequence, b"{}", MAX_TO_HOST).unwrap_or_default()
    })
}

/// The activity id to send back as received. One that is longer than any GUID is left out.
fn echo(activity_id: &str) -> &str {
    if activity_id.len() > 512 {
        ""
    } else {
        activity_id
    }
}

fn base(activity_id: &str) -> MessageResponseBase {
    MessageResponseBase {
        activity_id: echo(activity_id).to_owned(),
        ..MessageResponseBase::default()
    }
}

fn refusal(activity_id: &str, failure: &Failure) -> Vec<u8> {
    // The host would take a failure with the code of success for a success.
    let result = match failure.code {
        HResult::OK => HResult::FAIL,
        code => code,
    };
    let text = fit(&failure.message, TEXT_LIMIT);
    json_bytes(&MessageResponseBase {
        result,
        error_message: text.clone(),
        error_records: vec![ErrorRecord {
            result,
            message: text,
            module_name: ErrorRecord::MODULE.to_owned(),
            line: ErrorRecord::NO_LINE,
            function_name: failure.function().unwrap_or_default(),
            ..ErrorRecord::default()
        }],
        ..base(activity_id)
    })
}

fn success(activity_id: &str, reply: &Reply) -> Result<Vec<u8>, Failure> {
    let base = base(activity_id);
    let payload = match reply {
        Reply::Done => json_bytes(&base),
        Reply::Negotiated {
            version,
            capabilities,
        } => json_bytes(&NegotiateProtocolResponse {
            base,
            version: version.0,
            capabilities: capabilities.clone(),
        }),
        Reply::Created => json_bytes(&ContainerCreateResponse {
            base,
            ..ContainerCreateResponse::default()
        }),
        Reply::CreatedV1 => json_bytes(&ContainerCreateResponse {
            base,
            selected_protocol_version: ProtocolVersion::V3.0,
            ..ContainerCreateResponse::default()
        }),
        Reply::Executed { process_id } => json_bytes(&ContainerExecuteProcessResponse {
            base,
            process_id: *process_id,
        }),
        Reply::Exited { exit_code } => json_bytes(&ContainerWaitForProcessResponse {
            base,
            exit_code: *exit_code,
        }),
        Reply::Properties(properties) => properties_payload(base, properties.clone()),
        Reply::Stacks(stacks) => json_bytes(&DumpStacksResponse {
            base,
            guest_stacks: fit(stacks, STACKS_LIMIT),
        }),
    };
    if payload.len() > MAX_PAYLOAD_TO_HOST {
        return Err(Failure::unspecified(format!(
            "the answer has {} bytes, a host takes {MAX_PAYLOAD_TO_HOST}",
            payload.len()
        )));
    }
    Ok(payload)
}

/// Properties that fit. The statistics that newer guests do not send are left out first.
fn properties_payload(base: MessageResponseBase, properties: PropertiesV2) -> Vec<u8> {
    let mut response = ContainerGetPropertiesResponse {
        base,
        properties: json::Nested::new(properties),
    };
    let payload = json_bytes(&response);
    if payload.len() <= MAX_PAYLOAD_TO_HOST {
        return payload;
    }
    if let Some(metrics) = &mut response.properties.metrics {
        metrics.blkio = None;
        metrics.rdma = None;
        metrics.network.clear();
        if let Some(cpu) = &mut metrics.cpu {
            cpu.usage.per_cpu.clear();
        }
    }
    let payload = json_bytes(&response);
    if payload.len() <= MAX_PAYLOAD_TO_HOST {
        return payload;
    }
    let list = &mut response.properties.process_list;
    log::warn!("a list of {} processes is cut to {PROCESSES}", list.len());
    list.truncate(PROCESSES);
    json_bytes(&response)
}

/// The most processes that are listed. Each takes up to 28 bytes.
const PROCESSES: usize = 2000;

fn json_bytes(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).unwrap_or_else(|error| {
        // This cannot happen: all messages have text keys, and no part of them fails to encode.
        log::error!("encoding a message: {error}");
        b"{}".to_vec()
    })
}
