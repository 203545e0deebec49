//! Starting programs, by the two descriptors and the exit status they leave.

#![allow(clippy::disallowed_methods)] // A test may wait for its children.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::time::Duration;

use gcs::sys::process::{self, Program, StartFailure, StartStep};
use gcs::sys::{channel, pidfd};
use nix::errno::Errno;
use nix::sys::wait::{waitpid, WaitStatus};
use nix::unistd::Pid;

const PATIENCE: Duration = Duration::from_secs(30);

/// Starts `script` with `count` descriptors on `/dev/null`. Returns what came over the status pipe.
fn start(script: &str, count: usize) -> (Pid, Option<StartFailure>) {
    start_from(c"/bin/sh", None, script, count)
}

fn start_from(
    program: &CStr,
    cwd: Option<&CStr>,
    script: &str,
    count: usize,
) -> (Pid, Option<StartFailure>) {
    let null = File::open("/dev/null").unwrap();
    let args = ["sh", "-c", script].map(|arg| CString::new(arg).unwrap());
    let (pid, status) = process::start(&Program {
        candidates: &[program.to_owned()],
        argv: &args,
        env: &[c"NAME=value".to_owned()],
        cwd,
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

/// A directory on another file system is not asked for by this process.
#[test]
fn a_program_starts_alike_within_and_beyond_the_root_file_system() {
    for cwd in [None, Some(c"/"), Some(c"/proc")] {
        let wanted = cwd.map_or(String::new(), |cwd| {
            format!("test $(pwd) = {} && ", cwd.to_str().unwrap())
        });
        let script =
            format!("{wanted}test $NAME = value && test $(cat /proc/self/oom_score_adj) = 0");
        let (pid, failure) = start_from(c"/bin/sh", cwd, &script, 3);
        assert_eq!(failure, None, "{cwd:?}");
        assert_eq!(
            waitpid(pid, None),
            Ok(WaitStatus::Exited(pid, 0)),
            "{cwd:?}"
        );
        for (program, errno) in [
            (c"/etc/passwd", Errno::EACCES),
            (c"/none", Errno::ENOENT),
            (c"/etc", Errno::EACCES),
        ] {
            let (pid, failure) = start_from(program, cwd, "", 3);
            let wanted = StartFailure {
                stage: StartStep::Exec,
                errno,
            };
            assert_eq!(failure, Some(wanted), "{program:?} {cwd:?}");
            assert_eq!(waitpid(pid, None), Ok(WaitStatus::Exited(pid, 127)));
        }
    }
    let (pid, failure) = start_from(c"/bin/sh", Some(c"/none"), "", 3);
    assert_eq!(
        failure.map(|failure| failure.stage),
        Some(StartStep::Directory)
    );
    waitpid(pid, None).unwrap();
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
