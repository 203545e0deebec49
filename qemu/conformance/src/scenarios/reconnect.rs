//! The bridge is lost and found again (protocol 12.1). A guest that ends with its bridge, as
//! v0.12.3 does, keeps the first line, and the others do not apply to it.

use serde_json::{json, Value};

use super::process::{ended, line, ready, rest, runs_on, wait};
use super::{Area, Scenario};
use crate::{codes, not_run, same, that, AnswerIs, Checked, Expected, Guest, Lab, LIMIT};
use uvm_host::wire::Rpc;
use uvm_host::{HostError, UVM_ID};

pub const AREA: Area = Area {
    name: "reconnect",
    scenarios: SCENARIOS,
    not_run: &[],
};

const SCENARIOS: &[(u16, Scenario)] = &[
    (18, dials_again_or_ends),
    (19, negotiates_anew),
    (20, exits_are_told),
    (21, containers_survive),
];

/// Takes the guest's next bridge; false when the guest has ended instead.
fn comes_again(vm: &Guest) -> Checked<bool> {
    match vm.accept_bridge(LIMIT) {
        Ok(()) => Ok(true),
        Err(HostError::Ended { .. }) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Drops the bridge, takes the next one and negotiates.
fn again(vm: &Guest) -> Checked {
    if !comes_again(vm)? {
        return Err(not_run("this guest ends with its bridge"));
    }
    vm.negotiate()?;
    Ok(())
}

/// Ticks of CPU that PID 1 has used.
fn ticks(vm: &Guest) -> Checked<u64> {
    let fields = vm.sh("cut -d' ' -f14,15 /proc/1/stat")?;
    let parsed = fields.split(' ').map(str::parse::<u64>);
    Ok(parsed.collect::<Result<Vec<_>, _>>()?.iter().sum())
}

pub fn dials_again_or_ends(lab: &mut Lab) -> Checked {
    let vm = lab.boot(|_| {})?;
    let before = ticks(&vm)?;
    vm.drop_bridge();
    // Refused for a while, the guest goes on trying and does nothing else.
    std::thread::sleep(std::time::Duration::from_secs(3));
    if !comes_again(&vm)? {
        return Ok(());
    }
    vm.negotiate()?;
    let used = ticks(&vm)? - before;
    that(
        used < 150,
        "a guest that waits between dials",
        format!("{used} ticks of CPU in 3 s"),
    )
}

pub fn negotiates_anew(lab: &mut Lab) -> Checked {
    let vm = lab.boot(|_| {})?;
    for _ in 0..3 {
        vm.drop_bridge();
        if !comes_again(&vm)? {
            return Err(not_run("this guest ends with its bridge"));
        }
        let early = json!({"ContainerId": UVM_ID});
        vm.ask_json(Rpc::Start, &early)?
            .is(codes::NOT_IMPLEMENTED)?;
        vm.negotiate()?;
        vm.ask_json(Rpc::Start, &early)?.is(0)?;
        let range = json!({"MinimumVersion": 4, "MaximumVersion": 4});
        let twice = vm.ask_json(Rpc::NegotiateProtocol, &range)?;
        twice.is(codes::NOT_IMPLEMENTED)?;
    }
    Ok(())
}

/// The guest has neither a bridge nor a host that listens when the container ends.
pub fn exits_are_told(lab: &mut Lab) -> Checked {
    let vm = lab.boot(|_| {})?;
    let container = vm.container("echo ready; read line; exit 3").create()?;
    let mut init = container.init().open_stdin().start()?;
    ready(&mut init)?;
    vm.drop_bridge();
    drop(init.stdio.stdin.take());
    let mut stdout = init.stdio.stdout.take().expected("a connection")?;
    rest(&mut stdout)?;
    drop((stdout, std::mem::take(&mut init.stdio)));
    // The notification waits for a waiter longer than this takes, but not for a host.
    again(&vm)?;
    let exit = container.exited()?;
    same("Type", Some("UnexpectedExit"), exit["Type"].as_str())?;
    // The record survives, because a host asks again.
    let answer = wait(&vm, container.id(), init.pid, 50)?;
    answer.is(0)?;
    same(
        "exit code",
        Some(3),
        answer.members.get("ExitCode").and_then(Value::as_u64),
    )?;
    container.remove()
}

pub fn containers_survive(lab: &mut Lab) -> Checked {
    let vm = lab.boot(|_| {})?;
    let container = vm.container("echo ready; cat; exit 4").create()?;
    let mut init = container.init().open_stdin().start()?;
    ready(&mut init)?;
    let mut external = vm.shell("echo ready; sleep 1000")?.start()?;
    ready(&mut external)?;
    for round in 0..3 {
        vm.drop_bridge();
        again(&vm)?;
        let stdin = init.stdio.stdin.as_mut().expected("a connection")?;
        std::io::Write::write_all(stdin, format!("round {round}\n").as_bytes())?;
        line(init.stdio.stdout.as_mut(), &format!("round {round}"))?;
        same("a further process", "on", container.sh("echo on")?.as_str())?;
        runs_on(&mut external)?;
    }
    // The waits of the first bridge are answered on the last one.
    external.signal(9)?;
    external.wait(LIMIT)?;
    ended(&mut init, "exit code", 4)?;
    container.exited()?;
    container.remove()
}
