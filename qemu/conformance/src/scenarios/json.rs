//! How requests are decoded. Mostly tables: a request, its payload, and the code it is answered
//! with.

use serde_json::{json, Value};

use super::{Area, Scenario};
use crate::{codes, fail, same, that, AnswerIs, Checked, Expected, Guest, LIMIT, TOOLS};
use uvm_host::wire::Rpc;
use uvm_host::UVM_ID;

pub const AREA: Area = Area {
    name: "json",
    scenarios: SCENARIOS,
    not_run: &[],
};

const BAD: u32 = codes::INVALID_JSON;
/// WaitForProcess of the VM by a pid that is none: shows that `ContainerId` was understood.
const GONE: u32 = codes::ELEMENT_NOT_FOUND;
const GUID: &str = "6ba7b810-9DAD-11d1-80b4-00c04fd430c8";

/// Requests that decode their body, in a negotiated session.
fn decoding() -> impl Iterator<Item = Rpc> {
    let bodiless = [Rpc::NegotiateProtocol, Rpc::DumpStacks];
    Rpc::ALL
        .into_iter()
        .filter(move |rpc| !bodiless.contains(rpc))
}

/// Each payload must be answered with its code.
fn table(vm: &Guest, rpc: Rpc, rows: &[(&str, u32)]) -> Checked {
    for (payload, code) in rows {
        let answer = vm.ask(rpc as u32, *payload)?;
        let shown: String = payload.chars().take(120).collect();
        that(
            answer.code() == *code,
            format!("Result {code:#010x} for {shown}"),
            answer.text(),
        )?;
    }
    Ok(())
}

/// Runs a process of the VM by an inner document written by hand. Returns its exit code. `inner`
/// has `PROGRAM` for the tools' busybox.
fn external(vm: &Guest, inner: &[u8]) -> Checked<u32> {
    vm.tools()?;
    let mut outer = format!("{{\"ContainerId\":\"{UVM_ID}\",\"Unknown\":[1e999999],\"Settings\":{{\"Unknown\":{{\"a\":null}},\"ProcessParameters\":\"").into_bytes();
    for byte in inner {
        if matches!(byte, b'"' | b'\\') {
            outer.push(b'\\');
        }
        outer.push(*byte);
    }
    outer.extend(b"\"}}");
    let program = format!("{TOOLS}/bin/busybox");
    let outer = replace(&outer, b"PROGRAM", program.as_bytes());
    let answer = vm.ask(Rpc::ExecuteProcess as u32, outer)?;
    answer.is(0)?;
    let pid = answer.members["ProcessId"]
        .as_u64()
        .expected("a ProcessId")?;
    let pid = u32::try_from(pid)?;
    let members = vm.send_wait(UVM_ID, pid)?.wait(LIMIT)?;
    let code = members["ExitCode"].as_u64().expected("an ExitCode")?;
    Ok(u32::try_from(code)?)
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    match bytes.windows(from.len()).position(|part| part == from) {
        Some(at) => [&bytes[..at], to, &bytes[at + from.len()..]].concat(),
        None => bytes.to_vec(),
    }
}

/// Whether two strings of an inner document are the same to the guest.
fn equal(vm: &Guest, written: &[u8], meant: &str) -> Checked {
    let words = [
        &b"{\"CommandArgs\":[\"PROGRAM\",\"test\",\""[..],
        written,
        b"\",\"=\",\"",
        meant.as_bytes(),
        b"\"],\"CreateInUtilityVM\":true}",
    ];
    let code = external(vm, &words.concat())?;
    let shown = String::from_utf8_lossy(written);
    that(
        code == 0,
        format!("{shown} to be {meant:?}"),
        format!("exit code {code} of the comparison"),
    )
}

fn nested(levels: usize) -> String {
    format!("{{\"X\":{}{}}}", "[".repeat(levels), "]".repeat(levels))
}

const SCENARIOS: &[(u16, Scenario)] = &[
    (30, |lab| {
        let rows = [
            ("{}\n", 0),
            (" \r\n\t{ \"ContainerId\" :\n\"x\" }\n \r\n\t", 0),
        ];
        table(&*lab.guest()?, Rpc::Start, &rows)
    }),
    (31, |lab| {
        let vm = lab.guest()?;
        let by = |id: &str, pid: &str, activity: &str| {
            format!("{{\"{id}\":\"{UVM_ID}\",\"{pid}\":2147483632,\"{activity}\":\"{GUID}\"}}")
        };
        for payload in [
            by("ContainerId", "ProcessId", "ActivityId"),
            by("containerid", "PROCESSID", "activityID"),
            by("CONTAINERID", "processId", "ACTIVITYID"),
        ] {
            let answer = vm.ask(Rpc::WaitForProcess as u32, payload)?;
            answer.is(GONE)?;
            same("ActivityId", Some(GUID), answer.activity())?;
        }
        Ok(())
    }),
    (32, |lab| {
        let vm = lab.guest()?;
        let inner = "{\"Unknown\":{\"a\":[-1e999,null]},\"CommandArgs\":[\"PROGRAM\",\"true\"],\
                     \"CreateInUtilityVM\":true,\"User\":7}";
        same("exit code", 0, external(&vm, inner.as_bytes())?)?;
        let rows = [(
            "{\"X\":1e999999,\"Y\":{\"ContainerId\":5},\"Z\":[[],{}]}",
            0,
        )];
        table(&vm, Rpc::Start, &rows)
    }),
    (33, |lab| {
        let vm = lab.guest()?;
        let rows = [
            (
                "{\"ContainerId\":null,\"ActivityId\":null,\"ocsc\":null}",
                0,
            ),
            ("null", 0),
            ("[]", BAD),
            ("\"x\"", BAD),
            ("3", BAD),
            ("true", BAD),
        ];
        table(&vm, Rpc::Start, &rows)?;
        let null =
            format!("{{\"ContainerId\":\"{UVM_ID}\",\"ProcessId\":null,\"TimeoutInMs\":null}}");
        table(&vm, Rpc::WaitForProcess, &[(&null, GONE)])
    }),
    (34, |lab| {
        let twice = format!(
            "{{\"ContainerId\":\"nobody\",\"ContainerId\":\"{UVM_ID}\",\"ProcessId\":2147483632}}"
        );
        let other = format!(
            "{{\"ContainerId\":\"{UVM_ID}\",\"ContainerId\":\"nobody\",\"ProcessId\":2147483632}}"
        );
        let rows = [(twice.as_str(), GONE), (&other, codes::NOT_FOUND)];
        table(&*lab.guest()?, Rpc::WaitForProcess, &rows)
    }),
    (35, |lab| {
        let vm = lab.guest()?;
        let broken = format!("{{\"ActivityId\":\"{GUID}\",\"ContainerId\":");
        let unknown = [0x1010_0e01, 0x2010_0101];
        let decoding = decoding().map(|rpc| (rpc as u32, BAD));
        let others = unknown.map(|message| (message, codes::NOT_IMPLEMENTED));
        for (message, code) in decoding.chain(others) {
            let answer = vm.ask(message, broken.as_str())?;
            answer.is(code)?;
            same("ActivityId", None, answer.activity())?;
        }
        vm.ask(Rpc::DumpStacks as u32, broken)?.is(0)?;
        let rows = [
            "{'a':1}",
            "{\"a\":01}",
            "{\"a\":\"\t\"}",
            "{\"a\":\"\\x\"}",
            "{,}",
            "{\"a\":1,}",
            "nul",
        ];
        table(&vm, Rpc::Start, &rows.map(|row| (row, BAD)))
    }),
    (36, |lab| {
        let vm = lab.guest()?;
        for wrong in [
            "\"ProcessId\":\"1\"",
            "\"ProcessId\":-1",
            "\"ProcessId\":1.5",
            "\"ProcessId\":1e2",
            "\"ProcessId\":4294967296",
            "\"TimeoutInMs\":{}",
            "\"ContainerId\":5",
            "\"ocsc\":\"x\"",
        ] {
            for payload in [
                format!("{{\"ActivityId\":\"{GUID}\",{wrong}}}"),
                format!("{{{wrong},\"ActivityId\":\"{GUID}\"}}"),
            ] {
                let answer = vm.ask(Rpc::WaitForProcess as u32, payload)?;
                let right = answer.code() == BAD && answer.activity() == Some(GUID);
                let expected = format!("Result {BAD:#010x} with ActivityId for {wrong}");
                that(right, expected, answer.text())?;
            }
        }
        Ok(())
    }),
    (37, |lab| {
        table(&*lab.guest()?, Rpc::Start, &[("\u{feff}{}", BAD)])
    }),
    (38, |lab| {
        let rows = ["{} x", "{}{}", "{}\0", "{},", "null null"];
        table(&*lab.guest()?, Rpc::Start, &rows.map(|row| (row, BAD)))
    }),
    (39, |lab| {
        let vm = lab.guest()?;
        for rpc in decoding() {
            table(&vm, rpc, &[("", BAD)])?;
        }
        table(&vm, Rpc::DumpStacks, &[("", 0)])
    }),
    (40, |lab| {
        let vm = lab.guest()?;
        let rows = [
            (
                Rpc::Create,
                "{\"ContainerConfig\":{\"SchemaVersion\":{\"Major\":2,\"Minor\":1}}}",
            ),
            (
                Rpc::ExecuteProcess,
                "{\"Settings\":{\"ProcessParameters\":{\"CreateInUtilityVM\":true}}}",
            ),
            (Rpc::GetProperties, "{\"Query\":{\"PropertyTypes\":[]}}"),
            (Rpc::Create, "{\"ContainerConfig\":\"\"}"),
            (Rpc::Create, "{\"ContainerConfig\":\"{\"}"),
            (
                Rpc::ExecuteProcess,
                "{\"Settings\":{\"ProcessParameters\":\"[]\"}}",
            ),
            (Rpc::ExecuteProcess, "{\"Settings\":{}}"),
            (Rpc::GetProperties, "{\"Query\":\"[]\"}"),
        ];
        rows.into_iter()
            .try_for_each(|(rpc, payload)| table(&vm, rpc, &[(payload, BAD)]))
    }),
    (41, |lab| {
        let vm = lab.guest()?;
        equal(&vm, b"\\u003ca\\u0026b\\u003e", "<a&b>")?;
        equal(
            &vm,
            b"\\u2028\\/\\u00e9\\ud83d\\ude00",
            "\u{2028}/\u{e9}\u{1f600}",
        )
    }),
    (42, |lab| {
        let vm = lab.guest()?;
        let container = vm.container("true").create()?;
        for query in ["", "{\"PropertyTypes\":[\"ProcessList\"]}"] {
            let document = json!({"ContainerId": container.id(), "Query": query});
            let answer = vm.ask_json(Rpc::GetProperties, &document)?;
            answer.is(0)?;
            let text = answer.members["Properties"].as_str();
            let text = text.expected("Properties as text")?;
            let inner: Value = serde_json::from_str(text)?;
            that(inner.is_object(), "an object in Properties", inner)?;
        }
        container.remove()
    }),
    (43, |lab| {
        let vm = lab.guest()?;
        for payload in [
            &b"{\"ContainerId\":\"\xff\xfe\"}"[..],
            b"{\"ContainerId\":\"\\ud800\"}",
            b"{\"\xc3\x28\":\"\\udc00x\"}",
        ] {
            vm.ask(Rpc::Start as u32, payload)?.is(0)?;
        }
        equal(&vm, b"a\\ud800b", "a\u{fffd}b")?;
        equal(&vm, b"a\\udfff\\ud800", "a\u{fffd}\u{fffd}")?;
        // In the outer document, so that the inner one has it as it is.
        equal(&vm, b"a\xffb", "a\u{fffd}b")
    }),
    (44, |lab| {
        let vm = lab.guest()?;
        for guid in [GUID, "00000000-0000-0000-0000-000000000000"] {
            let answer = vm.ask_json(Rpc::Start, &json!({"ActivityId": guid}))?;
            same("ActivityId", Some(guid), answer.activity())?;
        }
        for none in ["{}", "{\"ActivityId\":\"\"}", "{\"ActivityId\":null}"] {
            let answer = vm.ask(Rpc::Start as u32, none)?;
            same("ActivityId", None, answer.activity())?;
        }
        Ok(())
    }),
    (45, |lab| {
        let vm = lab.guest()?;
        let fine = [
            "{\"otsc\":1}",
            "{\"otsc\":[\"x\"]}",
            "{\"otsc\":{\"traceparent\":5}}",
            "{\"ocsc\":{\"TraceID\":\"zz\",\"SpanID\":\"\",\"Tracestate\":\"!!\"}}",
            "{\"ocsc\":{\"TraceID\":\"00\",\"TraceOptions\":4294967295}}",
        ];
        table(&vm, Rpc::Start, &fine.map(|row| (row, 0)))?;
        let wrong = [
            "{\"ocsc\":\"x\"}",
            "{\"ocsc\":{\"TraceID\":5}}",
            "{\"ocsc\":{\"TraceOptions\":-1}}",
        ];
        table(&vm, Rpc::Start, &wrong.map(|row| (row, BAD)))
    }),
    (46, |lab| {
        let vm = lab.guest()?;
        for (levels, code) in [(9998, 0), (9999, 0), (10_000, BAD), (1_000_000, BAD)] {
            let answer = vm.ask(Rpc::Start as u32, nested(levels))?;
            if answer.code() != code {
                let expected = format!("Result {code:#010x} for {} levels", levels + 1);
                return Err(fail(expected, answer.text()));
            }
        }
        // Not closed: deep, and broken.
        let open = format!("{{\"X\":{}", "[{\"a\":".repeat(300_000));
        vm.ask(Rpc::Start as u32, open)?.is(BAD)
    }),
];
