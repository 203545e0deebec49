//! Codes and records of refusals.

use serde_json::{json, Value};

use super::{Area, Scenario};
use crate::{
    codes, contains, fail, not_run, refused, same, that, AnswerIs, Checked, Guest, Lab, LIMIT,
};
use uvm_host::wire::Rpc;
use uvm_host::{Answer, UVM_ID};

pub const AREA: Area = Area {
    name: "errors",
    scenarios: SCENARIOS,
    not_run: &[],
};

/// A pid that no process has (above the kernel's largest).
const NO_PID: u32 = 0x7fff_fff0;
/// How many containers are tried until one is seen while it is being created.
const RACES: usize = 10;

/// Requests that are refused, each in another way.
fn refusals(vm: &Guest) -> Checked<Vec<(&'static str, Answer)>> {
    let none = "no-such-container";
    let external = json!({"CommandArgs": ["/no/such/program"], "CreateInUtilityVM": true});
    let requests = [
        (
            "unknown container",
            Rpc::GetProperties,
            json!({"ContainerId": none, "Query": ""}),
        ),
        (
            "unknown pid",
            Rpc::WaitForProcess,
            json!({"ContainerId": UVM_ID, "ProcessId": NO_PID}),
        ),
        (
            "missing program",
            Rpc::ExecuteProcess,
            json!({"ContainerId": UVM_ID, "Settings": {"ProcessParameters": external.to_string()}}),
        ),
        (
            "old schema",
            Rpc::Create,
            json!({"ContainerId": none, "ContainerConfig": "{}"}),
        ),
        (
            "unknown resource",
            Rpc::ModifySettings,
            json!({"ContainerId": UVM_ID, "Request": {"ResourceType": "Nonsense"}}),
        ),
        (
            "second negotiation",
            Rpc::NegotiateProtocol,
            json!({"MinimumVersion": 4, "MaximumVersion": 4}),
        ),
    ];
    let ask = |(name, rpc, document): (&'static str, Rpc, Value)| {
        let answer = vm.ask_json(rpc, &document)?;
        match answer.code() {
            0 => Err(fail(format!("{name}: a refusal"), answer.text())),
            _ => Ok((name, answer)),
        }
    };
    requests.into_iter().map(ask).collect()
}

/// Judges every refusal. The check returns what it expected when it does not hold.
fn each_refusal(lab: &mut Lab, check: impl Fn(&Answer) -> Result<(), String>) -> Checked {
    let vm = lab.guest()?;
    for (name, answer) in refusals(&vm)? {
        check(&answer).map_err(|expected| fail(format!("{name}: {expected}"), answer.text()))?;
    }
    Ok(())
}

fn expect(holds: bool, expected: &str) -> Result<(), String> {
    match holds {
        true => Ok(()),
        false => Err(expected.to_owned()),
    }
}

const SCENARIOS: &[(u16, Scenario)] = &[
    (50, |lab| {
        let ok = lab.guest()?.ask_json(Rpc::Start, &json!({}))?;
        contains("a successful answer", "\"Result\":0", &ok.text())?;
        each_refusal(lab, |answer| {
            expect(answer.members.contains_key("Result"), "Result")
        })
    }),
    (51, |lab| {
        let vm = lab.guest()?;
        let document = json!({"ContainerId": "no-such-container"});
        let text = vm.ask_json(Rpc::DeleteContainerState, &document)?.text();
        contains("the answer", "\"Result\":-1070137074", &text)?;
        each_refusal(lab, |answer| {
            let result = answer.members["Result"].as_i64();
            expect(result.is_some_and(|r| r < 0), "a negative Result")
        })
    }),
    (52, |lab| {
        each_refusal(lab, |answer| {
            let (members, records) = (&answer.members, &answer.members["ErrorRecords"]);
            let record = &records[0];
            let one = records.as_array().is_some_and(|all| all.len() == 1);
            let text = members["ErrorMessage"].as_str().unwrap_or_default();
            expect(!text.is_empty(), "an ErrorMessage")?;
            expect(one, "exactly one of ErrorRecords")?;
            expect(record["Result"] == members["Result"], "the record's Result")?;
            expect(record["Message"] == text, "the record's Message")
        })
    }),
    (53, |lab| {
        each_refusal(lab, |answer| {
            let record = &answer.members["ErrorRecords"][0];
            expect(record["ModuleName"] == "gcs", "ModuleName gcs")?;
            expect(record["FileName"].is_string(), "a FileName")?;
            expect(record["Line"].is_u64(), "a Line")
        })
    }),
    (54, |lab| {
        const BASE: [&str; 4] = ["Result", "ActivityId", "ErrorMessage", "ErrorRecords"];
        each_refusal(lab, |answer| {
            let more = answer.members.keys().any(|k| !BASE.contains(&k.as_str()));
            expect(!more, "only base members")
        })
    }),
    (55, |lab| {
        let vm = lab.guest()?;
        refused(vm.external(&["/no/such/program"]).start(), codes::FAIL)?;
        refused(vm.modify("Nonsense", "Add", json!({})), codes::FAIL).map(drop)
    }),
    (56, |lab| {
        let vm = lab.guest()?;
        let constraints = json!({"ResourceType": "ContainerConstraints", "RequestType": "Update",
            "Settings": {"Linux": {}}});
        let init = json!({"ProcessParameters": "{}"});
        for rpc in Rpc::ALL {
            let mut document = json!({"ContainerId": "no-such-container", "ProcessId": 1});
            match rpc {
                Rpc::Create | Rpc::Start | Rpc::NegotiateProtocol | Rpc::DumpStacks => continue,
                Rpc::ExecuteProcess => document["Settings"] = init.clone(),
                Rpc::ModifySettings => document["Request"] = constraints.clone(),
                _ => {}
            }
            let answer = vm.ask_json(rpc, &document)?;
            that(
                answer.code() == codes::NOT_FOUND,
                format!("{rpc:?} with Result {:#010x}", codes::NOT_FOUND),
                answer.text(),
            )?;
        }
        Ok(())
    }),
    (57, |lab| {
        let vm = lab.guest()?;
        let container = vm.container("true").create()?;
        for rpc in [Rpc::WaitForProcess, Rpc::SignalProcess, Rpc::ResizeConsole] {
            let document = json!({"ContainerId": container.id(), "ProcessId": NO_PID,
                "TimeoutInMs": 1000, "Height": 1, "Width": 1});
            vm.ask_json(rpc, &document)?.is(codes::ELEMENT_NOT_FOUND)?;
        }
        container.remove()
    }),
    (58, |lab| {
        let vm = lab.guest()?;
        for _ in 0..RACES {
            let mounted = vm.container("true").mount()?;
            let id = mounted.plan().id().to_owned();
            // Two frames, one after the other: the second is read while the first is worked on.
            vm.register(&id);
            let create = json!({"ContainerConfig": mounted.plan().document().to_string()});
            let mut create = vm.send(Rpc::Create, &id, create)?;
            let mut wait = vm.send(Rpc::WaitForProcess, &id, json!({"ProcessId": NO_PID}))?;
            let seen = wait.answer(LIMIT)?;
            create.wait(LIMIT)?;
            drop(mounted.created());
            match seen.code() {
                codes::INVALID_STATE => return Ok(()),
                // The wait came before the registration, or after the end of Create.
                codes::NOT_FOUND | codes::ELEMENT_NOT_FOUND => {}
                _ => return seen.is(codes::INVALID_STATE),
            }
        }
        Err(not_run("Create was always too fast to be seen under way"))
    }),
    (59, |lab| {
        let vm = lab.guest()?;
        let plan = vm.container("").args(&["/no/such/program"]);
        let words = match plan.try_create()? {
            Err(refusal) => refused(Err::<(), _>(refusal), codes::FAIL)?,
            Ok(container) => refused(container.init().start(), codes::FAIL)?,
        };
        contains("ErrorMessage", "/no/such/program", &words)?;
        same(
            "exit code of the next one",
            3,
            vm.container("exit 3").run()?.code,
        )
    }),
];
