//! The negotiation. Each scenario has a VM that has heard nothing yet.

use serde_json::{json, Value};

use super::{Area, Scenario};
use crate::{codes, same, that, AnswerIs, Checked, Guest, Lab};
use uvm_host::wire::Rpc;
use uvm_host::Answer;

pub const AREA: Area = Area {
    name: "negotiate",
    scenarios: SCENARIOS,
    not_run: &[],
};

const NULL_GUID: &str = "00000000-0000-0000-0000-000000000000";

fn fresh(lab: &Lab) -> Checked<Guest> {
    lab.boot(|b| b.negotiate = false)
}

fn negotiate(vm: &Guest, minimum: u32, maximum: u32) -> Checked<Answer> {
    let document = json!({
        "ContainerId": "", "ActivityId": NULL_GUID,
        "MinimumVersion": minimum, "MaximumVersion": maximum});
    vm.ask_json(Rpc::NegotiateProtocol, &document)
}

/// The capabilities of a guest.
fn capabilities(lab: &Lab) -> Checked<Value> {
    let answer = negotiate(&fresh(lab)?, 4, 4)?;
    answer.is(0)?;
    Ok(answer.members["Capabilities"].clone())
}

const SCENARIOS: &[(u16, Scenario)] = &[
    (70, |lab| {
        let answer = negotiate(&fresh(lab)?, 4, 4)?;
        let expected = json!({
            "Result": 0, "ActivityId": NULL_GUID, "Version": 4,
            "Capabilities": {
                "SupportedSchemaVersions": [{"Major": 2, "Minor": 1}],
                "RuntimeOsType": "Linux",
                "GuestDefinedCapabilities": {
                    "NamespaceAddRequestSupported": true, "SignalProcessSupported": true,
                    "DumpStacksSupported": true, "DeleteContainerStateSupported": true}}});
        let seen: Value = serde_json::from_slice(&answer.payload)?;
        that(seen == expected, expected, seen)
    }),
    (71, |lab| {
        let vm = fresh(lab)?;
        for (minimum, maximum) in [(1, 3), (5, 9), (0, 0)] {
            negotiate(&vm, minimum, maximum)?.is(codes::UNSUPPORTED_VERSION)?;
        }
        Ok(())
    }),
    (72, |lab| {
        let answer = negotiate(&fresh(lab)?, 1, 10)?;
        answer.is(0)?;
        same("Version", json!(4), answer.members["Version"].clone())
    }),
    (73, |lab| {
        let vm = fresh(lab)?;
        negotiate(&vm, 5, 6)?.is(codes::UNSUPPORTED_VERSION)?;
        negotiate(&vm, 4, 4)?.is(0)?;
        vm.ask_json(Rpc::Start, &json!({"ContainerId": "x"}))?.is(0)
    }),
    (74, |lab| {
        let vm = fresh(lab)?;
        // Create is not the first request, which a guest may take for the V1 protocol.
        let others = Rpc::ALL.into_iter().rev();
        for rpc in others.filter(|rpc| *rpc != Rpc::NegotiateProtocol) {
            vm.ask_json(rpc, &json!({"ContainerId": "x"}))?
                .is(codes::NOT_IMPLEMENTED)?;
        }
        negotiate(&vm, 4, 4)?.is(0)
    }),
    (75, |lab| {
        let vm = lab.guest()?;
        negotiate(&vm, 4, 4)?.is(codes::NOT_IMPLEMENTED)?;
        vm.ask_json(Rpc::Start, &json!({"ContainerId": "x"}))?.is(0)
    }),
    (76, |lab| {
        let os = capabilities(lab)?["RuntimeOsType"].clone();
        let linux = os.as_str().is_some_and(|os| os.to_lowercase() == "linux");
        that(linux, "RuntimeOsType linux in some letter case", os)
    }),
    (77, |lab| {
        const OURS: [&str; 4] = [
            "NamespaceAddRequestSupported",
            "SignalProcessSupported",
            "DumpStacksSupported",
            "DeleteContainerStateSupported",
        ];
        let all = capabilities(lab)?;
        let guest = &all["GuestDefinedCapabilities"];
        let names = [&all, guest].map(|object| object.as_object().cloned().unwrap_or_default());
        let mut claimed = names
            .into_iter()
            .flatten()
            .filter(|(_, value)| *value == true);
        let stray = claimed.find(|(name, _)| !OURS.contains(&name.as_str()));
        let seen = format!("{stray:?}");
        that(stray.is_none(), "no other capability to be true", seen)
    }),
    (78, |lab| {
        let vm = fresh(lab)?;
        for versions in [json!({"MinimumVersion": 4}), json!({})] {
            vm.ask_json(Rpc::NegotiateProtocol, &versions)?
                .is(codes::UNSUPPORTED_VERSION)?;
        }
        Ok(())
    }),
];
