//! The bridge as the host runs it: numbers requests from 0, pairs answers by id, queues
//! notifications, and in strict mode ends the run where a real host would drop the bridge.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::end::{End, HostError};
use crate::state::{Answer, Call, Notification, Shared};
use crate::strict;
use crate::trace::SpanId;
use crate::wire::{self, Frame, Rpc};

/// How long the cause of a lost bridge (a panic on the console, QEMU's exit) may take to show.
const SETTLE: Duration = Duration::from_secs(3);

/// Reads a bridge, the one of this `number`, to its end or to the end of the run. Runs on a
/// thread of its own.
pub(crate) fn read(shared: &Shared, mut from: impl Read, number: u32, is_strict: bool) {
    let closed = |end| closed(shared, number, end);
    loop {
        let frame = wire::read_frame(&mut from);
        if shared.lock().bridge_number != number {
            // This side has dropped the bridge, and a host would not read what still arrives
            // either.
            return;
        }
        let said = match frame {
            Ok(Some(frame)) => take(shared, &frame, is_strict),
            Ok(None) => return closed(End::BridgeClosed),
            Err(e @ wire::FrameError::Size { .. }) => {
                // There is no way to find the next frame, strict or not.
                shared.end(End::Violation(e.to_string()));
                return;
            }
            Err(e @ wire::FrameError::Cut { .. }) => {
                return closed(End::Violation(e.to_string()));
            }
            Err(wire::FrameError::Io(_)) => return closed(End::BridgeClosed),
        };
        if let Err(violation) = said {
            if is_strict {
                shared.end(End::Violation(violation));
                return;
            }
            shared.update(|state| state.tolerated.push(violation));
        }
    }
}

/// A guest that dies loses its bridge, and its own last words explain more.
fn closed(shared: &Shared, number: u32, end: End) {
    let leaving = shared.update(|state| {
        if state.bridge_number == number {
            state.bridge = None;
        }
        state.leaving
    });
    if leaving && end == End::BridgeClosed {
        return;
    }
    let never = shared.wait("waiting for the cause", SETTLE, |_| None::<()>);
    if matches!(never, Err(HostError::Timeout { .. })) {
        shared.end(end);
    }
}

/// Takes a frame of the guest. An error is a breach and names the frame.
fn take(shared: &Shared, frame: &Frame, is_strict: bool) -> Result<(), String> {
    let taken = match frame.message {
        wire::NOTIFICATION => take_notification(shared, frame),
        message if wire::is_response(message) => take_response(shared, frame, is_strict),
        _ => Err("a guest sends only responses and notifications".into()),
    };
    taken.map_err(|breach| {
        let (name, id) = (wire::name(frame.message), frame.id);
        format!("{name} with id {id}: {breach}")
    })
}

fn take_notification(shared: &Shared, frame: &Frame) -> Result<(), String> {
    let members = strict::notification(&frame.payload)
        .map_err(|e| format!("{e}{}", quote(&frame.payload)))?;
    if frame.id != 0 {
        return Err("a notification has id 0".into());
    }
    let id = members.get("ContainerId").and_then(Value::as_str);
    let id = id.unwrap_or_default().to_owned();
    shared.update(|state| match state.containers.get_mut(&id) {
        None => Err(format!("this host created no container {id:?}")),
        Some(Some(_)) => Err(format!("the second one for container {id:?}")),
        Some(slot) => {
            *slot = Some(Notification {
                container: id.clone(),
                members,
                at: Instant::now(),
            });
            Ok(())
        }
    })
}

fn take_response(shared: &Shared, frame: &Frame, is_strict: bool) -> Result<(), String> {
    shared.update(|state| {
        let call = state.calls.get_mut(&frame.id);
        let Some(call) = call.filter(|call| call.answer.is_none()) else {
            return Err("no call with this id is outstanding".into());
        };
        if frame.message != wire::response_to(call.message) {
            let asked = wire::name(call.message);
            return Err(format!("the call with this id was a {asked}"));
        }
        let span = call.span;
        let judged = strict::response(Rpc::of(call.message), &frame.payload)
            .map_err(|e| format!("{e}{}", quote(&frame.payload)));
        let (members, judgement) = match judged {
            Ok(members) => (members, Ok(())),
            // A tolerated answer still answers the call, if it can be read at all.
            Err(breach) if !is_strict => (
                serde_json::from_slice(&frame.payload).unwrap_or_default(),
                Err(breach),
            ),
            Err(breach) => return Err(breach),
        };
        if let Some(span) = span {
            let result = members.get("Result").and_then(Value::as_i64);
            let trace = state.trace.clone();
            trace.answered(span, frame.id, result.unwrap_or(0));
        }
        let Some(call) = state.calls.get_mut(&frame.id) else {
            return judgement;
        };
        if call.forgotten {
            state.calls.remove(&frame.id);
        } else {
            call.answer = Some(Answer {
                message: frame.message,
                payload: frame.payload.clone(),
                members,
            });
        }
        judgement
    })
}

fn quote(payload: &[u8]) -> String {
    let text = String::from_utf8_lossy(&payload[..payload.len().min(400)]);
    format!("; the payload: {text}")
}

/// A request without an answer yet. Dropping it forgets the answer.
#[must_use]
pub struct Pending {
    pub(crate) shared: Shared,
    pub(crate) id: u64,
    pub(crate) doing: String,
}

impl Pending {
    /// The id of the frame.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether the answer is there.
    pub fn is_ready(&self) -> bool {
        self.shared
            .lock()
            .calls
            .get(&self.id)
            .is_some_and(|call| call.answer.is_some())
    }

    /// The answer's members whatever its `Result`; a time-out keeps the call outstanding.
    pub fn raw(&mut self, limit: Duration) -> Result<Map<String, Value>, HostError> {
        self.answer(limit).map(|answer| answer.members)
    }

    /// The whole answer whatever its `Result`; a time-out keeps the call outstanding.
    pub fn answer(&mut self, limit: Duration) -> Result<Answer, HostError> {
        let id = self.id;
        self.shared.wait(&self.doing, limit, |state| {
            let ready = state
                .calls
                .get(&id)
                .is_some_and(|call| call.answer.is_some());
            if !ready {
                return None;
            }
            state.calls.remove(&id).and_then(|call| call.answer)
        })
    }

    /// The answer's members; `Refused` when the guest answered with a failure.
    pub fn wait(&mut self, limit: Duration) -> Result<Map<String, Value>, HostError> {
        let members = self.raw(limit)?;
        let result = members.get("Result").and_then(Value::as_i64).unwrap_or(0);
        if result == 0 {
            return Ok(members);
        }
        let record = members.get("ErrorRecords").and_then(|r| r.get(0));
        let in_record = |member| record.and_then(|r| r.get(member));
        let message = members
            .get("ErrorMessage")
            .or_else(|| in_record("Message"))
            .and_then(Value::as_str);
        let function = in_record("FunctionName").and_then(Value::as_str);
        Err(HostError::Refused {
            doing: self.doing.clone(),
            // `strict` has checked that it fits.
            result: i32::try_from(result).unwrap_or(-1),
            message: message.unwrap_or("(no text)").to_owned(),
            function: function.map(str::to_owned),
        })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        match state.calls.get_mut(&self.id) {
            Some(call) if call.answer.is_none() => call.forgotten = true,
            Some(_) => drop(state.calls.remove(&self.id)),
            None => {}
        }
    }
}

/// Registers a call whose frame the caller writes, with the next id or one of the caller's choice.
pub(crate) fn expect(shared: &Shared, message: u32, id: Option<u64>, doing: String) -> Pending {
    let call = Call {
        message,
        span: None,
        answer: None,
        forgotten: false,
    };
    let id = shared.update(|state| {
        let id = id.unwrap_or_else(|| {
            while state.calls.contains_key(&state.next_call) {
                state.next_call += 1;
            }
            state.next_call += 1;
            state.next_call - 1
        });
        state.calls.insert(id, call);
        id
    });
    Pending {
        shared: shared.clone(),
        id,
        doing,
    }
}

/// Registers a call and writes its frame. One writer at a time: `writer` is its lock.
pub(crate) fn send(
    shared: &Shared,
    writer: &std::sync::Mutex<()>,
    message: u32,
    payload: Vec<u8>,
    doing: String,
    span: Option<SpanId>,
) -> Result<Pending, HostError> {
    let guard = writer
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let pending = expect(shared, message, None, doing);
    let id = pending.id;
    if span.is_some() {
        shared.update(|state| state.calls.get_mut(&id).map(|call| call.span = span));
    }
    let frame = Frame {
        message,
        id,
        payload,
    };
    write(shared, &frame.to_bytes(), &pending.doing)?;
    drop(guard);
    Ok(pending)
}

/// Writes bytes as they are to the bridge.
pub(crate) fn write(shared: &Shared, bytes: &[u8], doing: &str) -> Result<(), HostError> {
    let stream: Option<Arc<UnixStream>> = shared.lock().bridge.clone();
    let result = match &stream {
        Some(stream) => (&mut &**stream).write_all(bytes),
        None => Err(std::io::ErrorKind::NotConnected.into()),
    };
    result.map_err(|source| {
        // The end of the run says more than "broken pipe".
        match shared.wait(doing, SETTLE + Duration::from_secs(1), |_| None::<()>) {
            Err(ended @ HostError::Ended { .. }) => ended,
            _ => HostError::Io {
                doing: doing.to_owned(),
                source,
            },
        }
    })
}
