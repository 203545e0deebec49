//! The memory that all containers together may use: what the machine has, less the reserve of
//! `-root-mem-reserve-bytes` (P-304). The host changes the machine's memory while it runs, and the
//! limit follows (P-370, P-372).

use std::fs;
use std::path::PathBuf;

use nix::sys::sysinfo::sysinfo;

use crate::error::Failure;

/// Bytes for all containers in a machine with `ram` bytes. It is never less than half of them, because
/// the default reserve is meant for machines of several hundred MiB.
#[must_use]
pub fn containers_limit(ram: u64, reserve: u64) -> u64 {
    ram.saturating_sub(reserve).max(ram / 2)
}

/// The machine's memory in bytes. Memory that was added counts once it is online.
///
/// # Errors
/// The kernel does not say.
pub fn ram() -> Result<u64, Failure> {
    let info = sysinfo();
    info.map(|info| info.ram_total())
        .map_err(|errno| Failure::unspecified(format!("reading the size of the memory: {errno}")))
}

/// The file with the limit, and what was written to it.
#[derive(Debug)]
pub struct ContainersLimit {
    file: PathBuf,
    reserve: u64,
    applied: Option<u64>,
    /// What the last attempt was about, so that a failure is not repeated every few seconds.
    tried: Option<u64>,
}

/// A limit that is to be written. It blocks while the kernel gets pages back, so it is for a task.
#[derive(Debug)]
pub struct NewLimit {
    file: PathBuf,
    bytes: u64,
}

impl ContainersLimit {
    /// The limit in `file` was written when the machine came up with `ram` bytes.
    pub fn new(file: PathBuf, ram: Option<u64>, reserve: u64) -> Self {
        let applied = ram.map(|ram| containers_limit(ram, reserve));
        Self {
            file,
            reserve,
            applied,
            tried: applied,
        }
    }

    /// What has to be written for a machine with `ram` bytes, if that is not the limit now.
    pub fn due(&mut self, ram: u64) -> Option<NewLimit> {
        let bytes = containers_limit(ram, self.reserve);
        self.tried = Some(bytes);
        (self.applied != Some(bytes)).then(|| NewLimit {
            file: self.file.clone(),
            bytes,
        })
    }

    /// The same, unless it was tried already.
    pub fn news(&mut self, ram: u64) -> Option<NewLimit> {
        let is_new = self.tried != Some(containers_limit(ram, self.reserve));
        self.due(ram).filter(|_| is_new)
    }

    /// A limit was written.
    pub fn applied(&mut self, bytes: u64) {
        self.applied = Some(bytes);
    }
}

impl NewLimit {
    /// Writes it and returns it, in bytes.
    ///
    /// # Errors
    /// The kernel refuses it, for one because the containers use more and give nothing back.
    pub fn apply(&self) -> Result<u64, Failure> {
        let (file, bytes) = (&self.file, self.bytes);
        fs::write(file, bytes.to_string())
            .map(|()| bytes)
            .map_err(|error| {
                let text = format!("writing {bytes} to {}: {error}", file.display());
                Failure::unspecified(text)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_machine_leaves_half_of_itself_to_containers() {
        for (ram, containers) in [(0, 0), (64, 32), (96, 48), (150, 75), (256, 181)] {
            let limit = containers_limit(ram << 20, 75 << 20);
            assert_eq!(limit >> 20, containers, "{ram} MiB");
        }
        assert_eq!(containers_limit(u64::MAX, 1), u64::MAX - 1);
    }

    #[test]
    fn a_limit_is_written_when_the_memory_has_changed_and_never_tried_twice_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("memory.max");
        let mut limit = ContainersLimit::new(file.clone(), Some(1000), 100);
        assert!(limit.due(1000).is_none() && limit.news(1000).is_none());
        let new = limit.news(2000).unwrap();
        assert_eq!(new.apply().unwrap(), 1900);
        assert_eq!(fs::read_to_string(&file).unwrap(), "1900");
        // It has not been told that this has succeeded.
        assert!(limit.news(2000).is_none());
        assert!(limit.due(2000).is_some());
        limit.applied(1900);
        assert!(limit.due(2000).is_none());
        assert!(limit.news(1000).is_some());

        let absent = dir.path().join("no/such/file");
        let failure = ContainersLimit::new(absent, None, 0)
            .due(5)
            .unwrap()
            .apply();
        assert!(failure.unwrap_err().message.contains("no/such/file"));
    }
}
