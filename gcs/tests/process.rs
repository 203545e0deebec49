//! Starting programs, by the two descriptors and the exit status they leave.

#![allow(clippy::disallowed_methods)] // A test may wait for its children.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::time::Duration;

use gcs::sys::process::{self, Program, StartFailure};
use gcs::sys::{channel, pidfd};
use nix::sys::wait::{waitpid, WaitStatus};
use nix::unistd::Pid;

const PATIENCE: Duration = Duration::from_secs(30);

/// Starts `script` with `count` descriptors on `/dev/null`. Returns what came over the status pipe.
fn start(script: &str, count: usize) -> (Pid, Option<StartFailure>) {
    let null = File::open("/dev/null").unwrap();
    let args = ["sh", "-c", script].map(|arg| CString::new(arg).unwrap());
    let (pid, status) = process::start(&Program {
        candidates: &[c"/bin/sh".to_owned()],
        argv: &args,
        env: &[],
        cwd: None,
        fds: &vec![null.as_fd(); count],
        controlling_terminal: false,
        dumps_core: false,
    })
    .unwrap();
    channel::set_nonblocking(status.as_fd(), false).unwrap();
    assert!(pidfd::readable(&status, PATIENCE).unwrap());
    let mut bytes = Vec::new();
    File::from(status).read_to_end(&mut bytes).unwrap();
    (pid, StartFailure::from_status(&bytes))
}

#[test]
fn the_number_of_the_status_pipe_may_be_one_that_the_program_gets() {
    // The pipe gets the lowest free numbers, which are below 24 in this process.
    let (pid, failure) = start("test -e /proc/self/fd/23 && ! test -e /proc/self/fd/24", 24);
    assert_eq!(failure, None);
    assert_eq!(waitpid(pid, None), Ok(WaitStatus::Exited(pid, 0)));
}

#[test]
fn what_a_killed_task_has_started_is_killed_with_it() {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    let pid = process::fork_child(&[write.as_fd()], || {
        // The grandchild holds the pipe as its stdout.
        let started = std::process::Command::new("sleep")
            .arg("120")
            .stdout(write.try_clone().unwrap())
            .spawn();
        nix::unistd::write(&write, b"!").ok();
        i32::from(started.and_then(|mut child| child.wait()).is_err())
    })
    .unwrap();
    drop(write);
    let mut read = File::from(read);
    read.read_exact(&mut [0]).unwrap();
    process::kill_group(pid).unwrap();
    waitpid(pid, None).unwrap();
    assert!(pidfd::readable(&read, PATIENCE).unwrap());
    assert_eq!(read.read(&mut [0]).unwrap(), 0);
}
