//! Memory that runs out is told in the log (P-305): processes of containers that the kernel
//! killed for it, and the service being over its threshold (`-gcs-mem-limit-bytes`).
//!
//! The groups are looked at now and then. What is looked at are counters, so nothing is missed
//! between two looks.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};

const EVERY: Duration = Duration::from_secs(2);
const MOUNT: &str = "/sys/fs/cgroup";

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// Containers had no memory left that many times since the last look.
    Containers { times: u64 },
    /// The service went over its threshold and uses that many bytes.
    Service { usage: u64 },
}

/// What counts the times that `/containers` was out of memory.
#[derive(Debug)]
enum Counter {
    /// v2: `oom_kill` of this file, which counts the groups below as well.
    File { path: PathBuf, before: Option<u64> },
    /// v1: its files count each group alone, but the kernel tells a descriptor (cgroup-v1
    /// memory.rst, 10. OOM Control). It lives as long as the file that it was made for.
    Event { event: EventFd, _file: File },
    /// A kernel without such a group.
    None,
}

impl Counter {
    fn v2(path: PathBuf) -> Self {
        let before = kills(&path);
        Self::File { path, before }
    }

    fn v1(group: &Path) -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let file = File::open(group.join("memory.oom_control"))?;
        let order = format!("{} {}", event.as_raw_fd(), file.as_raw_fd());
        fs::write(group.join("cgroup.event_control"), order)?;
        Ok(Self::Event { event, _file: file })
    }

    /// Times since the last call.
    fn more(&mut self) -> u64 {
        match self {
            Self::File { path, before } => {
                let now = kills(path);
                let more = now
                    .zip(*before)
                    .map_or(0, |(now, before)| now.saturating_sub(before));
                *before = now;
                more
            }
            // Nothing to read is no event.
            Self::Event { event, .. } => event.read().unwrap_or(0),
            Self::None => 0,
        }
    }
}

fn kills(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line?.trim().parse().ok()
}

/// Looks at the memory of `/containers` and `/gcs`.
#[derive(Debug)]
pub struct Watch {
    containers: Counter,
    usage: PathBuf,
    threshold: u64,
    /// The service was over its threshold at the last look.
    is_over: bool,
    next: Instant,
}

impl Watch {
    /// `threshold`: bytes that the service may use before it is told.
    pub fn new(threshold: u64) -> Self {
        Self::of(Path::new(MOUNT), threshold)
    }

    fn of(mount: &Path, threshold: u64) -> Self {
        let v1 = mount.join("memory");
        let (containers, usage) = if mount.join("cgroup.controllers").exists() {
            let events = mount.join("containers/memory.events");
            (Ok(Counter::v2(events)), mount.join("gcs/memory.current"))
        } else {
            let usage = v1.join("gcs/memory.usage_in_bytes");
            (Counter::v1(&v1.join("containers")), usage)
        };
        let containers = containers.unwrap_or_else(|error| {
            log::warn!("containers out of memory will not be told: {error}");
            Counter::None
        });
        Self {
            containers,
            usage,
            threshold,
            is_over: false,
            next: Instant::now(),
        }
    }

    /// When the next look is due.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Looks, if it is time, and logs what is new.
    pub fn on_time(&mut self, now: Instant) {
        if now < self.next {
            return;
        }
        self.next = now + EVERY;
        for shortage in self.look() {
            match shortage {
                Shortage::Containers { times } => log::warn!(
                    group = "/containers", times = times;
                    "out of memory: the kernel kills processes of containers"
                ),
                Shortage::Service { usage } => log::warn!(
                    group = "/gcs", usage = usage, threshold = self.threshold;
                    "the service uses more memory than its threshold"
                ),
            }
        }
    }

    fn look(&mut self) -> Vec<Shortage> {
        let mut found = Vec::new();
        match self.containers.more() {
            0 => {}
            times => found.push(Shortage::Containers { times }),
        }
        let usage = fs::read_to_string(&self.usage).ok();
        let usage: Option<u64> = usage.and_then(|text| text.trim().parse().ok());
        let over = usage.filter(|usage| *usage > self.threshold);
        if let (Some(usage), false) = (over, self.is_over) {
            found.push(Shortage::Service { usage });
        }
        self.is_over = over.is_some();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(at: &Path, text: &str) {
        fs::create_dir_all(at.parent().expect("a directory")).expect("made");
        fs::write(at, text).expect("written");
    }

    #[test]
    fn kills_and_a_crossed_threshold_are_told_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        put(&at("cgroup.controllers"), "memory\n");
        let (kills, usage) = (at("containers/memory.events"), at("gcs/memory.current"));
        put(&kills, "oom 3\noom_kill 3\noom_group_kill 9\n");
        put(&usage, "100\n");
        let mut watch = Watch::of(dir.path(), 100);
        assert_eq!(watch.look(), []);
        put(&kills, "low 0\noom_kill 5\n");
        put(&usage, "101\n");
        let told = [
            Shortage::Containers { times: 2 },
            Shortage::Service { usage: 101 },
        ];
        assert_eq!(watch.look(), told);
        assert_eq!(watch.look(), []);
        put(&usage, "99\n");
        assert_eq!(watch.look(), []);
        put(&usage, "102\n");
        assert_eq!(watch.look(), [Shortage::Service { usage: 102 }]);
    }

    #[test]
    fn v1_is_told_by_a_descriptor() {
        let dir = tempfile::tempdir().expect("a directory");
        let group = dir.path().join("memory/containers");
        put(&group.join("memory.oom_control"), "oom_kill 1\n");
        let mut watch = Watch::of(dir.path(), 100);
        let order = fs::read_to_string(group.join("cgroup.event_control")).expect("written");
        let Counter::Event { event, _file } = &watch.containers else {
            panic!("{:?}", watch.containers)
        };
        let fds = format!("{} {}", event.as_raw_fd(), _file.as_raw_fd());
        assert_eq!(order, fds);
        event.write(3).expect("told");
        assert_eq!(watch.look(), [Shortage::Containers { times: 3 }]);
        assert_eq!(watch.look(), []);
    }

    #[test]
    fn missing_files_are_no_shortage() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(Watch::of(dir.path(), 1).look(), []);
        put(&dir.path().join("cgroup.controllers"), "");
        let mut watch = Watch::of(dir.path(), 1);
        put(&dir.path().join("containers/memory.events"), "oom_kill 7\n");
        assert_eq!(watch.look(), [], "what was before is not news");
    }
}
