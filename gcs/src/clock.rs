//! Keeps the clock in step with the host's (protocol.md 10.7, P-306): by chronyd where the image
//! has it, else by PID 1 itself, from the PTP clock that Hyper-V gives the VM.
//!
//! Without `chronyd` the device is read every eight seconds, as often as chronyd would; small
//! offsets are made up for slowly, large ones (after the host slept) at once.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::time::{TimeSpec, TimeValLike};
use nix::time::{clock_gettime, clock_settime, ClockId};
use nix::unistd::Pid;

use crate::sys::process::{self, Program};
use crate::sys::{clock, fds};
use crate::task::SERVICE_PATH;

const DEVICES: &str = "/sys/class/ptp";
/// What `clock_name` of the wanted device holds.
const NAME: &str = "hyperv\n";
const CONFIG: &str = "/tmp/chronyd.conf";
const PROGRAMS: [&CStr; 4] = [
    c"/sbin/chronyd",
    c"/usr/sbin/chronyd",
    c"/bin/chronyd",
    c"/usr/bin/chronyd",
];
/// `poll 3` of the configuration: 2³ seconds.
const EVERY: Duration = Duration::from_secs(8);
/// `makestep 0.1`.
const STEP_NANOS: i64 = 100_000_000;
const FIRST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(600);

/// What keeps the clock.
#[derive(Debug)]
pub struct Clock {
    way: Way,
    /// When there is something to do.
    next: Option<Instant>,
}

#[derive(Debug)]
enum Way {
    Chronyd {
        program: CString,
        running: Option<(Pid, Instant)>,
        delay: Duration,
    },
    Own {
        device: File,
    },
}

/// How an offset is made up for; the numbers say by how much our clock is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Correction {
    Slew { micros: i64 },
    Step { nanos: i64 },
}

impl Clock {
    /// Finds the host's clock; a machine without one goes on by itself, with a warning.
    pub fn find() -> Option<Self> {
        match Self::open() {
            Ok(clock) => Some(clock),
            Err(error) => {
                log::warn!("the time is not kept in step with the host's: {error}");
                None
            }
        }
    }

    fn open() -> io::Result<Self> {
        let none = "there is no PTP clock of Hyper-V";
        let device = device(Path::new(DEVICES)).ok_or(io::Error::other(none))?;
        let chronyd = PROGRAMS.into_iter().find(|program| {
            let path = Path::new(std::ffi::OsStr::new(program.to_str().unwrap_or_default()));
            path.is_file()
        });
        let way = match chronyd {
            Some(program) => {
                fs::write(CONFIG, config(&device))?;
                Way::Chronyd {
                    program: program.to_owned(),
                    running: None,
                    delay: FIRST_DELAY,
                }
            }
            None => Way::Own {
                device: File::open(Path::new("/dev").join(&device))?,
            },
        };
        log::info!("the time is kept in step with {device}: {way:?}");
        Ok(Self {
            way,
            next: Some(Instant::now()),
        })
    }

    /// When [`Clock::on_time`] is due; never, while chronyd runs.
    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Starts chronyd, or looks at the device, if it is time.
    pub fn on_time(&mut self, now: Instant) {
        if self.next.is_none_or(|at| now < at) {
            return;
        }
        self.next = Some(now + EVERY);
        match &mut self.way {
            Way::Chronyd {
                program,
                running,
                delay,
            } => match start(program) {
                Ok(pid) => {
                    *running = Some((pid, now));
                    self.next = None;
                }
                Err(error) => {
                    log::warn!("starting chronyd: {error}");
                    *delay = longer(*delay);
                    self.next = Some(now + *delay);
                }
            },
            Way::Own { device } => match follow(device) {
                Ok(Correction::Step { nanos }) => {
                    log::info!(nanos = nanos; "the clock was set to the host's");
                }
                Ok(Correction::Slew { .. }) => {}
                Err(error) => {
                    log::warn!("the time is no longer kept in step with the host's: {error}");
                    self.next = None;
                }
            },
        }
    }

    /// A child of the service ended: chronyd is started again after a while.
    pub fn on_exit(&mut self, pid: Pid, now: Instant) {
        let Way::Chronyd { running, delay, .. } = &mut self.way else {
            return;
        };
        let Some((_, since)) = running.take_if(|(chronyd, _)| *chronyd == pid) else {
            return;
        };
        log::warn!("chronyd ended; it is started again in {delay:?}");
        self.next = Some(now + *delay);
        *delay = match now.duration_since(since) > LONGEST_DELAY {
            true => FIRST_DELAY,
            false => longer(*delay),
        };
    }
}

fn longer(delay: Duration) -> Duration {
    (delay * 2).min(LONGEST_DELAY)
}

/// The name of the device with the host's clock, such as `ptp0`.
fn device(class: &Path) -> Option<String> {
    let entries = fs::read_dir(class).ok()?.flatten();
    let mut found: Vec<String> = entries
        .filter(|entry| {
            let name = fs::read_to_string(entry.path().join("clock_name"));
            name.is_ok_and(|name| name == NAME)
        })
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    found.sort();
    found.into_iter().next()
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
    })?;
    // An exec that fails ends the child, which is all there is to know.
    drop(status);
    Ok(pid)
}

/// Reads both clocks and corrects ours.
fn follow(device: &File) -> nix::Result<Correction> {
    let host = clock::read(device)?;
    let ours = clock_gettime(ClockId::CLOCK_REALTIME)?;
    let correction = correction((host - ours).num_nanoseconds());
    match correction {
        Correction::Slew { micros } => clock::slew(micros)?,
        Correction::Step { nanos } => {
            let now = clock_gettime(ClockId::CLOCK_REALTIME)? + TimeSpec::nanoseconds(nanos);
            clock_settime(ClockId::CLOCK_REALTIME, now)?;
        }
    }
    Ok(correction)
}

fn correction(nanos: i64) -> Correction {
    match nanos.unsigned_abs() > STEP_NANOS.unsigned_abs() {
        true => Correction::Step { nanos },
        false => Correction::Slew {
            micros: nanos / 1000,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_clock_is_found_by_its_name() {
        let class = tempfile::tempdir().expect("a directory");
        assert_eq!(device(class.path()), None);
        for (name, clock) in [
            ("ptp0", "KVM virtual PTP\n"),
            ("ptp2", NAME),
            ("ptp1", NAME),
        ] {
            fs::create_dir(class.path().join(name)).expect("made");
            fs::write(class.path().join(name).join("clock_name"), clock).expect("written");
        }
        assert_eq!(device(class.path()).as_deref(), Some("ptp1"));
        assert_eq!(device(Path::new("/nowhere")), None);
    }

    #[test]
    fn chronyd_has_the_two_lines() {
        assert_eq!(
            config("ptp7"),
            "refclock PHC /dev/ptp7 poll 3 dpoll -2 offset 0 stratum 2\nmakestep 0.1 -1\n"
        );
    }

    #[test]
    fn chronyd_is_started_again_with_growing_delays() {
        let begun = Instant::now();
        let mut clock = Clock {
            way: Way::Chronyd {
                program: c"/bin/true".to_owned(),
                running: Some((Pid::from_raw(7), begun)),
                delay: FIRST_DELAY,
            },
            next: None,
        };
        let again = |clock: &mut Clock, ran: Duration| {
            let Way::Chronyd { running, .. } = &mut clock.way else {
                unreachable!("made above")
            };
            *running = Some((Pid::from_raw(7), begun));
            clock.next = None;
            clock.on_exit(Pid::from_raw(8), begun + ran);
            assert_eq!(clock.next(), None, "another child's exit");
            clock.on_exit(Pid::from_raw(7), begun + ran);
            clock.next().map(|at| at - (begun + ran))
        };
        let short = Duration::from_secs(1);
        for millis in [500, 1000, 2000] {
            let wait = Some(Duration::from_millis(millis));
            assert_eq!(again(&mut clock, short), wait);
        }
        for _ in 0..20 {
            again(&mut clock, short);
        }
        assert_eq!(again(&mut clock, LONGEST_DELAY * 2), Some(LONGEST_DELAY));
        assert_eq!(again(&mut clock, short), Some(FIRST_DELAY));
    }

    #[test]
    fn small_offsets_are_made_up_for_slowly() {
        let slew = |micros| Correction::Slew { micros };
        let step = |nanos| Correction::Step { nanos };
        assert_eq!(correction(-99_999_999), slew(-99_999));
        assert_eq!(correction(100_000_000), slew(100_000));
        assert_eq!(correction(100_000_001), step(100_000_001));
        assert_eq!(correction(-3_600_000_000_000), step(-3_600_000_000_000));
        assert_eq!(correction(i64::MIN), step(i64::MIN));
    }

    #[test]
    fn what_has_no_clock_is_an_error() {
        let file = tempfile::tempfile().expect("a file");
        assert!(clock::read(&file).is_err());
    }
}
