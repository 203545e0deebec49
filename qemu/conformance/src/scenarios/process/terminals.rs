//! Terminals: of a container's first process, of further ones, and of the VM's.

use std::io::Write;

use super::{ended, line, read_line, rest, runs_on};
use crate::{codes, refused, same, that, Checked, Container, Expected, Guest, Lab, LIMIT};
use uvm_host::{Launch, Process};

/// Prints its size whenever that changes. A `read` of the shell would keep the trap waiting.
const SIZES: &str = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done";

fn with_terminal(container: &Container<'_>, script: &str) -> Launch {
    let exec = container.exec_with(script, |process| process["terminal"] = true.into());
    exec.open_stdin()
}

fn running<'g>(vm: &'g Guest, script: &str, terminal: bool) -> Checked<(Container<'g>, Process)> {
    let plan = vm.container(script);
    let plan = plan.edit(|spec| spec["process"]["terminal"] = terminal.into());
    let container = plan.create()?;
    let init = container.init().open_stdin().without_stderr().start()?;
    Ok((container, init))
}

pub fn streams_of_a_terminal(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let (container, _init) = running(&vm, "sleep 1000", false)?;
    // Without echo only the program is heard.
    let script =
        "stty -echo; echo ready; read word; echo got $word >&2; [ -t 0 ] && [ -t 1 ] && [ -t 2 ]";
    let mut process = with_terminal(&container, script).start()?;
    let mut stdout = process.stdio.stdout.take().expected("a connection")?;
    line(Some(&mut stdout), "ready")?;
    let stdin = process.stdio.stdin.as_mut().expected("a connection")?;
    stdin.write_all(b"word\n")?;
    // A terminal has one output, whatever descriptor was written.
    same("output", "got word\r\n", rest(&mut stdout)?.as_str())?;
    let mut stderr = process.stdio.stderr.take().expected("a connection")?;
    same("what stderr carries", "", rest(&mut stderr)?.as_str())?;
    drop((stdout, stderr));
    same("exit code", 0, process.wait(LIMIT)?)?;
    container.remove()
}

fn resize_tells(what: &str, mut process: Process) -> Checked<Process> {
    line(process.stdio.stdout.as_mut(), "ready")?;
    for (rows, columns) in [(50, 132), (24, 80)] {
        process.resize(rows, columns)?;
        let stdout = process.stdio.stdout.as_mut().expected("a connection")?;
        let seen = read_line(stdout)?;
        same(
            &format!("size of {what}"),
            format!("{rows} {columns}"),
            seen,
        )?;
    }
    Ok(process)
}

pub fn resized(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let (container, init) = running(&vm, SIZES, true)?;
    let init = resize_tells("the terminal of a container", init)?;
    let exec = with_terminal(&container, SIZES).without_stderr().start()?;
    drop(resize_tells("a further terminal", exec)?);
    drop(init);
    container.remove()?;
    let external = vm.shell(SIZES)?.terminal().start()?;
    let external = resize_tells("a terminal of the VM", external)?;
    Ok(external.signal(9)?)
}

pub fn not_resized(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let (container, mut init) = running(&vm, "sleep 1000", false)?;
    refused(init.resize(10, 20), codes::FAIL)?;
    let mut exec = container.exec("sleep 1000").start()?;
    refused(exec.resize(10, 20), codes::FAIL)?;
    runs_on(&mut init)?;
    runs_on(&mut exec)?;
    drop((init, exec));
    container.remove()?;

    let (container, mut init) = running(&vm, "exit 3", true)?;
    ended(&mut init, "exit code", 3)?;
    init.resize(10, 20).expected("success after the exit")?;
    container.remove()
}

pub fn session_of_an_external(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    // Fields of proc(5): 1 pid, 5 process group, 6 session, 7 terminal, 8 foreground group.
    let script = "read -r stat < /proc/self/stat; set -- $stat; \
                  echo $$ $1 $6 $7 $8; echo heard > /dev/tty";
    let mut process = vm.shell(script)?.terminal().start()?;
    let mut stdout = process.stdio.stdout.take().expected("a connection")?;
    let seen = read_line(&mut stdout)?;
    let fields: Vec<&str> = seen.split(' ').collect();
    that(
        fields.len() == 5
            && fields[..3] == [fields[0]; 3]
            && fields[3] != "0"
            && fields[4] == fields[0],
        "a session of its own in the foreground of a terminal",
        format!("pid, session, terminal and foreground group: {seen}"),
    )?;
    line(Some(&mut stdout), "heard")?;
    drop(stdout);
    ended(&mut process, "exit code", 0)
}
