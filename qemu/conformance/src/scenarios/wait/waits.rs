//! WaitForProcess: how many, how long, and for how long there is something to wait for.

use std::time::{Duration, Instant};

use serde_json::{json, Value};

use super::process::{ended, oci_process, ready, runs_on, start_unwaited, wait};
use crate::{codes, refused, same, that, AnswerIs, Checked, Guest, Lab, LIMIT, TOOLS};
use uvm_host::wire::Rpc;
use uvm_host::{Answer, UVM_ID};

const NO_PID: u32 = 0x7fff_fff0;

fn code(answer: &Answer) -> Checked<Option<u64>> {
    answer.is(0)?;
    Ok(answer.members.get("ExitCode").and_then(Value::as_u64))
}

/// A process of the VM that ends with `exit` when its file is removed.
fn gated(vm: &Guest, exit: u32) -> Checked<(u32, String)> {
    vm.tools()?;
    let gate = format!("/run/{}", vm.fresh("gate"));
    vm.sh(&format!("touch {gate}"))?;
    let script =
        format!("B={TOOLS}/bin/busybox; while [ -e {gate} ]; do $B sleep 0.05; done; exit {exit}");
    let busybox = format!("{TOOLS}/bin/busybox");
    let parameters = json!({"CommandArgs": [busybox, "sh", "-c", script]});
    Ok((start_unwaited(vm, UVM_ID, parameters)?, gate))
}

pub fn several(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let (pid, gate) = gated(&vm, 7)?;
    let ask = |_| vm.send_wait(UVM_ID, pid);
    let waits = (0..10).map(ask).collect::<Result<Vec<_>, _>>()?;
    vm.sh(&format!("rm {gate}"))?;
    for mut pending in waits {
        same("exit code", Some(7), code(&pending.answer(LIMIT)?)?)?;
    }
    Ok(())
}

pub fn after_the_exit(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let container = vm.container("exit 8").create()?;
    let init = container.init().start()?;
    let pid = init.pid;
    drop(init);
    container.exited()?;
    for _ in 0..3 {
        let answer = wait(&vm, container.id(), pid, 0)?;
        same("exit code of a later wait", Some(8), code(&answer)?)?;
    }
    container.remove()
}

pub fn timed_out(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let (pid, gate) = gated(&vm, 9)?;
    for _ in 0..2 {
        let began = Instant::now();
        wait(&vm, UVM_ID, pid, 300)?.is(codes::TIMEOUT)?;
        let took = began.elapsed();
        let right = Duration::from_millis(299)..Duration::from_secs(10);
        that(
            right.contains(&took),
            "an answer after 300 ms",
            format!("after {took:?}"),
        )?;
    }
    vm.sh(&format!("rm {gate}"))?;
    same(
        "exit code",
        Some(9),
        code(&wait(&vm, UVM_ID, pid, u32::MAX)?)?,
    )
}

pub fn of_no_time(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let (pid, gate) = gated(&vm, 0)?;
    wait(&vm, UVM_ID, pid, 0)?.is(codes::TIMEOUT)?;
    // A missing member is no time as well.
    let document = json!({"ContainerId": UVM_ID, "ProcessId": pid});
    vm.ask_json(Rpc::WaitForProcess, &document)?
        .is(codes::TIMEOUT)?;
    vm.sh(&format!("rm {gate}"))?;
    same(
        "exit code",
        Some(0),
        code(&wait(&vm, UVM_ID, pid, u32::MAX)?)?,
    )
}

pub fn without_end(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let mut process = vm.shell("echo ready; sleep 1000")?.start()?;
    ready(&mut process)?;
    runs_on(&mut process)?;
    // The longest time there is besides: it has not run out either.
    let body = json!({"ProcessId": process.pid, "TimeoutInMs": u32::MAX - 1});
    let pending = vm.send(Rpc::WaitForProcess, UVM_ID, body)?;
    runs_on(&mut process)?;
    that(!pending.is_ready(), "a wait that goes on", "an answer")?;
    process.signal(9)?;
    process.wait(LIMIT)?;
    Ok(())
}

pub fn further_process_forgotten(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let container = vm.container("sleep 1000").create()?;
    let _init = container.start()?;
    let id = container.id();
    let pid = start_unwaited(&vm, id, oci_process(&["sh", "-c", "exit 4"]))?;
    same("exit code", Some(4), code(&wait(&vm, id, pid, u32::MAX)?)?)?;
    wait(&vm, id, pid, 0)?.is(codes::ELEMENT_NOT_FOUND)?;
    refused(vm.signal(id, pid, 15), codes::ELEMENT_NOT_FOUND)?;
    container.remove()
}

pub fn init_remembered(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let container = vm.container("exit 6").create()?;
    let mut init = container.init().start()?;
    ended(&mut init, "exit code", 6)?;
    let (id, pid) = (container.id().to_owned(), init.pid);
    for _ in 0..3 {
        same(
            "exit code again",
            Some(6),
            code(&wait(&vm, &id, pid, u32::MAX)?)?,
        )?;
    }
    container.remove()?;
    wait(&vm, &id, pid, 0)?.is(codes::NOT_FOUND)
}

pub fn external_by_its_id(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let container = vm.container("sleep 1000").create()?;
    let _init = container.start()?;
    let (pid, gate) = gated(&vm, 3)?;
    wait(&vm, container.id(), pid, 0)?.is(codes::ELEMENT_NOT_FOUND)?;
    wait(&vm, UVM_ID, NO_PID, 0)?.is(codes::ELEMENT_NOT_FOUND)?;
    vm.sh(&format!("rm {gate}"))?;
    same(
        "exit code",
        Some(3),
        code(&wait(&vm, UVM_ID, pid, u32::MAX)?)?,
    )?;
    wait(&vm, UVM_ID, pid, 0)?.is(codes::ELEMENT_NOT_FOUND)?;
    container.remove()
}
