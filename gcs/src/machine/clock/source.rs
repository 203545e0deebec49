//! Where the host's time is read: a PTP device of the hypervisor, or a port of the host.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::time::{clock_gettime, ClockId};

use super::discipline::{Fault, Sample};
use crate::error::Failure;
use crate::sys::{channel::set_nonblocking, clock};
use crate::transport::{self, Dialer};

const DEVICES: &str = "/sys/class/ptp";
/// What `clock_name` of a hypervisor's device holds, the best first: Hyper-V, KVM.
const NAMES: [&str; 2] = ["hyperv\n", "KVM virtual PTP\n"];
/// How long the host may take to answer at its port. A slower answer would be too inexact.
pub const ASK_LIMIT: Duration = Duration::from_secs(5);
const SECOND: i64 = 1_000_000_000;

/// The name of the device with the host's clock, such as `ptp0`.
pub fn device() -> Option<String> {
    device_of(Path::new(DEVICES))
}

fn device_of(class: &Path) -> Option<String> {
    let entries = fs::read_dir(class).ok()?.flatten();
    let place = |entry: &fs::DirEntry| {
        let name = fs::read_to_string(entry.path().join("clock_name")).ok()?;
        NAMES.iter().position(|wanted| *wanted == name)
    };
    let found = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Some((place(&entry)?, name))
    });
    found.min().map(|(_, name)| name)
}

pub fn open(device: &str) -> io::Result<File> {
    File::open(Path::new("/dev").join(device))
}

/// Reads the clock of a PTP device. Does not wait, because the hypervisor keeps it in memory.
///
/// # Errors
/// The device is gone, or shows no time.
pub fn look(device: &File) -> Result<Sample, Fault> {
    let read = || {
        let before = ours()?;
        let host = clock::read(device)?;
        Ok::<_, nix::Error>((host, before, ours()?))
    };
    let (host, before, after) =
        read().map_err(|errno| Fault::Gone(format!("reading the PTP clock: {errno}")))?;
    Sample::new((host.tv_sec(), host.tv_nsec()), before, after)
}

/// The result of [`ask`]: the host's time, and the guest's time before and after. Nanoseconds since
/// 1970.
pub type Answer = (u64, i64, i64);

/// Asks the host at a port of its own (`-time-port`): it writes the nanoseconds since 1970 as
/// eight bytes, the highest first. Waits, so it is for a task.
///
/// # Errors
/// Nobody answers there.
pub fn ask(dialer: &Dialer, port: u32) -> Result<Answer, Failure> {
    let ask = || {
        let before = ours()?;
        let stream = transport::connect_within(dialer, port, Instant::now() + ASK_LIMIT)?;
        set_nonblocking(stream.as_fd(), false)?;
        let mut nanos = [0; 8];
        File::from(stream).read_exact(&mut nanos)?;
        Ok::<_, io::Error>((u64::from_be_bytes(nanos), before, ours()?))
    };
    ask().map_err(|error| Failure::unspecified(format!("asking at port {port}: {error}")))
}

/// The sample, or the fault, that an answer results in.
pub fn heard(answer: Result<Answer, Failure>) -> Result<Sample, Fault> {
    let (nanos, before, after) = answer.map_err(|failure| Fault::Gone(failure.message))?;
    let nanos = i64::try_from(nanos).map_err(|_| Fault::Nonsense)?;
    Sample::new((nanos / SECOND, nanos % SECOND), before, after)
}

/// The guest's clock, in nanoseconds since 1970.
fn ours() -> nix::Result<i64> {
    let now: TimeSpec = clock_gettime(ClockId::CLOCK_REALTIME)?;
    Ok(now
        .tv_sec()
        .saturating_mul(SECOND)
        .saturating_add(now.tv_nsec()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn the_hosts_clock_is_found_by_its_name() {
        let class = tempfile::tempdir().expect("a directory");
        let of = |class: &Path| device_of(class);
        assert_eq!(of(class.path()), None);
        let make = |name: &str, clock: &str| {
            fs::create_dir(class.path().join(name)).expect("made");
            fs::write(class.path().join(name).join("clock_name"), clock).expect("written");
        };
        make("ptp0", "an adapter's\n");
        assert_eq!(of(class.path()), None);
        make("ptp1", NAMES[1]);
        assert_eq!(of(class.path()).as_deref(), Some("ptp1"));
        make("ptp3", NAMES[0]);
        make("ptp2", NAMES[0]);
        assert_eq!(of(class.path()).as_deref(), Some("ptp2"));
        assert_eq!(of(Path::new("/nowhere")), None);
    }

    #[test]
    fn what_has_no_clock_is_gone() {
        let file = tempfile::tempfile().expect("a file");
        assert!(matches!(look(&file), Err(Fault::Gone(_))));
    }

    #[test]
    #[allow(clippy::disallowed_methods)] // The thread is the host.
    fn a_port_says_the_time_or_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let prefix = dir.path().join("v");
        let dialer = Dialer::Unix {
            prefix: prefix.clone(),
        };
        let ask = || heard(ask(&dialer, 9));
        assert!(matches!(ask(), Err(Fault::Gone(why)) if why.contains("port 9")));
        let listener = UnixListener::bind(format!("{}_9", prefix.display())).expect("bound");
        let said = |nanos: u64| nanos.to_be_bytes().to_vec();
        let answers = [
            said(1_700_000_000_000_000_123),
            said(u64::MAX),
            said(0),
            b"1.7".to_vec(),
        ];
        let server = std::thread::spawn(move || {
            for answer in answers {
                let mut stream = listener.accept().expect("a connection").0;
                stream.write_all(&answer).expect("written");
            }
        });
        assert!(ask().is_ok());
        assert_eq!(ask(), Err(Fault::Nonsense));
        assert_eq!(ask(), Err(Fault::Nonsense));
        assert!(matches!(ask(), Err(Fault::Gone(_))));
        server.join().expect("served");
    }
}
