//! How processes end, and what becomes of those around them.

use std::time::Instant;

use serde_json::{json, Value};

use super::process::{
    ended, ended_by, line, oci_process, ready, rest, start_unwaited, started, wait,
};
use crate::{fail, same, that, AnswerIs, Checked, Container, Expected, Guest, Lab, LIMIT, TOOLS};
use uvm_host::UVM_ID;

/// A running container that is there for others.
fn idle<'g>(vm: &'g Guest) -> Checked<Container<'g>> {
    let container = vm.container("sleep 1000").create()?;
    // Its streams close; it does not write.
    drop(container.start()?);
    Ok(container)
}

pub fn codes_of_exits(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let shared = idle(&vm)?;
    for code in [0, 1, 42, 255] {
        let script = format!("exit {code}");
        same(
            "exit code of a first process",
            code,
            vm.container(&script).run()?.code,
        )?;
        same(
            "exit code of a further one",
            code,
            shared.exec(&script).run()?.code,
        )?;
        same(
            "exit code of one of the VM",
            code,
            vm.shell(&script)?.run()?.code,
        )?;
    }
    shared.remove()
}

pub fn codes_of_signals(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let shared = idle(&vm)?;
    for signal in [9, 15, 11] {
        let out = shared
            .exec(&format!("kill -{signal} $$; sleep 1000"))
            .run()?;
        same(
            &format!("exit code after signal {signal}"),
            128 + signal,
            out.code,
        )?;
    }
    let (container, mut init) = started(&vm, "echo ready; sleep 1000")?;
    init.signal(9)?;
    ended(&mut init, "exit code of a killed first process", 137)?;
    container.remove()?;
    shared.remove()
}

pub fn signals_of_externals(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    for signal in [9, 15, 11] {
        let out = vm.shell(&format!("kill -{signal} $$; sleep 1000"))?.run()?;
        same(
            &format!("exit code after signal {signal}"),
            128 + signal,
            out.code,
        )?;
    }
    Ok(())
}

/// The processes that init leaves hold its output open, so the exit is reported only after their
/// end.
pub fn leftovers(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let plan = vm.container("sleep 1000 & sleep 1001 & echo left; exit 3");
    let container = plan.edit(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut();
        namespaces
            .unwrap_or(&mut Vec::new())
            .retain(|n| n["type"] != "pid");
    });
    let container = container.create()?;
    let out = container.init().run()?;
    let seen = (out.code, out.text(), out.complete);
    same(
        "exit code, output and its end",
        (3, "left\n".to_owned(), true),
        seen,
    )?;
    let list = vm.properties(container.id(), &["ProcessList"])?;
    same("processes left", Value::Null, list["ProcessList"].clone())?;
    container.remove()
}

pub fn orphans(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    // Shells that end before their children, which end at once.
    let script = "for i in $(seq 100); do sh -c 'sh -c : &'; done";
    vm.sh(script)?;
    let shared = idle(&vm)?;
    shared.sh(script)?;
    shared.remove()?;
    let count = "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l";
    let began = Instant::now();
    loop {
        let zombies = vm.sh(count)?;
        if zombies == "0" {
            return Ok(());
        }
        that(began.elapsed() < LIMIT, "no zombies", &zombies)?;
    }
}

/// Exits that somebody waits for, among many orphans and tasks of the guest.
pub fn no_status_stolen(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let shared = idle(&vm)?;
    let storm = "echo ready; while :; do sh -c 'sh -c : &'; done";
    let mut storm = vm.shell(storm)?.start()?;
    ready(&mut storm)?;
    for code in 0..20 {
        let script = format!("exit {code}");
        same(
            "exit code of a process of the VM",
            code,
            vm.shell(&script)?.run()?.code,
        )?;
        same(
            "exit code of a further process",
            code,
            shared.exec(&script).run()?.code,
        )?;
        vm.properties(shared.id(), &["ProcessList"])?;
    }
    storm.signal(9)?;
    shared.remove()
}

/// A record that nobody has asked for must not affect a later process with its pid.
pub fn pid_used_again(lab: &mut Lab) -> Checked {
    let vm = lab.boot(|_| {})?;
    vm.sh("echo 500 > /proc/sys/kernel/pid_max")?;
    let busybox = format!("{TOOLS}/bin/busybox");
    let exits = |code: &str| json!({"CommandArgs": [&busybox, "sh", "-c", format!("exit {code}")], "CreateInUtilityVM": true});
    // Numbers come again only above those that the kernel keeps for its start.
    vm.sh("while [ $(sh -c 'echo $$') -lt 310 ]; do :; done")?;
    let stale = start_unwaited(&vm, UVM_ID, exits("5"))?;
    for _ in 0..2000 {
        let pid = start_unwaited(&vm, UVM_ID, exits("6"))?;
        let answer = wait(&vm, UVM_ID, pid, u32::MAX)?;
        answer.is(0)?;
        let code = answer.members.get("ExitCode").and_then(Value::as_u64);
        same(
            &format!("exit code of process {pid} (stale: {stale})"),
            Some(6),
            code,
        )?;
        if pid == stale {
            return Ok(());
        }
    }
    Err(fail("a pid that comes again among 500", "2000 others"))
}

pub fn refused_start(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let container = vm.container("echo ready; cat; exit 5").create()?;
    let mut init = container.init().open_stdin().start()?;
    line(init.stdio.stdout.as_mut(), "ready")?;
    // Not the figures of each process, which change while it waits.
    let list = |when: &str| -> Checked<Vec<Value>> {
        let list = vm.properties(container.id(), &["ProcessList"]);
        let list = list.expected(format!("ProcessList {when}"))?;
        let processes = list["ProcessList"].as_array().into_iter().flatten();
        Ok(processes
            .map(|process| process["ProcessId"].clone())
            .collect())
    };
    let before = list("before")?;
    that(!before.is_empty(), "a process before", "none")?;
    for _ in 0..3 {
        if container.init().start().is_ok() {
            return Err(fail("a second start refused", "success"));
        }
    }
    same(
        "processes after refused starts",
        before,
        list("after them")?,
    )?;
    let mut stdin = init.stdio.stdin.take().expected("a connection")?;
    std::io::Write::write_all(&mut stdin, b"heard")?;
    drop(stdin);
    let mut stdout = init.stdio.stdout.take().expected("a connection")?;
    same(
        "output after refused starts",
        "heard",
        rest(&mut stdout)?.as_str(),
    )?;
    drop(stdout);
    ended(&mut init, "exit code", 5)?;
    ended_by(&container, "UnexpectedExit")?;
    let refused = start_unwaited(&vm, container.id(), oci_process(&["true"]));
    that(refused.is_err(), "no process in what has exited", "one")?;
    container.remove()
}
