//! `chronyd`, in images that have it: it is given the PTP device and started whenever it has
//! ended, after growing delays (10.7).

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::sys::fds;
use crate::sys::process::{self, Program};
use crate::task::SERVICE_PATH;

const CONFIG: &str = "/tmp/chronyd.conf";
const PROGRAMS: [&CStr; 4] = [
    c"/sbin/chronyd",
    c"/usr/sbin/chronyd",
    c"/bin/chronyd",
    c"/usr/bin/chronyd",
];
const FIRST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub struct Chronyd {
    program: CString,
    running: Option<(Pid, Instant)>,
    delay: Duration,
}

impl Chronyd {
    /// The program of the image, if it has one.
    pub fn find() -> Option<Self> {
        let there = |program: &&CStr| {
            let path = Path::new(std::ffi::OsStr::new(program.to_str().unwrap_or_default()));
            path.is_file()
        };
        let program = PROGRAMS.into_iter().find(there)?.to_owned();
        Some(Self {
            program,
            running: None,
            delay: FIRST_DELAY,
        })
    }

    /// Starts it for the device. `Some`: it has to be tried again after that time.
    pub fn start(&mut self, device: &str, now: Instant) -> Option<Duration> {
        let started = fs::write(CONFIG, config(device)).and_then(|()| start(&self.program));
        match started {
            Ok(pid) => {
                self.running = Some((pid, now));
                None
            }
            Err(error) => {
                log::warn!("starting chronyd: {error}");
                let delay = self.delay;
                self.delay = longer(delay);
                Some(delay)
            }
        }
    }

    /// A child of the service ended. `Some`: it was this one, to be started again after that time.
    pub fn on_exit(&mut self, pid: Pid, now: Instant) -> Option<Duration> {
        let (_, since) = self.running.take_if(|(chronyd, _)| *chronyd == pid)?;
        let delay = self.delay;
        log::warn!("chronyd ended; it is started again in {delay:?}");
        self.delay = match now.duration_since(since) > LONGEST_DELAY {
            true => FIRST_DELAY,
            false => longer(delay),
        };
        Some(delay)
    }
}

fn longer(delay: Duration) -> Duration {
    (delay * 2).min(LONGEST_DELAY)
}

fn config(device: &str) -> String {
    format!(
        "refclock PHC /dev/{device} poll 3 dpoll -2 offset 0 stratum 2\n\
         makestep 0.1 -1\n"
    )
}

/// `chronyd -n -f <config>`, with nothing to read from and nowhere to write to.
fn start(program: &CString) -> io::Result<Pid> {
    let null = fds::null()?;
    let (pid, status) = process::start(&Program {
        candidates: std::slice::from_ref(program),
        argv: &[
            c"chronyd".to_owned(),
            c"-n".to_owned(),
            c"-f".to_owned(),
            CString::new(CONFIG)?,
        ],
        env: &[CString::new(SERVICE_PATH)?],
        cwd: None,
        fds: &[null.as_fd(), null.as_fd(), null.as_fd()],
        controlling_terminal: false,
        dumps_core: false,
    })?;
    // An exec that fails ends the child, which is all there is to know.
    drop(status);
    Ok(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_the_two_lines() {
        assert_eq!(
            config("ptp7"),
            "refclock PHC /dev/ptp7 poll 3 dpoll -2 offset 0 stratum 2\nmakestep 0.1 -1\n"
        );
    }

    #[test]
    fn it_is_started_again_with_growing_delays() {
        let begun = Instant::now();
        let mut chronyd = Chronyd {
            program: c"/bin/true".to_owned(),
            running: None,
            delay: FIRST_DELAY,
        };
        let mut again = |ran: Duration| {
            chronyd.running = Some((Pid::from_raw(7), begun));
            let other = chronyd.on_exit(Pid::from_raw(8), begun + ran);
            assert_eq!(other, None, "another child's exit");
            chronyd.on_exit(Pid::from_raw(7), begun + ran)
        };
        let short = Duration::from_secs(1);
        for millis in [500, 1000, 2000] {
            assert_eq!(again(short), Some(Duration::from_millis(millis)));
        }
        for _ in 0..20 {
            again(short);
        }
        assert_eq!(again(LONGEST_DELAY * 2), Some(LONGEST_DELAY));
        assert_eq!(again(short), Some(FIRST_DELAY));
    }
}
