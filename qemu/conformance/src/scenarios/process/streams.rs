//! Standard streams of processes in containers.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

use super::{ended, ready, rest, runs_on};
use crate::{fail, same, that, Checked, Expected, Lab, LIMIT};

const MIB: usize = 1 << 20;

pub fn closed_stdin(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let container = vm.container("cat; echo end").create()?;
    let out = container.init().input("in").run()?;
    same(
        "output of the first process",
        "inend\n",
        out.text().as_str(),
    )?;
    container.remove()?;
    let container = vm.container("sleep 1000").create()?;
    let _init = container.start()?;
    let out = container.exec("cat; echo end").input("in").run()?;
    same("output of a further one", "inend\n", out.text().as_str())?;
    container.remove()
}

/// At the time of the answer nothing is still on its way: what was not read to its end by then
/// does not count.
pub fn complete_output(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let script = "head -c 1048576 /dev/zero; head -c 1048576 /dev/zero >&2; exit 3";
    let judge = |what: &str, out: uvm_host::Output| {
        let seen = (out.code, out.stdout.len(), out.stderr.len(), out.complete);
        same(
            &format!("code, bytes of stdout and stderr, and their ends, of {what}"),
            (3, MIB, MIB, true),
            seen,
        )
    };
    let container = vm.container(script).create()?;
    judge("the first process", container.init().run()?)?;
    container.remove()?;
    let container = vm.container("sleep 1000").create()?;
    let _init = container.start()?;
    judge("a further one", container.exec(script).run()?)?;
    container.remove()
}

/// The guest closes its writing side; the connection itself lives until the host closes it.
pub fn half_close(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let container = vm.container("echo said; exit 3").create()?;
    let mut process = container.init().start()?;
    for stream in [&mut process.stdio.stdout, &mut process.stdio.stderr] {
        let stream = stream.as_mut().expected("a connection")?;
        rest(stream)?;
        let mut polled = [PollFd::new(stream.as_fd(), PollFlags::empty())];
        poll(&mut polled, PollTimeout::from(400_u16))?;
        let seen = polled[0].revents().unwrap_or(PollFlags::empty());
        that(
            !seen.contains(PollFlags::POLLHUP),
            "a connection that is closed in one direction",
            "one that is closed in both",
        )?;
    }
    ended(&mut process, "exit code", 3)?;
    container.remove()
}

pub fn held_output(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let container = vm.container("echo said; exit 3").create()?;
    let mut process = container.init().start()?;
    let mut stdout = process.stdio.stdout.take().expected("a connection")?;
    rest(&mut stdout)?;
    drop(process.stdio.stderr.take());
    runs_on(&mut process)?;
    drop(stdout);
    same("exit code", 3, process.wait(LIMIT)?)?;
    container.remove()
}

pub fn held_stdin(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let container = vm.container("exit 4").create()?;
    let mut process = container.init().open_stdin().start()?;
    let stdin = process.stdio.stdin.take();
    ended(&mut process, "exit code with stdin open", 4)?;
    drop(stdin);
    container.remove()
}

/// The process does not read until the host could not write any more.
pub fn back_pressure(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let bytes: Vec<u8> = (0..10 * MIB as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let script = "echo ready; while ! [ -e /go ]; do sleep 0.05; done; cat";
    let container = vm.container(script).create()?;
    let mut process = container.init().open_stdin().start()?;
    ready(&mut process)?;
    let mut stdin = process.stdio.stdin.take().expected("a connection")?;
    stdin.set_nonblocking(true)?;
    let mut written = 0;
    loop {
        match stdin.write(&bytes[written..]) {
            Ok(count) => written += count,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let mut polled = [PollFd::new(stdin.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut polled, PollTimeout::from(1000_u16))? == 0 {
                    break;
                }
            }
            Err(e) => return Err(e.into()),
        }
        if written == bytes.len() {
            return Err(fail(
                "input that stops while nobody reads it",
                "10 MiB taken",
            ));
        }
    }
    vm.sh(&format!("touch {}/go", container.root()))?;
    stdin.set_nonblocking(false)?;
    let whole = bytes.clone();
    let feeder = std::thread::spawn(move || stdin.write_all(&bytes[written..]).map(drop));
    let mut stdout = process.stdio.stdout.take().expected("a connection")?;
    stdout.set_read_timeout(Some(LIMIT))?;
    let mut seen = Vec::new();
    stdout.read_to_end(&mut seen).expected("what went in")?;
    feeder
        .join()
        .map_err(|_| fail("input that is written", "a panic"))??;
    that(
        seen == whole,
        "the same 10 MiB",
        format!("{} bytes, not the same", seen.len()),
    )?;
    drop(stdout);
    ended(&mut process, "exit code", 0)?;
    container.remove()
}

pub fn reset_output(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let script = "head -c 20000000 /dev/zero; head -c 20000000 /dev/zero >&2; exit 6";
    let container = vm.container(script).create()?;
    let mut process = container.init().start()?;
    // Some of it is read, so that it is flowing.
    let mut stdout = process.stdio.stdout.take().expected("a connection")?;
    stdout.set_read_timeout(Some(LIMIT))?;
    stdout.read_exact(&mut [0; 100_000])?;
    drop(stdout);
    ended(&mut process, "exit code", 6)?;
    container.remove()?;
    same("the guest's next process", "on", vm.sh("echo on")?.as_str())
}

pub fn unwanted_are_null(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let container = vm.container("sleep 1000").create()?;
    let _init = container.start()?;
    let script = "stat -L -c %t:%T /proc/$$/fd/0 /proc/$$/fd/2";
    let out = container.exec(script).without_stderr().run()?;
    same(
        "devices of stdin and stderr",
        "1:3\n1:3\n",
        out.text().as_str(),
    )?;
    let script = "stat -L -c %t:%T /proc/$$/fd/0 /proc/$$/fd/1 | cat >&2";
    let out = container.exec(script).without_stdout().run()?;
    same(
        "devices of stdin and stdout",
        "1:3\n1:3\n",
        out.error_text().as_str(),
    )?;
    container.remove()
}

pub fn none_at_all(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let container = vm.container("sleep 1000").create()?;
    let _init = container.start()?;
    let script = "cat; echo out; echo err >&2; exit 7";
    let launch = container.exec(script).without_stdout().without_stderr();
    same(
        "exit code",
        7,
        launch.limit(Duration::from_secs(60)).run()?.code,
    )?;
    container.remove()
}
