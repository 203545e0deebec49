//! The engine at work, in a task as PID 1 has it.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use gcs::engine::{self, Ends, Told};
use gcs::error::Failure;
use gcs::sys::{channel, pidfd, process};
use nix::sys::socket::{socketpair, AddressFamily, SockFlag, SockType};
use nix::sys::wait::{waitpid, WaitStatus};
use nix::unistd::Pid;

/// Runs `job` in a task, with the standard streams of this process, and hears what it made. The
/// new process waits at `control` for a byte.
pub fn run(
    control: BorrowedFd<'_>,
    also: &[BorrowedFd<'_>],
    job: impl FnOnce(Ends<'_>) -> Result<(), Failure>,
) -> Result<Told> {
    let (own, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let ends = Ends {
        stdio: [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
        channel: theirs.as_fd(),
        control,
    };
    let keep = ends.stdio.into_iter().chain([theirs.as_fd(), control]);
    let keep: Vec<_> = keep.chain(also.iter().copied()).collect();
    let task = process::fork_child(&keep, || match job(ends) {
        Ok(()) => 0,
        Err(failure) => {
            engine::report_failure(ends.channel, &failure);
            1
        }
    })?;
    drop(theirs);
    let told = hear(&own);
    waitpid(task, None)?;
    let told = told?;
    match told.failure {
        Some(failure) => {
            if let Some(pid) = told.pid {
                waitpid(Pid::from_raw(pid), None).ok();
            }
            bail!("{}", failure.message)
        }
        None => Ok(told),
    }
}

fn hear(channel: &OwnedFd) -> Result<Told> {
    let (mut text, mut fds) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; 64 << 10];
    loop {
        if !pidfd::readable(channel, Duration::from_secs(120))? {
            bail!("the engine does not answer");
        }
        match channel::receive(channel.as_fd(), &mut buffer, &mut fds)? {
            0 => break,
            count => text.extend_from_slice(&buffer[..count]),
        }
    }
    Told::read(&text, fds).map_err(|failure| anyhow::anyhow!(failure.message))
}

/// Gives the terminal to whoever listens at `socket`, as runc does.
pub fn give_terminal(socket: &Path, master: &OwnedFd) -> Result<()> {
    let stream = UnixStream::connect(socket)
        .with_context(|| format!("connect to the console socket {}", socket.display()))?;
    channel::send(stream.as_fd(), b"/dev/ptmx", Some(master.as_fd()))?;
    Ok(())
}

/// Waits for a process that the engine made for this one; its exit code as a shell has it.
pub fn wait(pid: i32) -> Result<u8> {
    Ok(match waitpid(Pid::from_raw(pid), None)? {
        WaitStatus::Exited(_, code) => code as u8,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as u8,
        other => bail!("the process is {other:?}"),
    })
}

/// Written aside and renamed: whoever waits for the file finds it whole.
pub fn write_pid(path: &Path, pid: i32) -> Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    File::create(&aside)
        .and_then(|mut file| std::io::Write::write_all(&mut file, pid.to_string().as_bytes()))
        .and_then(|()| std::fs::rename(&aside, path))
        .with_context(|| format!("write {}", path.display()))
}
