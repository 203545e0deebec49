//! Processes: their start, streams, users and terminals.

mod dials;
mod execs;
mod externals;
mod streams;
mod terminals;

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{json, Map, Value};

use super::{Area, Scenario};
use crate::{fail, same, that, AnswerIs, Checked, Container, Expected, Guest, LIMIT};
use uvm_host::wire::Rpc;
use uvm_host::{Answer, HostError, Launch, Process};

pub const AREA: Area = Area {
    name: "process",
    scenarios: SCENARIOS,
    not_run: &[],
};

const SCENARIOS: &[(u16, Scenario)] = &[
    (150, dials::in_order),
    (151, dials::unflagged),
    (152, dials::failing),
    (153, dials::answer),
    (154, execs::init_by_spec),
    (155, execs::second_start),
    (156, streams::closed_stdin),
    (157, streams::complete_output),
    (158, streams::half_close),
    (159, streams::held_output),
    (160, streams::held_stdin),
    (161, streams::back_pressure),
    (162, streams::reset_output),
    (163, streams::unwanted_are_null),
    (164, streams::none_at_all),
    (165, terminals::streams_of_a_terminal),
    (166, terminals::resized),
    (167, terminals::not_resized),
    (168, execs::limits_of_the_container),
    (169, execs::users),
    (170, execs::exact_environment),
    (171, execs::missing_program),
    (172, execs::exited_container),
    (173, execs::many_at_once),
    (174, externals::by_both_ways),
    (175, externals::environment_directory_search),
    (176, externals::command_lines),
    (177, terminals::session_of_an_external),
    (178, externals::unwanted_are_null),
    (179, externals::output_ends),
    (180, externals::signalled_and_resized),
    (181, execs::default_signals),
    (182, execs::three_descriptors),
];

/// How long to wait before checking that something has not happened.
pub(super) const ABSENCE: Duration = Duration::from_millis(400);

/// `CreateStd…Pipe` and the member of the port, by stream.
const STREAMS: [(&str, &str); 3] = [
    ("CreateStdInPipe", "StdIn"),
    ("CreateStdOutPipe", "StdOut"),
    ("CreateStdErrPipe", "StdErr"),
];

/// ExecuteProcess by hand: the flag of every stream that has a port in `ports`, unless
/// `parameters` sets it, and whatever the answer.
fn execute(
    vm: &Guest,
    id: &str,
    mut parameters: Value,
    ports: [Option<u32>; 3],
) -> Checked<Answer> {
    let mut relay = Map::new();
    for ((flag, member), port) in STREAMS.into_iter().zip(ports) {
        if let Some(port) = port {
            relay.insert(member.into(), port.into());
            if parameters.get(flag).is_none() {
                parameters[flag] = true.into();
            }
        }
    }
    let body = json!({"Settings": {
        "ProcessParameters": parameters.to_string(), "VsockStdioRelaySettings": relay}});
    Ok(vm.send(Rpc::ExecuteProcess, id, body)?.answer(LIMIT)?)
}

/// Starts a process by hand whose exit nobody waits for; gives its pid.
pub(super) fn start_unwaited(vm: &Guest, id: &str, parameters: Value) -> Checked<u32> {
    let answer = execute(vm, id, parameters, [None; 3])?;
    answer.is(0)?;
    pid(&answer)
}

fn pid(answer: &Answer) -> Checked<u32> {
    let pid = answer.members.get("ProcessId").and_then(Value::as_u64);
    pid.and_then(|pid| u32::try_from(pid).ok())
        .expected("ProcessId in the answer to ExecuteProcess")
}

/// Waits for a process by hand: the whole answer.
pub(super) fn wait(vm: &Guest, id: &str, pid: u32, millis: u32) -> Checked<Answer> {
    let body = json!({"ProcessId": pid, "TimeoutInMs": millis});
    Ok(vm.send(Rpc::WaitForProcess, id, body)?.answer(LIMIT)?)
}

/// Parameters of a further process, which runs `args`.
pub(super) fn oci_process(args: &[&str]) -> Value {
    json!({"OciProcess": {
        "args": args, "cwd": "/", "env": ["PATH=/bin:/usr/bin:/sbin:/usr/sbin"],
        "user": {"uid": 0, "gid": 0}}})
}

/// A running container whose first process has said that it is ready.
pub(super) fn started<'g>(vm: &'g Guest, script: &str) -> Checked<(Container<'g>, Process)> {
    let container = vm.container(script).create()?;
    let mut init = container.start()?;
    ready(&mut init)?;
    Ok((container, init))
}

/// Closes the streams of a process, and waits for its end with this code.
pub(super) fn ended(process: &mut Process, what: &str, code: u32) -> Checked {
    drop(std::mem::take(&mut process.stdio));
    same(what, code, process.wait(LIMIT)?)
}

/// Waits for the exit notification, which has this type.
pub(super) fn ended_by(container: &Container<'_>, wanted: &str) -> Checked {
    let exit = container.exited()?;
    same(
        "Type of the notification",
        Some(wanted),
        exit["Type"].as_str(),
    )
}

/// A started process says this line first.
pub(super) fn ready(process: &mut Process) -> Checked {
    line(process.stdio.stdout.as_mut(), "ready")
}

/// Reads up to the end of `wanted`, which must be the next line.
pub(super) fn line(stream: Option<&mut UnixStream>, wanted: &str) -> Checked {
    let stream = stream.expected("a connected stdout")?;
    let seen = read_line(stream)?;
    that(
        seen == wanted,
        format!("the line {wanted:?}"),
        format!("{seen:?}"),
    )
}

/// The next line, without its end (a terminal's has a carriage return too).
pub(super) fn read_line(stream: &mut UnixStream) -> Checked<String> {
    stream.set_read_timeout(Some(LIMIT))?;
    let mut bytes = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
        bytes.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.trim_end_matches('\r').to_owned())
}

/// Everything to the end of the stream.
pub(super) fn rest(stream: &mut UnixStream) -> Checked<String> {
    stream.set_read_timeout(Some(LIMIT))?;
    let mut bytes = Vec::new();
    stream
        .read_to_end(&mut bytes)
        .expected("the end of the output")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The process must still run after a moment.
pub(super) fn runs_on(process: &mut Process) -> Checked {
    match process.wait(ABSENCE) {
        Err(HostError::Timeout { .. }) => Ok(()),
        Ok(code) => Err(fail("a process that runs on", format!("exit code {code}"))),
        Err(other) => Err(other.into()),
    }
}

/// It must refuse, by whatever code.
pub(super) fn any_refusal<T>(outcome: Result<T, HostError>, what: &str) -> Checked<String> {
    match outcome {
        Ok(_) => Err(fail(format!("{what}: a refusal"), "success")),
        Err(e) if e.refused().is_some() => Ok(e.to_string()),
        Err(e) => Err(e.into()),
    }
}

/// `args` as a process of the VM, as the first one of a container and as a further one, each
/// with stdout and stderr: what they said.
fn everywhere(vm: &Guest, args: &[&str]) -> Checked<[(&'static str, String); 3]> {
    let text = |launch: Launch| -> Checked<String> {
        let out = launch.run()?;
        that(
            out.code == 0,
            format!("{args:?} to succeed"),
            format!("exit code {}: {}", out.code, out.error_text()),
        )?;
        Ok(out.text())
    };
    let external = text(vm.busybox(args)?)?;
    let busybox: Vec<&str> = std::iter::once("/bin/busybox")
        .chain(args.iter().copied())
        .collect();
    let container = vm.container("").args(&busybox).create()?;
    let first = text(container.init())?;
    container.remove()?;
    let container = vm.container("sleep 1000").create()?;
    let _init = container.start()?;
    let further = text(exec_args(&container, &busybox))?;
    container.remove()?;
    Ok([
        ("a process of the VM", external),
        ("the first process of a container", first),
        ("a further process", further),
    ])
}

/// A further process by its arguments, without a shell.
fn exec_args(container: &Container<'_>, args: &[&str]) -> Launch {
    container.exec_with("", |process| process["args"] = json!(args))
}
