//! The connections that ExecuteProcess asks for.

use serde_json::{json, Value};

use super::{execute, oci_process, pid};
use crate::{fail, same, that, AnswerIs, Checked, Guest, Lab, LIMIT, TOOLS};
use uvm_host::UVM_ID;

/// Ports by stream: some listen, the others refuse.
struct Ports<'g> {
    vm: &'g Guest,
    ports: [u32; 3],
}

impl<'g> Ports<'g> {
    fn new(vm: &'g Guest, listens: [bool; 3]) -> Checked<Self> {
        let mut ports = [0; 3];
        for (port, listens) in ports.iter_mut().zip(listens) {
            *port = vm.open_stream()?;
            if !listens {
                vm.close_stream(*port);
            }
        }
        Ok(Self { vm, ports })
    }

    fn all(&self) -> [Option<u32>; 3] {
        self.ports.map(Some)
    }

    fn dialled(&self, stream: usize) -> bool {
        let port = self.ports[stream];
        self.vm.has_stream(port)
    }
}

impl Drop for Ports<'_> {
    fn drop(&mut self) {
        for port in self.ports {
            self.vm.close_stream(port);
        }
    }
}

fn busybox(args: &[&str]) -> Value {
    let program = format!("{TOOLS}/bin/busybox");
    let args: Vec<&str> = std::iter::once(program.as_str())
        .chain(args.iter().copied())
        .collect();
    json!({"CommandArgs": args, "CreateInUtilityVM": true})
}

/// With one port that refuses, those before it were dialled and those after it were not.
pub fn in_order(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    vm.tools()?;
    for refusing in 0..3 {
        let mut listens = [true; 3];
        listens[refusing] = false;
        let ports = Ports::new(&vm, listens)?;
        let answer = execute(&vm, UVM_ID, busybox(&["true"]), ports.all())?;
        if answer.code() == 0 {
            return Err(fail("a refusal: one port does not listen", answer.text()));
        }
        for before in 0..refusing {
            // It was made before the answer; this side's thread may take a moment to accept it.
            let mut stream = vm.take_stream(ports.ports[before], LIMIT)?;
            let text = super::rest(&mut stream)?;
            same("bytes on a connection of a failed start", 0, text.len())?;
        }
        for after in refusing + 1..3 {
            that(
                !ports.dialled(after),
                format!("stream {after} not dialled after stream {refusing}, which refuses"),
                "a connection",
            )?;
        }
    }
    Ok(())
}

pub fn unflagged(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    vm.tools()?;
    let ports = Ports::new(&vm, [true; 3])?;
    let mut parameters = busybox(&["echo", "said"]);
    parameters["CreateStdInPipe"] = false.into();
    parameters["CreateStdErrPipe"] = false.into();
    let answer = execute(&vm, UVM_ID, parameters, ports.all())?;
    answer.is(0)?;
    let mut stdout = vm.take_stream(ports.ports[1], LIMIT)?;
    same("output", "said\n", super::rest(&mut stdout)?.as_str())?;
    super::wait(&vm, UVM_ID, pid(&answer)?, u32::MAX)?.is(0)?;
    for (stream, name) in [(0, "stdin"), (2, "stderr")] {
        that(
            !ports.dialled(stream),
            format!("{name} not dialled: its flag is false"),
            "a connection",
        )?;
    }
    Ok(())
}

/// For all three kinds of process; a container whose start failed so can still be started.
pub fn failing(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    vm.tools()?;
    let mark = format!("/run/{}", vm.fresh("mark"));
    let container = vm.container("echo started").create()?;
    let touch = [
        (UVM_ID, busybox(&["touch", &mark])),
        (container.id(), oci_process(&["touch", "/mark"])),
        (container.id(), json!({})),
    ];
    for (id, parameters) in touch {
        let ports = Ports::new(&vm, [true, true, false])?;
        let answer = execute(&vm, id, parameters.clone(), ports.all())?;
        if answer.code() == 0 {
            return Err(fail("a refusal: stderr does not listen", answer.text()));
        }
        for port in &ports.ports[..2] {
            let mut stream = vm.take_stream(*port, LIMIT)?;
            let text = super::rest(&mut stream)?;
            same("bytes on a connection of a failed start", 0, text.len())?;
        }
    }
    let out = container.init().run()?;
    same(
        "output of a start that follows",
        "started\n",
        out.text().as_str(),
    )?;
    let marks = format!("ls {mark} {}/mark 2>/dev/null || true", container.root());
    same(
        "files of processes that must not run",
        "",
        vm.sh(&marks)?.as_str(),
    )?;
    container.remove()
}

/// When the answer is there, so are the connections, and the pid is that of the process.
pub fn answer(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let container = vm.container("exec sleep 1000").create()?;
    let init = container.init().open_stdin().start()?;
    let further = container.exec("exec sleep 1001").open_stdin().start()?;
    for (process, seconds, depth) in [(&init, "1000", 2), (&further, "1001", 2)] {
        let pid = process.pid;
        let command_line = vm.sh(&format!("tr '\\0' ' ' < /proc/{pid}/cmdline"))?;
        same(
            "command of the pid",
            format!("sleep {seconds} "),
            command_line,
        )?;
        let numbers = vm.sh(&format!("grep ^NSpid: /proc/{pid}/status"))?;
        same(
            "pid namespaces it is in",
            depth,
            numbers.split_whitespace().count() - 1,
        )?;
    }
    container.remove()
}
