//! What is mounted where. PID 1 remembers disks, persistent memory and directories of the host, so
//! that a path is used once and Remove needs only the path (P-251 to P-253).
//!
//! Requests run as tasks side by side, so a path is also taken while its Add or Remove runs.

use std::collections::btree_map::Entry;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::path::mount_point;
use super::record::{MountRecord, Source};
use crate::error::Failure;

#[derive(Debug, Clone, PartialEq, Eq)]
enum MountState {
    Adding,
    Mounted(MountRecord),
    Removing(MountRecord),
}

#[derive(Debug, Default)]
pub struct MountTable(BTreeMap<PathBuf, MountState>);

impl MountTable {
    /// Before an Add: takes the path. An empty one is never recorded.
    ///
    /// # Errors
    /// Something is mounted there already, or another request is at work on it.
    pub fn begin_add(&mut self, mount_path: &str) -> Result<(), Failure> {
        let Some(path) = mount_point(mount_path)? else {
            return Ok(());
        };
        match self.0.entry(path) {
            Entry::Vacant(free) => {
                free.insert(MountState::Adding);
                Ok(())
            }
            Entry::Occupied(taken) => Err(Failure::unspecified(match taken.get() {
                MountState::Mounted(record) => {
                    format!("{mount_path} already has {}", record.source)
                }
                MountState::Adding => format!("{mount_path}: another request adds something there"),
                MountState::Removing(record) => {
                    format!("{mount_path}: {} is being removed", record.source)
                }
            })),
        }
    }

    /// After an Add: keeps its record, or frees the path when the Add has failed.
    pub fn end_add(&mut self, mount_path: &str, added: Option<MountRecord>) {
        let Ok(Some(path)) = mount_point(mount_path) else {
            return;
        };
        match added {
            Some(record) => self.0.insert(path, MountState::Mounted(record)),
            None => self.0.remove(&path),
        };
    }

    /// Before a Remove: the record of the path, if an Add has made one. A path without a
    /// record is unmounted all the same.
    ///
    /// # Errors
    /// Something writable that is not what the host names, or another request at work.
    pub fn begin_remove(
        &mut self,
        mount_path: &str,
        named: Source,
    ) -> Result<Option<MountRecord>, Failure> {
        let Some(path) = mount_point(mount_path)? else {
            return Ok(None);
        };
        let Some(state) = self.0.get_mut(&path) else {
            return Ok(None);
        };
        let record = match state {
            MountState::Mounted(record) => record.clone(),
            MountState::Adding | MountState::Removing(_) => {
                return Err(Failure::unspecified(format!(
                    "{mount_path}: another request is at work there"
                )))
            }
        };
        if !record.read_only && record.source != named {
            return Err(Failure::unspecified(format!(
                "{mount_path} has {}, not {named}",
                record.source
            )));
        }
        *state = MountState::Removing(record.clone());
        Ok(Some(record))
    }

    /// After a Remove: forgets the record, or puts it back when it is still mounted.
    pub fn end_remove(&mut self, mount_path: &str, removed: bool) {
        let Ok(Some(path)) = mount_point(mount_path) else {
            return;
        };
        match self.0.remove(&path) {
            Some(MountState::Removing(record)) if !removed => {
                self.0.insert(path, MountState::Mounted(record));
            }
            Some(MountState::Removing(_)) | None => {}
            // A Remove of a path without a record takes nothing from a later Add.
            Some(other) => {
                self.0.insert(path, other);
            }
        }
    }

    /// Mapped devices below what is mounted at such paths.
    pub fn mappings(&self, at: impl Fn(&Path) -> bool) -> Vec<String> {
        let states = self.0.iter().filter(|(path, _)| at(path));
        let records = states.filter_map(|(_, state)| match state {
            MountState::Mounted(record) => Some(&record.mappings),
            MountState::Adding | MountState::Removing(_) => None,
        });
        records.flatten().cloned().collect()
    }

    /// After what is mounted at such paths was unmounted without a Remove of its own.
    pub fn forget(&mut self, at: impl Fn(&Path) -> bool) {
        self.0
            .retain(|path, state| !at(path) || !matches!(state, MountState::Mounted(_)));
    }

    /// A line for each path, for the state dump.
    pub fn describe(&self) -> Vec<String> {
        let line = |(path, state): (&PathBuf, &MountState)| match state {
            MountState::Adding => format!("{path:?}: something is being added"),
            MountState::Mounted(record) => format!("{path:?}: {}", record.source),
            MountState::Removing(record) => format!("{path:?}: {} is being removed", record.source),
        };
        self.0.iter().map(line).collect()
    }

    /// What is mounted at the path, in whatever form it is written.
    pub fn get(&self, mount_path: &Path) -> Option<&MountRecord> {
        match self.0.get(&super::clean(mount_path).ok()?)? {
            MountState::Mounted(record) | MountState::Removing(record) => Some(record),
            MountState::Adding => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const M0: &str = "/run/mounts/scsi/m0";

    fn at(controller: u8, lun: u8, partition: u64) -> Source {
        Source::Disk {
            controller,
            lun,
            partition,
        }
    }

    fn record(lun: u8, read_only: bool) -> MountRecord {
        MountRecord {
            mount_path: Some(M0.into()),
            device: Some("/dev/sda".into()),
            filesystem: "ext4".into(),
            source: at(0, lun, 0),
            read_only,
            mappings: Vec::new(),
        }
    }

    #[test]
    fn a_path_is_used_once_however_it_is_written() {
        let mut table = MountTable::default();
        table.begin_add(M0).unwrap();
        assert!(table.begin_add(M0).is_err());
        table.end_add(M0, Some(record(1, false)));
        for again in [M0, "/run//mounts/./scsi/x/../m0/"] {
            let failure = table.begin_add(again).unwrap_err();
            assert!(failure.message.contains("LUN 1"), "{failure}");
        }
        // The first stays (P-251).
        assert_eq!(table.get(Path::new(M0)), Some(&record(1, false)));
    }

    #[test]
    fn a_failed_add_gives_the_path_free() {
        let mut table = MountTable::default();
        table.begin_add(M0).unwrap();
        table.end_add(M0, None);
        table.begin_add(M0).unwrap();
    }

    #[test]
    fn an_empty_path_is_not_recorded() {
        let mut table = MountTable::default();
        for _ in 0..2 {
            table.begin_add("").unwrap();
            table.end_add("", Some(record(1, false)));
        }
        assert_eq!(table.begin_remove("", at(0, 9, 0)), Ok(None));
        table.end_remove("", true);
        assert!(table.begin_add("relative").is_err());
    }

    #[test]
    fn what_went_without_a_remove_is_forgotten_and_nothing_else() {
        let mut table = MountTable::default();
        for (path, mappings) in [("/c/a/m0", vec!["dm-a".to_owned()]), ("/c/ab", vec![])] {
            table.begin_add(path).unwrap();
            let record = record(1, true);
            table.end_add(path, Some(MountRecord { mappings, ..record }));
        }
        table.begin_add("/c/a/m1").unwrap();
        let inside = |path: &Path| path.starts_with("/c/a");
        assert_eq!(table.mappings(inside), ["dm-a"]);
        table.forget(inside);
        assert_eq!(table.mappings(|_| true), [""; 0]);
        // Still at work there; somebody else's.
        assert!(table.begin_add("/c/a/m1").is_err());
        assert!(table.get(Path::new("/c/ab")).is_some());
        table.begin_add("/c/a/m0").unwrap();
    }

    #[test]
    fn a_failed_remove_puts_the_record_back() {
        let mut table = MountTable::default();
        table.begin_add(M0).unwrap();
        table.end_add(M0, Some(record(1, false)));
        for removed in [false, true] {
            let taken = table.begin_remove(M0, at(0, 1, 0)).unwrap();
            assert_eq!(taken, Some(record(1, false)));
            // Nobody else while it runs.
            assert!(table.begin_remove(M0, at(0, 1, 0)).is_err());
            assert!(table.begin_add(M0).is_err());
            table.end_remove(M0, removed);
        }
        assert_eq!(table.begin_remove(M0, at(0, 1, 0)), Ok(None));
        table.begin_add(M0).unwrap();
        // The end of a Remove that found no record leaves the new Add alone.
        table.end_remove(M0, true);
        assert!(table.begin_add(M0).is_err());
    }

    #[test]
    fn a_writable_disk_must_be_the_one_the_host_names() {
        for (read_only, refused) in [(false, true), (true, false)] {
            let mut table = MountTable::default();
            table.begin_add(M0).unwrap();
            table.end_add(M0, Some(record(1, read_only)));
            for other in [at(1, 1, 0), at(0, 2, 0), at(0, 1, 3), Source::Directory] {
                let taken = table.begin_remove(M0, other);
                assert_eq!(taken.is_err(), refused, "{other:?}");
                table.end_remove(M0, false);
            }
        }
    }
}
