//! Frames, concurrency, and the sockets of the service.

mod sockets;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::{json, Value};

use super::{Area, Scenario};
use crate::{codes, fail, same, that, AnswerIs, Checked, Expected, Guest, Lab, LIMIT};
use uvm_host::wire::{response_to, Frame, Rpc, MAX_FRAME};
use uvm_host::{Answer, End, HostError, Pending, UVM_ID};

pub const AREA: Area = Area {
    name: "transport",
    scenarios: SCENARIOS,
    not_run: &[],
};

const START: u32 = Rpc::Start as u32;
/// Types of frames that a guest does not know: reserved, of another category, no request.
const UNKNOWN: [u32; 4] = [0x1010_0e01, 0x1010_0f01, 0x1020_0101, 0x1010_ff01];
const NO_REQUESTS: [u32; 4] = [0x2010_0101, 0x3010_0101, 0x9010_0201, 0];

/// Something that a request quotes back may be this long.
const LONG: usize = 200 << 10;

/// Answers whose texts would not fit if they were not cut.
fn long_answers(vm: &Guest) -> Checked<Vec<Answer>> {
    let long = "x".repeat(LONG);
    let external = json!({"CommandArgs": [long], "CreateInUtilityVM": true}).to_string();
    let requests = [
        (Rpc::GetProperties, json!({"ContainerId": long})),
        (Rpc::DeleteContainerState, json!({"ContainerId": long})),
        (
            Rpc::ExecuteProcess,
            json!({"ContainerId": UVM_ID, "Settings": {"ProcessParameters": external}}),
        ),
        (
            Rpc::ModifySettings,
            json!({"ContainerId": UVM_ID, "Request": {"ResourceType": long}}),
        ),
        (
            Rpc::ModifySettings,
            json!({"ContainerId": UVM_ID, "Request": {"ResourceType": "CombinedLayers",
                "Settings": {"ContainerRootPath": long, "Layers": [{"Path": "\u{1}".repeat(LONG)}]}}}),
        ),
    ];
    let ask = |(rpc, document): &(Rpc, Value)| vm.ask_json(*rpc, document);
    requests.iter().map(ask).collect()
}

/// Ends a VM's bridge by a header of this size. Returns how it ended.
fn after_header(lab: &mut Lab, size: u32) -> Checked<End> {
    let vm = lab.boot(|_| {})?;
    let mut header = START.to_le_bytes().to_vec();
    header.extend(size.to_le_bytes());
    header.extend(7_u64.to_le_bytes());
    vm.send_bytes(&header)?;
    let end = vm
        .wait_end(LIMIT)
        .expected(format!("the bridge to end after a size of {size}"))?;
    let console = vm.vm().console().tail(60).to_lowercase();
    let starved = ["out of memory", "oom-kill", "allocation failure"];
    match starved.iter().find(|word| console.contains(**word)) {
        Some(word) => Err(fail("no large allocation", word)),
        None => Ok(end),
    }
}

/// Sends a process of the VM that waits for its input.
fn endless(vm: &Guest) -> Checked<uvm_host::Process> {
    let launch = vm.busybox(&["cat"])?.open_stdin();
    Ok(launch.without_stdout().without_stderr().start()?)
}

/// One request of each of several kinds, none of which changes anything.
fn mixed(vm: &Guest, number: usize) -> Checked<(Pending, u32)> {
    let wait = json!({"ProcessId": 0x7fff_fff0_u32, "TimeoutInMs": 10});
    let run = json!({"CommandArgs": ["/no/such/program"], "CreateInUtilityVM": true});
    let none = "no-such-container";
    let requests = [
        (Rpc::Start, none, json!({}), 0),
        (Rpc::DumpStacks, UVM_ID, json!({}), 0),
        (Rpc::WaitForProcess, UVM_ID, wait, codes::ELEMENT_NOT_FOUND),
        (Rpc::GetProperties, none, json!({}), codes::NOT_FOUND),
        (
            Rpc::ExecuteProcess,
            UVM_ID,
            json!({"Settings": {"ProcessParameters": run.to_string()}}),
            codes::FAIL,
        ),
        (
            Rpc::SignalProcess,
            none,
            json!({"ProcessId": 1}),
            codes::NOT_FOUND,
        ),
        (
            Rpc::ModifySettings,
            UVM_ID,
            json!({"Request": 1}),
            codes::INVALID_JSON,
        ),
        (
            Rpc::NegotiateProtocol,
            "",
            json!({}),
            codes::NOT_IMPLEMENTED,
        ),
    ];
    let (rpc, id, body, code) = requests.into_iter().cycle().nth(number).expected("one")?;
    Ok((vm.send(rpc, id, body)?, code))
}

/// Sends 100 mixed requests without waiting, then takes all answers.
fn hundred(vm: &Guest) -> Checked {
    let sent: Vec<_> = (0..100)
        .map(|number| mixed(vm, number))
        .collect::<Checked<_>>()?;
    for (mut pending, code) in sent {
        pending.answer(LIMIT)?.is(code)?;
    }
    // A second answer to any of them would end the run before this one comes.
    vm.ask(START, "{}")?.is(0)
}

const SCENARIOS: &[(u16, Scenario)] = &[
    (1, |lab| {
        let vm = lab.guest()?;
        // State 0A and flag 00010000 are listening sockets (proc(5)).
        let listening = vm.sh(
            "cd /proc/net; for f in tcp tcp6 udp udp6; do [ -e $f ] || continue; \
             awk -v f=$f '$4 == \"0A\" {print f, $2}' $f; done; \
             awk '$4 == \"00010000\" {print \"unix\", $8}' unix",
        )?;
        that(listening.is_empty(), "no listening socket", listening)?;
        if vm.device().is_none() {
            // The kernel's vsock belongs to this whole machine.
            return Ok(());
        }
        for port in [1, 109, 0x4000_0000_u32, 0x4000_0001, 564, 2056] {
            let mut stream = UnixStream::connect(vm.dir().join("vsock"))?;
            stream.set_read_timeout(Some(LIMIT))?;
            stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
            let mut said = String::new();
            // A reset is a refusal as well.
            drop(stream.read_to_string(&mut said));
            same(&format!("what vsock port {port} says"), "", said.as_str())?;
        }
        Ok(())
    }),
    (2, |lab| {
        let vm = lab.guest()?;
        // The reader cuts the stream by the sizes alone: a wrong one shows in the next frame.
        for payload in ["{}", "{ }", "{\"ContainerId\":\"x\"}"] {
            let answer = vm.ask(START, payload)?;
            let value: Value = serde_json::from_slice(&answer.payload)?;
            that(
                value.is_object(),
                "a payload that is one object",
                answer.text(),
            )?;
        }
        Ok(())
    }),
    (3, |lab| {
        let vm = lab.guest()?;
        for cut in [1, 7, 15, 16, 17] {
            vm.ask_cut(START, "{\"ContainerId\":\"x\"}", cut)?.is(0)?;
        }
        let mut together = Vec::new();
        let mut pending = Vec::new();
        for _ in 0..20 {
            let expected = vm.expect(START, None);
            let (message, id) = (START, expected.id());
            let payload = b"{}\n".to_vec();
            together.extend(
                Frame {
                    message,
                    id,
                    payload,
                }
                .to_bytes(),
            );
            pending.push(expected);
        }
        vm.send_bytes(&together)?;
        pending.iter_mut().try_for_each(|p| p.answer(LIMIT)?.is(0))
    }),
    (4, |lab| {
        let vm = lab.guest()?;
        // Strict mode compares type and id with those of the request.
        for id in [0, 1 << 32, (1 << 40) + 5, i64::MAX as u64] {
            let mut pending = vm.expect(START, Some(id));
            let (message, payload) = (START, b"{}".to_vec());
            vm.send_bytes(
                &Frame {
                    message,
                    id,
                    payload,
                }
                .to_bytes(),
            )?;
            let answer = pending.answer(LIMIT)?;
            same("response type", response_to(START), answer.message)?;
        }
        for rpc in [Rpc::DumpStacks, Rpc::GetProperties, Rpc::SignalProcess] {
            let answer = vm.ask_json(rpc, &json!({}))?;
            same("response type", response_to(rpc as u32), answer.message)?;
        }
        Ok(())
    }),
    (5, |lab| {
        let vm = lab.guest()?;
        for answer in long_answers(&vm)? {
            let size = answer.payload.len() + 16;
            that(size <= MAX_FRAME as usize, "at most 65536 bytes", size)?;
        }
        vm.dump_stacks().map(drop).map_err(Into::into)
    }),
    (6, |lab| {
        for answer in long_answers(&*lab.guest()?)? {
            serde_json::from_slice::<Value>(&answer.payload).expected("JSON")?;
            that(answer.code() != 0, "a refusal", answer.code())?;
            let text = answer.members.get("ErrorMessage").and_then(Value::as_str);
            let record = &answer.members["ErrorRecords"][0]["Message"];
            that(
                text.is_some_and(|text| !text.is_empty() && record == text),
                "an ErrorMessage that agrees with its record",
                answer.text().chars().take(200).collect::<String>(),
            )?;
        }
        Ok(())
    }),
    (7, |lab| {
        let vm = lab.guest()?;
        let plan = vm.container("exit 4");
        let plan = plan.edit(|spec| spec["annotations"] = json!({"big": "x".repeat(1 << 20)}));
        same("exit code", 4, plan.run()?.code)
    }),
    (8, |lab| {
        for size in [15, 0] {
            after_header(lab, size)?;
        }
        Ok(())
    }),
    (9, |lab| after_header(lab, u32::MAX).map(drop)),
    (10, |lab| {
        let vm = lab.guest()?;
        let long = "x".repeat(30_000);
        let send = |n: usize| match n % 2 {
            0 => vm.send(Rpc::DumpStacks, UVM_ID, json!({})),
            _ => vm.send(Rpc::DeleteContainerState, &long, json!({})),
        };
        let mut sent: Vec<_> = (0..60).map(send).collect::<Result<_, HostError>>()?;
        // Each answer is whole JSON and has the shape of its request, else strict mode says so.
        for pending in &mut sent {
            pending.answer(LIMIT)?;
        }
        Ok(())
    }),
    (11, |lab| {
        let vm = lab.guest()?;
        let mut process = endless(&vm)?;
        for _ in 0..10 {
            vm.ask(START, "{}")?.is(0)?;
        }
        same("exit code", 0, vm.busybox(&["true"])?.run()?.code)?;
        that(!process.has_exited(), "the wait to stand", "its answer")?;
        process.stdio.close_stdin()?;
        same("exit code", 0, process.wait(LIMIT)?)
    }),
    (12, |lab| hundred(&*lab.guest()?)),
    (13, |lab| {
        let vm = lab.guest()?;
        let container = vm.container("true").create()?;
        container.init().run()?;
        // Strict mode takes no other type and no other id.
        container.exited()?;
        container.remove()
    }),
    (14, |lab| {
        let vm = lab.guest()?;
        for message in UNKNOWN {
            for payload in ["{}", "", "nonsense"] {
                let answer = vm.ask(message, payload)?;
                answer.is(codes::NOT_IMPLEMENTED)?;
                same("response type", response_to(message), answer.message)?;
            }
        }
        Ok(())
    }),
    (15, |lab| {
        let vm = lab.guest()?;
        for message in NO_REQUESTS {
            let answer = vm.ask(message, "{}")?;
            answer.is(codes::NOT_IMPLEMENTED)?;
            same("response type", response_to(message), answer.message)?;
        }
        Ok(())
    }),
    (16, sockets::dials),
    (17, sockets::inheritance),
    (22, sockets::standard_streams),
    (23, |lab| {
        let vm = lab.guest()?;
        for _ in 0..5 {
            let container = vm.container("true").create()?;
            let init = container.init().without_stdout().without_stderr().start()?;
            container.exited()?;
            // Frames are taken in their order, so the answer is there when it came before.
            that(
                init.has_exited(),
                "the wait's answer first",
                "the notification",
            )?;
            container.remove()?;
        }
        Ok(())
    }),
];
