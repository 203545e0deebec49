//! An initrd that leaves room for the ACPI tables of microvm.
//!
//! QEMU puts the initrd at the first page boundary from which it still fits below the end of
//! memory, and the firmware of microvm (qboot) puts the ACPI tables at the very end. Nobody looks
//! whether the two overlap: when the last page of the initrd is nearly full, it overwrites the
//! tables, and the kernel takes minutes to add up a table of the length "0000".

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::Path;

use crate::profile::{Machine, Profile};

/// x86's, which QEMU aligns the initrd to.
const PAGE: u64 = 4096;

/// What an initrd may use of its last page. A machine with all its virtio devices has 1 KiB of
/// tables.
const LAST_PAGE: u64 = 1024;

/// A copy of the profile's initrd that ends early in its last page, when the machine needs one.
/// The copy has no name, so nothing of it stays. A kernel passes over zeros after an archive.
pub fn with_room_for_tables(profile: &Profile) -> io::Result<Option<File>> {
    match profile.initrd() {
        Some(initrd) if profile.machine == Machine::Microvm => padded(initrd),
        _ => Ok(None),
    }
}

fn padded(initrd: &Path) -> io::Result<Option<File>> {
    let mut from = File::open(initrd)?;
    let size = from.metadata()?.len();
    if (1..=LAST_PAGE).contains(&(size % PAGE)) {
        return Ok(None);
    }
    let mut copy = tempfile::tempfile()?;
    io::copy(&mut from, &mut copy)?;
    // One byte of a further page.
    copy.set_len(size.next_multiple_of(PAGE) + 1)?;
    copy.seek(SeekFrom::Start(0))?;
    Ok(Some(copy))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn size_given(size: u64) -> Option<u64> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![7; usize::try_from(size).unwrap()]).unwrap();
        let mut copy = padded(file.path()).unwrap()?;
        let mut bytes = Vec::new();
        copy.read_to_end(&mut bytes).unwrap();
        let (given, zeros) = bytes.split_at(usize::try_from(size).unwrap());
        assert!(given.iter().all(|b| *b == 7) && zeros.iter().all(|b| *b == 0));
        Some(bytes.len() as u64)
    }

    /// 0xde0 bytes in the last page kept a VM from booting with QEMU 10.0.
    #[test]
    fn an_initrd_ends_early_in_its_last_page() {
        for (size, given) in [
            (8192 + 0xde0, Some(3 * 4096 + 1)),
            (8192, Some(8193)),
            (8193, None),
            (8192 + 1024, None),
            (8192 + 1025, Some(3 * 4096 + 1)),
        ] {
            assert_eq!(size_given(size), given, "{size}");
        }
    }

    #[test]
    fn only_microvm_needs_it() {
        let mut profile = Profile::new("/k", Some("/does/not/exist".into()));
        assert!(with_room_for_tables(&profile).unwrap().is_none());
        profile.machine = Machine::Microvm;
        with_room_for_tables(&profile).unwrap_err();
    }
}
