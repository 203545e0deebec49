//! The log says when memory runs out (P-305). It names processes that the kernel has killed for it,
//! with the cgroup that was at its limit, and says when the service is over its threshold
//! (`-gcs-mem-limit-bytes`).
//!
//! The cgroups are read from time to time, and before a container's cgroup goes away. Their files
//! are counters, so nothing is missed between two reads.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between two looks.
pub const EVERY: Duration = Duration::from_secs(2);
const MOUNT: &str = "/sys/fs/cgroup";
const CONTAINERS: &str = "/containers";
const SERVICE: &str = "/gcs";
/// The most cgroups that are reported one by one, so that a look is short. Kills in others count
/// for `/containers`, as far as the kernel counts them.
const MOST_GROUPS: usize = 256;

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Shortage {
    /// The kernel killed that many processes of a group, since the last look.
    Kills {
        group: String,
        times: u64,
        limit: Limit,
    },
    /// The service went over its threshold and uses that many bytes.
    Service { usage: u64 },
}

/// The limit that was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Limit {
    Group(String),
    Vm,
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Group(group) => write!(f, "{group} is at its limit"),
            Self::Vm => f.write_str("the VM has none left"),
        }
    }
}

/// Counters of one group. They only grow, while it is the same group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counts {
    /// Of the directory: another group of the same name counts from 0 again.
    inode: u64,
    kills: u64,
    /// How often its own limit was reached.
    hits: u64,
}

impl Counts {
    /// What came since `before`.
    fn since(self, before: Option<&Self>) -> Self {
        let same = before.filter(|before| before.inode == self.inode);
        let before = same.copied().unwrap_or_default();
        Self {
            inode: self.inode,
            kills: self.kills.saturating_sub(before.kills),
            hits: self.hits.saturating_sub(before.hits),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// Looks at the memory of `/containers`, what is below, and `/gcs`.
#[derive(Debug)]
pub struct Watch {
    version: Version,
    /// Where the groups with the memory's files are.
    root: PathBuf,
    threshold: u64,
    /// The service was over its threshold at the last look.
    is_over: bool,
    seen: HashMap<String, Counts>,
}

impl Watch {
    /// `threshold`: the bytes that the service may use before a record says so.
    pub fn new(threshold: u64) -> Self {
        Self::of(Path::new(MOUNT), threshold)
    }

    /// The file with the limit of all containers together.
    pub fn limit_file(&self) -> PathBuf {
        let file = match self.version {
            Version::V1 => "memory.limit_in_bytes",
            Version::V2 => "memory.max",
        };
        self.root.join(&CONTAINERS[1..]).join(file)
    }

    fn of(mount: &Path, threshold: u64) -> Self {
        let (version, root) = if mount.join("cgroup.controllers").exists() {
            (Version::V2, mount.to_owned())
        } else {
            (Version::V1, mount.join("memory"))
        };
        let mut watch = Self {
            version,
            root,
            threshold,
            is_over: false,
            seen: HashMap::new(),
        };
        // What was before is not news.
        watch.kills();
        watch
    }

    /// Looks, and logs what is new.
    pub fn look(&mut self) {
        for shortage in self.shortages() {
            match shortage {
                Shortage::Kills {
                    group,
                    times,
                    limit,
                } => log::warn!(
                    group = group, times = times;
                    "out of memory: {limit}; the kernel killed processes of {group}"
                ),
                Shortage::Service { usage } => log::warn!(
                    group = SERVICE, usage = usage, threshold = self.threshold;
                    "the service uses more memory than its threshold"
                ),
            }
        }
    }

    fn shortages(&mut self) -> Vec<Shortage> {
        let mut found = self.kills();
        let usage = self.read(
            SERVICE,
            match self.version {
                Version::V1 => "memory.usage_in_bytes",
                Version::V2 => "memory.current",
            },
        );
        let usage: Option<u64> = usage.and_then(|text| text.trim().parse().ok());
        let over = usage.filter(|usage| *usage > self.threshold);
        if let (Some(usage), false) = (over, self.is_over) {
            found.push(Shortage::Service { usage });
        }
        self.is_over = over.is_some();
        found
    }

    fn kills(&mut self) -> Vec<Shortage> {
        let (all, service) = (self.news(CONTAINERS), self.news(SERVICE));
        let mut found = Vec::new();
        let limit = |group: &str, own: Counts| match (own.hits, all.hits) {
            (0, 0) => Limit::Vm,
            (0, _) => Limit::Group(CONTAINERS.into()),
            _ => Limit::Group(group.to_owned()),
        };
        let mut left = all.kills;
        // In v2 the counters of a group are also those of the groups below: without news there,
        // there is none here.
        if self.version == Version::V1 || left > 0 {
            let groups = self.below();
            self.seen.retain(|group, _| {
                matches!(group.as_str(), CONTAINERS | SERVICE) || groups.contains(group)
            });
            for group in groups {
                let own = self.news(&group);
                left = left.saturating_sub(own.kills);
                if own.kills > 0 {
                    found.push(Shortage::Kills {
                        limit: limit(&group, own),
                        times: own.kills,
                        group,
                    });
                }
            }
        }
        // Kills in cgroups that are gone, or that were not read one by one.
        if left > 0 {
            found.push(Shortage::Kills {
                group: CONTAINERS.into(),
                times: left,
                limit: limit(CONTAINERS, all),
            });
        }
        if service.kills > 0 {
            found.push(Shortage::Kills {
                group: SERVICE.into(),
                times: service.kills,
                // It has no limit of its own.
                limit: Limit::Vm,
            });
        }
        found
    }

    /// The groups below `/containers`, one per container.
    fn below(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(&CONTAINERS[1..]));
        let entries = entries.into_iter().flatten().flatten();
        let groups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let names = groups.filter_map(|entry| entry.file_name().into_string().ok());
        let paths = names.map(|name| format!("{CONTAINERS}/{name}"));
        paths.take(MOST_GROUPS).collect()
    }

    /// What a group counted since the last call; nothing for one that is not there.
    fn news(&mut self, group: &str) -> Counts {
        let now = self.counts(group).unwrap_or_default();
        let before = self.seen.insert(group.to_owned(), now);
        now.since(before.as_ref())
    }

    fn counts(&self, group: &str) -> Option<Counts> {
        let directory = self.root.join(&group[1..]);
        let inode = fs::metadata(directory).ok()?.ino();
        let of = |text: &str, name: &str| -> Option<u64> {
            let mut lines = text.lines().map(str::split_whitespace);
            let mut line =
                lines.find_map(|mut line| (line.next() == Some(name)).then_some(line))?;
            line.next()?.parse().ok()
        };
        Some(match self.version {
            Version::V1 => Counts {
                inode,
                kills: of(&self.read(group, "memory.oom_control")?, "oom_kill")?,
                hits: self.read(group, "memory.failcnt")?.trim().parse().ok()?,
            },
            Version::V2 => {
                let events = self.read(group, "memory.events")?;
                Counts {
                    inode,
                    kills: of(&events, "oom_kill")?,
                    hits: match group {
                        // Its own limit alone, not that of a container.
                        CONTAINERS => of(&self.read(group, "memory.events.local")?, "oom")?,
                        _ => of(&events, "oom")?,
                    },
                }
            }
        })
    }

    fn read(&self, group: &str, file: &str) -> Option<String> {
        fs::read_to_string(self.root.join(&group[1..]).join(file)).ok()
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
