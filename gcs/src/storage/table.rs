//! Which disks are mounted where: the memory of PID 1 about MappedVirtualDisk requests, so
//! that a path is used once and Remove needs nothing but the path (P-251 to P-253).
//!
//! Requests run as tasks while others go on, so a path is also taken while its Add or Remove
//! runs.

use std::collections::btree_map::Entry;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::disk::{mount_point, Record};
use crate::error::Failure;

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Adding,
    Mounted(Record),
    Removing(Record),
}

#[derive(Debug, Default)]
pub struct DiskTable(BTreeMap<PathBuf, State>);

impl DiskTable {
    /// Before an Add: takes the path. An empty one is never recorded.
    ///
    /// # Errors
    /// The path has a disk already, or another request is at work on it.
    pub fn begin_add(&mut self, mount_path: &str) -> Result<(), Failure> {
        let Some(path) = mount_point(mount_path)? else {
            return Ok(());
        };
        match self.0.entry(path) {
            Entry::Vacant(free) => {
                free.insert(State::Adding);
                Ok(())
            }
            Entry::Occupied(taken) => Err(Failure::unspecified(match taken.get() {
                State::Mounted(record) => format!(
                    "{mount_path} already has the disk at controller {} LUN {}",
                    record.controller, record.lun
                ),
                State::Adding => format!("{mount_path}: another disk is being added there"),
                State::Removing(_) => format!("{mount_path}: the disk there is being removed"),
            })),
        }
    }

    /// After an Add: keeps its record, or gives the path free again when it failed.
    pub fn end_add(&mut self, mount_path: &str, added: Option<Record>) {
        let Ok(Some(path)) = mount_point(mount_path) else {
            return;
        };
        match added {
            Some(record) => self.0.insert(path, State::Mounted(record)),
            None => self.0.remove(&path),
        };
    }

    /// Before a Remove: the record of the path, if an Add has made one. A path without a
    /// record is unmounted all the same.
    ///
    /// # Errors
    /// A writable disk that is not the one the host names, or another request at work.
    pub fn begin_remove(
        &mut self,
        mount_path: &str,
        (controller, lun, partition): (u8, u8, u64),
    ) -> Result<Option<Record>, Failure> {
        let Some(path) = mount_point(mount_path)? else {
            return Ok(None);
        };
        let Some(state) = self.0.get_mut(&path) else {
            return Ok(None);
        };
        let record = match state {
            State::Mounted(record) => record.clone(),
            State::Adding | State::Removing(_) => {
                return Err(Failure::unspecified(format!(
                    "{mount_path}: another request is at work there"
                )))
            }
        };
        let recorded = (record.controller, record.lun, record.partition);
        if !record.read_only && recorded != (controller, lun, partition) {
            return Err(Failure::unspecified(format!(
                "{mount_path} has the disk at controller {} LUN {} partition {}, not the one at \
                 controller {controller} LUN {lun} partition {partition}",
                record.controller, record.lun, record.partition
            )));
        }
        *state = State::Removing(record.clone());
        Ok(Some(record))
    }

    /// After a Remove: forgets the record, or puts it back when the disk is still mounted.
    pub fn end_remove(&mut self, mount_path: &str, removed: bool) {
        let Ok(Some(path)) = mount_point(mount_path) else {
            return;
        };
        match self.0.remove(&path) {
            Some(State::Removing(record)) if !removed => {
                self.0.insert(path, State::Mounted(record));
            }
            Some(State::Removing(_)) | None => {}
            // A Remove of a path without a record takes nothing from a later Add.
            Some(other) => {
                self.0.insert(path, other);
            }
        }
    }

    /// The disk mounted at the path, in whatever form it is written.
    pub fn get(&self, mount_path: &Path) -> Option<&Record> {
        match self.0.get(&super::clean(mount_path).ok()?)? {
            State::Mounted(record) | State::Removing(record) => Some(record),
            State::Adding => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const M0: &str = "/run/mounts/scsi/m0";

    fn record(lun: u8, read_only: bool) -> Record {
        Record {
            mount_path: Some(M0.into()),
            device: Some("/dev/sda".into()),
            filesystem: "ext4".into(),
            controller: 0,
            lun,
            partition: 0,
            read_only,
        }
    }

    #[test]
    fn a_path_is_used_once_however_it_is_written() {
        let mut table = DiskTable::default();
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
        let mut table = DiskTable::default();
        table.begin_add(M0).unwrap();
        table.end_add(M0, None);
        table.begin_add(M0).unwrap();
    }

    #[test]
    fn an_empty_path_is_not_recorded() {
        let mut table = DiskTable::default();
        for _ in 0..2 {
            table.begin_add("").unwrap();
            table.end_add("", Some(record(1, false)));
        }
        assert_eq!(table.begin_remove("", (0, 9, 0)), Ok(None));
        table.end_remove("", true);
        assert!(table.begin_add("relative").is_err());
    }

    #[test]
    fn a_failed_remove_puts_the_record_back() {
        let mut table = DiskTable::default();
        table.begin_add(M0).unwrap();
        table.end_add(M0, Some(record(1, false)));
        for removed in [false, true] {
            let taken = table.begin_remove(M0, (0, 1, 0)).unwrap();
            assert_eq!(taken, Some(record(1, false)));
            // Nobody else while it runs.
            assert!(table.begin_remove(M0, (0, 1, 0)).is_err());
            assert!(table.begin_add(M0).is_err());
            table.end_remove(M0, removed);
        }
        assert_eq!(table.begin_remove(M0, (0, 1, 0)), Ok(None));
        table.begin_add(M0).unwrap();
        // The end of a Remove that found no record leaves the new Add alone.
        table.end_remove(M0, true);
        assert!(table.begin_add(M0).is_err());
    }

    #[test]
    fn a_writable_disk_must_be_the_one_the_host_names() {
        for (read_only, refused) in [(false, true), (true, false)] {
            let mut table = DiskTable::default();
            table.begin_add(M0).unwrap();
            table.end_add(M0, Some(record(1, read_only)));
            for other in [(1, 1, 0), (0, 2, 0), (0, 1, 3)] {
                let taken = table.begin_remove(M0, other);
                assert_eq!(taken.is_err(), refused, "{other:?}");
                table.end_remove(M0, false);
            }
        }
    }
}
