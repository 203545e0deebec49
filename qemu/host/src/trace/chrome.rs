//! The timeline in Chrome's trace event format (its document of 2016, "Trace Event Format").
//!
//! A viewer draws spans that overlap on one track as nested, which is right only for a span and its
//! parent. So a span gets the track of its parent if it lies within the parent and does not overlap
//! its siblings. Otherwise it gets the first free track of its process.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{json, Map, Value};

use super::clock::{micros, Clock, Pair};
use super::guest::{GuestSpan, Kind};
use super::{Collected, HostSpan, SpanId};

const HOST: u32 = 1;
const GUEST: u32 = 2;

/// A span on the host's clock. Times in µs.
#[derive(Debug, Clone, PartialEq)]
struct Span {
    id: String,
    parent: Option<String>,
    process: u32,
    /// Each has tracks of its own.
    family: Family,
    name: String,
    start: f64,
    end: f64,
    args: Map<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Family {
    Stages,
    Requests,
    /// Work of the guest that is for no request.
    Others,
}

impl Family {
    fn of_name(self, process: u32) -> &'static str {
        match (self, process) {
            (Self::Stages, HOST) => "uvm",
            (Self::Stages, _) => "boot",
            (Self::Requests, _) => "requests",
            (Self::Others, _) => "other work",
        }
    }
}

/// Times are written to the nanosecond; sums of such floats are off by less.
const SLACK: f64 = 1e-3;

impl Span {
    fn contains(&self, other: &Self) -> bool {
        self.start <= other.start + SLACK && other.end <= self.end + SLACK
    }
}

/// All that was collected up to `now`, as a document.
pub fn timeline(collected: &Collected, now: Duration, trace: u128) -> Value {
    let requests: HashMap<&str, &GuestSpan> = collected
        .guest
        .spans
        .iter()
        .filter(|span| span.kind == Kind::Request)
        .filter_map(|span| Some((span.host_span.as_deref()?, span)))
        .collect();
    let pairs = collected.spans.iter().filter_map(|(id, span)| {
        let guest = requests.get(id.to_string().as_str())?;
        Some(Pair {
            sent: micros(span.start),
            received: micros(span.end?),
            arrived: guest.start as f64,
            answered: guest.end as f64,
        })
    });
    let clock = Clock::estimate(pairs.collect());

    let mut spans: Vec<Span> = collected
        .spans
        .iter()
        .map(|(id, span)| of_host(*id, span, now))
        .collect();
    spans.extend(of_guest(&collected.guest.spans, &clock));
    drop_false_parents(&mut spans);
    let other = json!({
        "trace": format!("{trace:032x}"),
        "clock": about(&clock),
    });
    document(events(spans), other)
}

pub fn document(events: Vec<Value>, other: Value) -> Value {
    json!({"traceEvents": events, "displayTimeUnit": "ms", "otherData": other})
}

fn about(clock: &Clock) -> Value {
    let periods: Vec<Value> = clock
        .0
        .iter()
        .map(|period| {
            json!({
                "from_guest_us": period.from,
                "offset_us": period.offset(),
                "uncertainty_us": (period.high - period.low) / 2.0,
                "requests": period.pairs,
            })
        })
        .collect();
    json!({
        "method": "the guest's uptime less offset_us is the host's time; bounded by when requests \
                   were sent and answered on both clocks, as NTP does it",
        "periods": periods,
    })
}

fn of_host(id: SpanId, span: &HostSpan, now: Duration) -> Span {
    let mut args = span.args.clone();
    if span.end.is_none() {
        args.insert("unfinished".into(), true.into());
    }
    Span {
        id: id.to_string(),
        parent: span.parent.map(|parent| parent.to_string()),
        process: HOST,
        family: if span.is_request {
            Family::Requests
        } else {
            Family::Stages
        },
        name: span.name.clone(),
        start: micros(span.start),
        end: micros(span.end.unwrap_or(now).max(span.start)),
        args,
    }
}

/// Without a clock they cannot be placed.
fn of_guest(spans: &[GuestSpan], clock: &Clock) -> Vec<Span> {
    // Requests first: a task finds its own among them.
    let id = |index: usize| format!("g{index}");
    let of_span: HashMap<&str, usize> = spans
        .iter()
        .enumerate()
        .filter(|(_, span)| span.kind == Kind::Request)
        .filter_map(|(index, span)| Some((span.host_span.as_deref()?, index)))
        .collect();
    spans
        .iter()
        .enumerate()
        .filter_map(|(index, span)| {
            let (start, end) = clock.host(span.start as f64, span.end as f64)?;
            let (family, parent) = match (span.kind, span.host_span.as_deref()) {
                (Kind::Boot, _) => (Family::Stages, None),
                (Kind::Request, host) => (Family::Requests, host.map(str::to_owned)),
                (Kind::Task, Some(host)) => (Family::Requests, of_span.get(host).map(|at| id(*at))),
                (Kind::Task, None) => (Family::Others, None),
            };
            Some(Span {
                id: id(index),
                parent,
                process: GUEST,
                family,
                name: span.name.clone(),
                start,
                end,
                args: span.args.clone(),
            })
        })
        .collect()
}

/// A span that is not within its parent gets none: its work went on after the answer, or its stage
/// ended early.
fn drop_false_parents(spans: &mut [Span]) {
    let known: HashMap<String, Span> = spans.iter().map(|s| (s.id.clone(), s.clone())).collect();
    for span in spans {
        let parent = span.parent.as_ref().and_then(|id| known.get(id));
        if !parent.is_some_and(|parent| parent.contains(span)) {
            span.parent = None;
        }
    }
}

/// A row in the viewer.
struct Track {
    process: u32,
    family: Family,
    /// Thread id; unique in its process.
    number: u32,
    /// Spans that are not over, outermost first: id and end.
    open: Vec<(String, f64)>,
}

/// Spans of one process in the order of their beginnings, the outer ones first.
fn events(mut spans: Vec<Span>) -> Vec<Value> {
    spans.sort_by(|a, b| {
        let starts = a.start.total_cmp(&b.start);
        starts.then(b.end.total_cmp(&a.end))
    });
    let mut tracks: Vec<Track> = Vec::new();
    let mut events = Vec::new();
    let mut row_of: HashMap<String, u32> = HashMap::new();
    for span in &spans {
        let number = place(&mut tracks, span);
        row_of.insert(span.id.clone(), number);
        events.push(complete(span, number));
    }
    for span in spans.iter().filter(|span| span.process == GUEST) {
        let parent = span.parent.as_deref();
        let Some(from) = spans
            .iter()
            .find(|s| s.process == HOST && Some(s.id.as_str()) == parent)
        else {
            continue;
        };
        events.push(arrow("s", from, from.start, row_of[&from.id], &from.id));
        events.push(arrow("f", span, span.start, row_of[&span.id], &from.id));
    }
    for (process, name) in [(HOST, "host"), (GUEST, "guest")] {
        if tracks.iter().any(|track| track.process == process) {
            events.push(metadata(
                "process_name",
                process,
                None,
                json!({"name": name}),
            ));
            let order = json!({"sort_index": process});
            events.push(metadata("process_sort_index", process, None, order));
        }
    }
    for track in &tracks {
        let row = Some(track.number);
        let name = track.family.of_name(track.process);
        events.push(metadata(
            "thread_name",
            track.process,
            row,
            json!({"name": name}),
        ));
        let order = json!({"sort_index": track.number});
        events.push(metadata("thread_sort_index", track.process, row, order));
    }
    events
}

/// The number of the track that a span goes to.
fn place(tracks: &mut Vec<Track>, span: &Span) -> u32 {
    for track in tracks.iter_mut() {
        track.open.retain(|(_, end)| *end > span.start + SLACK);
    }
    let fits = |track: &Track| {
        let innermost = track.open.last().map(|(id, _)| id);
        track.process == span.process && innermost.is_some() && innermost == span.parent.as_ref()
    };
    let free = |track: &Track| {
        let same = (track.process, track.family) == (span.process, span.family);
        same && track.open.is_empty()
    };
    let at = tracks.iter().position(fits);
    let at = at.or_else(|| tracks.iter().position(free));
    let at = at.unwrap_or_else(|| {
        let alike = |t: &&Track| (t.process, t.family) == (span.process, span.family);
        let count = tracks.iter().filter(alike).count();
        tracks.push(Track {
            process: span.process,
            family: span.family,
            number: span.family as u32 * 1000 + u32::try_from(count).unwrap_or(u32::MAX - 9999),
            open: Vec::new(),
        });
        tracks.len() - 1
    });
    tracks[at].open.push((span.id.clone(), span.end));
    tracks[at].number
}

fn complete(span: &Span, row: u32) -> Value {
    let mut args = span.args.clone();
    args.insert("id".into(), span.id.as_str().into());
    if let Some(parent) = &span.parent {
        args.insert("parent".into(), parent.as_str().into());
    }
    json!({
        "ph": "X", "name": span.name, "cat": span.family.of_name(span.process),
        "pid": span.process, "tid": row, "ts": span.start, "dur": span.end - span.start,
        "args": args,
    })
}

fn arrow(phase: &str, span: &Span, at: f64, row: u32, id: &str) -> Value {
    json!({
        "ph": phase, "bp": "e", "id": id, "name": "request", "cat": "request",
        "pid": span.process, "tid": row, "ts": at,
    })
}

fn metadata(name: &str, process: u32, row: Option<u32>, args: Value) -> Value {
    let mut event = json!({"ph": "M", "name": name, "pid": process, "args": args});
    if let Some(row) = row {
        event["tid"] = row.into();
    }
    event
}
