//! Tasks that make processes, what comes of them, and their reaping: as PID 1 does it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gcs::engine::{self, Ends, Told};
use gcs::error::Failure;
use gcs::sys::process::fork_child;
use nix::sys::socket::{socketpair, AddressFamily, SockFlag, SockType};
use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};
use nix::unistd::Pid;

/// The far ends of a container's standard streams.
pub struct Streams {
    pub stdin: Option<File>,
    pub stdout: File,
    pub stderr: File,
}

pub struct Made {
    pub pid: i32,
    pub streams: Streams,
    pub master: Option<File>,
}

/// As PID 1: one byte, and then the end of the socket or the reason.
pub fn go_on(control: &OwnedFd) -> Result<(), Failure> {
    let mut control = File::from(control.try_clone().unwrap());
    control.write_all(b"s").unwrap();
    let mut why = Vec::new();
    control.read_to_end(&mut why).unwrap();
    match why.is_empty() {
        true => Ok(()),
        false => Err(engine::read_reason(&why)),
    }
}

pub fn pair(kind: SockType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap()
}

/// A task that makes a process.
pub struct Task {
    pid: Pid,
    channel: OwnedFd,
    streams: Streams,
}

impl Task {
    pub fn start(
        control: BorrowedFd<'_>,
        also: &[BorrowedFd<'_>],
        job: impl FnOnce(Ends<'_>) -> Result<(), Failure>,
    ) -> Self {
        let (channel, theirs) = pair(SockType::SeqPacket);
        let (stdin_r, stdin) = std::io::pipe().unwrap();
        let (stdout, stdout_w) = std::io::pipe().unwrap();
        let (stderr, stderr_w) = std::io::pipe().unwrap();
        let stdio = [stdin_r.as_fd(), stdout_w.as_fd(), stderr_w.as_fd()];
        let ends = Ends {
            stdio,
            channel: theirs.as_fd(),
            control,
        };
        let keep = stdio.into_iter().chain([theirs.as_fd(), control]);
        let keep: Vec<_> = keep.chain(also.iter().copied()).collect();
        let pid = fork_child(&keep, || {
            job(ends).map_or_else(
                |failure| {
                    engine::report_failure(ends.channel, &failure);
                    1
                },
                |()| 0,
            )
        });
        Self {
            pid: pid.unwrap(),
            channel,
            streams: Streams {
                stdin: Some(OwnedFd::from(stdin).into()),
                stdout: OwnedFd::from(stdout).into(),
                stderr: OwnedFd::from(stderr).into(),
            },
        }
    }

    pub fn wait(self) -> Result<(Told, Streams), Failure> {
        let (mut text, mut fds) = (Vec::new(), Vec::new());
        let mut buffer = vec![0; 64 * 1024];
        loop {
            gcs::sys::pidfd::readable(&self.channel, std::time::Duration::from_secs(60)).unwrap();
            match gcs::sys::channel::receive(self.channel.as_fd(), &mut buffer, &mut fds).unwrap() {
                0 => break,
                count => text.extend_from_slice(&buffer[..count]),
            }
        }
        reap(self.pid.as_raw());
        let told = Told::read(&text, fds)?;
        match told.failure {
            Some(failure) => {
                // As PID 1: what was named dies.
                if let Some((pid, process)) = told.pid.zip(told.process) {
                    gcs::sys::pidfd::signal(process, libc::SIGKILL).ok();
                    reap(pid);
                }
                Err(failure)
            }
            None => Ok((told, self.streams)),
        }
    }
}

/// A further process being made.
pub struct Running(pub Task, pub OwnedFd);

impl Running {
    pub fn wait(self) -> Result<Made, Failure> {
        let (told, streams) = self.0.wait()?;
        assert!(told.ready);
        go_on(&self.1)?;
        Ok(Made {
            pid: told.pid.unwrap(),
            streams,
            master: told.terminal.map(File::from),
        })
    }
}

impl Made {
    pub fn finish(mut self) -> (String, String, i32) {
        drop(self.streams.stdin.take());
        let (mut out, mut err) = (String::new(), String::new());
        if let Some(mut master) = self.master {
            // A pty ends with EIO.
            let mut bytes = Vec::new();
            drop(master.read_to_end(&mut bytes));
            out = String::from_utf8_lossy(&bytes).into_owned();
        } else {
            self.streams.stdout.read_to_string(&mut out).unwrap();
            self.streams.stderr.read_to_string(&mut err).unwrap();
        }
        (out, err, reap(self.pid))
    }
}

/// Exit code as the bridge reports it.
pub fn reap(pid: i32) -> i32 {
    match waitpid(Pid::from_raw(pid), None).unwrap() {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        other => panic!("{other:?}"),
    }
}

/// Collects what failed creates left to us; returns how many.
pub fn reap_strays() -> usize {
    let mut count = 0;
    while let Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) =
        waitpid(None, Some(WaitPidFlag::WNOHANG))
    {
        count += 1;
    }
    count
}

/// Collects what failed execs left, as soon as it ends: the kernel keeps the init of a pid
/// namespace until then.
pub fn reap_all_but(kept: i32) {
    let begun = std::time::Instant::now();
    let me = std::process::id();
    let children = || fs::read_to_string(format!("/proc/{me}/task/{me}/children")).unwrap();
    while children().trim() != kept.to_string() {
        assert!(
            begun.elapsed().as_secs() < 30,
            "children are left: {}",
            children()
        );
        reap_strays();
        std::thread::yield_now();
    }
}
