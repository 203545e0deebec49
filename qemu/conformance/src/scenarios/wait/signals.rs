//! SignalProcess and the two shutdowns.

use std::time::Instant;

use serde_json::{json, Value};

use super::process::{
    ended, ended_by, oci_process, read_line, ready, runs_on, start_unwaited, started,
};
use crate::{codes, refused, same, that, Checked, Expected, Lab, LIMIT};
use uvm_host::wire::Rpc;
use uvm_host::UVM_ID;
use uvm_vm::VmEnd;

/// Prints the signals that it gets. A trap interrupts the `wait` of a shell.
const LISTENER: &str = "trap 'echo usr1' USR1; trap 'exit 5' TERM; \
                        echo ready; while :; do sleep 0.05; done";

pub fn unnamed_is_kill(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let container = vm.container("sleep 1000").create()?;
    let _init = container.start()?;
    for options in [Value::Null, json!({}), json!({"Signal": 0})] {
        let mut process = container.exec(LISTENER).start()?;
        ready(&mut process)?;
        let body = json!({"ProcessId": process.pid, "Options": options});
        vm.call(Rpc::SignalProcess, container.id(), body)?;
        ended(
            &mut process,
            &format!("exit code with options {options}"),
            137,
        )?;
    }
    container.remove()
}

pub fn one_further_process(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let (container, mut init) = started(&vm, LISTENER)?;
    let mut first = container.exec("sleep 1000 & echo $!; wait").start()?;
    let mut second = container.exec(LISTENER).start()?;
    ready(&mut second)?;
    let child = read_line(first.stdio.stdout.as_mut().expected("a connection")?)?;
    first.signal(15)?;
    // Its child holds its output, so only the record tells.
    let running = format!("kill -0 {child} && echo runs");
    same(
        "child of the signalled process",
        "runs",
        container.sh(&running)?.as_str(),
    )?;
    runs_on(&mut second)?;
    runs_on(&mut init)?;
    container.sh(&format!("kill -9 {child}"))?;
    ended(&mut first, "exit code of the signalled process", 143)?;
    container.remove()
}

pub fn exited(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let container = vm.container("read line; exit 3").create()?;
    let mut init = container.init().open_stdin().start()?;
    let pid = start_unwaited(&vm, container.id(), oci_process(&["true"]))?;
    // Nobody waits for it, so its record stays; its pid is free once it is reaped.
    let began = Instant::now();
    while vm.sh(&format!("[ -e /proc/{pid} ] && echo there || echo gone"))? == "there" {
        that(
            began.elapsed() < LIMIT,
            format!("an end of process {pid}"),
            "none",
        )?;
    }
    for signal in [9, 15, 10] {
        refused(
            vm.signal(container.id(), pid, signal),
            codes::ELEMENT_NOT_FOUND,
        )?;
    }
    ended(&mut init, "exit code", 3)?;
    refused(init.signal(10), codes::ELEMENT_NOT_FOUND)?;
    init.signal(15)
        .expected("success: SIGTERM to an exited init")?;
    init.signal(9)
        .expected("success: SIGKILL to an exited init")?;
    container.remove()
}

pub fn init_alone(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let (container, mut init) = started(&vm, LISTENER)?;
    let mut other = container.exec(LISTENER).start()?;
    ready(&mut other)?;
    init.signal(10)?;
    let heard = read_line(init.stdio.stdout.as_mut().expected("a connection")?)?;
    same("what init heard", "usr1", heard.as_str())?;
    other.signal(15)?;
    let mut stdout = other.stdio.stdout.take().expected("a connection")?;
    same(
        "what the other heard before its end",
        "",
        super::process::rest(&mut stdout)?.as_str(),
    )?;
    container.remove()
}

pub fn forced_kills_all(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let (container, mut init) = started(&vm, LISTENER)?;
    let mut other = container.exec(LISTENER).start()?;
    ready(&mut other)?;
    // Held output delays the report of the exit, but not the answer.
    vm.shutdown(container.id(), true)?;
    that(
        !init.has_exited(),
        "an answer that does not wait for the exit",
        "the exit first",
    )?;
    for (what, process) in [("init", &mut init), ("the other", &mut other)] {
        ended(process, &format!("exit code of {what}"), 137)?;
    }
    container.remove()
}

pub fn graceful_is_term(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let (container, mut init) = started(&vm, LISTENER)?;
    vm.shutdown(container.id(), false)?;
    ended(&mut init, "exit code of the trap", 5)?;
    container.remove()?;

    // By SignalProcess it is the same.
    let (container, mut init) = started(&vm, LISTENER)?;
    init.signal(15)?;
    ended(&mut init, "exit code of the trap", 5)?;
    ended_by(&container, "GracefulExit")?;
    container.remove()
}

pub fn term_ignored(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let script = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let (container, mut init) = started(&vm, script)?;
    vm.shutdown(container.id(), false)?;
    runs_on(&mut init)?;
    vm.shutdown(container.id(), true)?;
    ended(&mut init, "exit code", 137)?;
    container.remove()
}

pub fn shutdown_of_exited(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let container = vm.container("exit 3").create()?;
    same("exit code", 3, container.init().run()?.code)?;
    container.exited()?;
    for forced in [false, true, false] {
        vm.shutdown(container.id(), forced)
            .expected("success: the container has exited")?;
    }
    ended_by(&container, "UnexpectedExit")?;
    container.remove()
}

pub fn power_off(lab: &mut Lab) -> Checked {
    for rpc in [Rpc::ShutdownGraceful, Rpc::ShutdownForced] {
        let vm = lab.boot(|_| {})?;
        vm.let_go();
        let pending = vm.send(rpc, UVM_ID, json!({}))?;
        let end = vm.vm().wait(LIMIT)?;
        let off = matches!(end, VmEnd::Exited(_) | VmEnd::Stopped);
        that(off, format!("{rpc:?}: a VM that powers off"), &end)?;
        that(!pending.is_ready(), format!("{rpc:?}: no answer"), "one")?;
    }
    Ok(())
}
