//! The reference's recorded exchanges, sent to a real guest: each request gets the same result
//! code, response type and activity id, and the same set of members.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value};
use uvm::{BootOptions, Uvm};
use uvm_host::Host;

const LONG: Duration = Duration::from_secs(120);
const NEGOTIATE: u32 = 0x1010_0b01;

/// Where we do better than the reference, and how (protocol 13).
const DEVIATIONS: &[(&str, i64)] = &[];

struct Exchange {
    name: String,
    message: u32,
    payload: Vec<u8>,
    negotiated: bool,
    answer: Map<String, Value>,
}

fn exchanges() -> Vec<Exchange> {
    let text = include_str!("../../gcs/testdata/exchanges.json");
    let vectors: Vec<Value> = serde_json::from_str(text).unwrap();
    let exchange = |vector: &Value| {
        let text = |name: &str| vector[name].as_str().unwrap().to_owned();
        let message = text("type");
        Exchange {
            name: text("name"),
            message: u32::from_str_radix(message.trim_start_matches("0x"), 16).unwrap(),
            payload: text("json").into_bytes(),
            negotiated: vector["before"] == serde_json::json!(["negotiated"]),
            answer: serde_json::from_str(&text("response")).unwrap(),
        }
    };
    vectors.iter().map(exchange).collect()
}

/// What is wrong with the guest's answer, if anything.
fn difference(host: &Host, exchange: &Exchange) -> Option<String> {
    let mut pending = host
        .send_frame(exchange.message, exchange.payload.clone())
        .unwrap();
    let answer = pending.raw(LONG).unwrap();
    let names = |map: &Map<String, Value>| map.keys().cloned().collect::<BTreeSet<_>>();
    let mut expected = exchange.answer["Result"].as_i64();
    if let Some((_, ours)) = DEVIATIONS.iter().find(|(name, _)| *name == exchange.name) {
        expected = Some(*ours);
    }
    let same = answer["Result"].as_i64() == expected
        && answer.get("ActivityId") == exchange.answer.get("ActivityId")
        && names(&answer) == names(&exchange.answer);
    (!same).then(|| {
        let (seen, wanted) = (Value::from(answer), Value::from(exchange.answer.clone()));
        format!("{}: seen {seen}, expected {wanted}", exchange.name)
    })
}

/// Not strict: activity ids that are no GUIDs are echoed, which a real host would not survive.
fn boot(negotiate: bool) -> Option<Uvm> {
    let options = BootOptions {
        negotiate,
        strict: false,
        ..BootOptions::default()
    };
    Some(Uvm::boot_with(common::profile()?, options).unwrap())
}

#[test]
fn every_recorded_exchange_has_the_reference_answer() {
    let (fresh, negotiated): (Vec<_>, Vec<_>) = exchanges()
        .into_iter()
        .partition(|exchange| !exchange.negotiated);
    // Those that agree on a version end the un-negotiated state, so each has its own machine.
    let agrees = |e: &&Exchange| e.message == NEGOTIATE && e.answer["Result"] == 0;
    let (agreeing, refused): (Vec<_>, Vec<_>) = fresh.iter().partition(agrees);
    let mut wrong = Vec::new();
    let Some(vm) = boot(false) else { return };
    wrong.extend(
        refused
            .into_iter()
            .filter_map(|exchange| difference(vm.host(), exchange)),
    );
    let mut machines = vec![vm];
    for exchange in agreeing {
        // The first goes to the machine that refused so much before: it is not spoiled by that.
        let vm = machines.pop().or_else(|| boot(false)).unwrap();
        wrong.extend(difference(vm.host(), exchange));
        drop(vm);
    }
    let Some(vm) = boot(true) else { return };
    wrong.extend(
        negotiated
            .iter()
            .filter_map(|exchange| difference(vm.host(), exchange)),
    );
    assert_eq!(
        vm.external(&["true"]).run().unwrap().code,
        0,
        "the guest lives on"
    );
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
