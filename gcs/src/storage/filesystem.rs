//! Which file system is on a device.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A file system that is known by its magic number.
struct Signature {
    name: &'static str,
    offset: usize,
    magic: &'static [u8],
    /// Mount data of every mount.
    always: &'static str,
    /// Mount data of a read-only mount, which keeps it from writing to the journal.
    read_only: &'static str,
}

/// Long magics come first, because the two bytes of ext4 can stand in the UUID of another file
/// system by chance.
const SIGNATURES: [Signature; 4] = [
    Signature {
        name: "xfs",
        offset: 0,
        magic: b"XFSB",
        // A copy has the UUID of its original, and both may be attached.
        always: "nouuid",
        read_only: "nouuid,norecovery",
    },
    Signature {
        name: "squashfs",
        offset: 0,
        magic: b"hsqs",
        always: "",
        read_only: "",
    },
    Signature {
        name: "erofs",
        offset: 1024,
        magic: &0xe0f5_e1e2_u32.to_le_bytes(),
        always: "",
        read_only: "",
    },
    Signature {
        name: "ext4",
        offset: 1024 + 56,
        magic: &0xef53_u16.to_le_bytes(),
        always: "",
        read_only: "noload",
    },
];

/// What has to be read to find any magic.
const HEAD: usize = 1024 + 58;

/// The file system on the device by its magic number; none for an unknown one.
pub fn detect(device: &Path) -> io::Result<Option<&'static str>> {
    let file = File::open(device)?;
    let mut head = [0; HEAD];
    let mut filled = 0;
    while filled < HEAD {
        match file.read_at(&mut head[filled..], filled as u64) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(SIGNATURES
        .iter()
        .find(|kind| {
            head[..filled]
                .get(kind.offset..)
                .is_some_and(|at| at.starts_with(kind.magic))
        })
        .map(|kind| kind.name))
}

/// Mount data for a file system of this type (P-243).
pub fn mount_data(kind: &str, read_only: bool) -> &'static str {
    match SIGNATURES.iter().find(|known| known.name == kind) {
        Some(known) if read_only => known.read_only,
        Some(known) => known.always,
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_are_known_by_their_magic() {
        let top = tempfile::tempdir().unwrap();
        let device = top.path().join("disk");
        for (offset, magic, expected) in [
            (0, &b"XFSB"[..], Some("xfs")),
            (0, b"hsqs", Some("squashfs")),
            (1024, &[0xe2, 0xe1, 0xf5, 0xe0], Some("erofs")),
            (1080, &[0x53, 0xef], Some("ext4")),
            (1081, &[0x53, 0xef], None),
            (0, b"XFS", None),
        ] {
            let mut bytes = vec![0; 4096];
            bytes[offset..offset + magic.len()].copy_from_slice(magic);
            std::fs::write(&device, &bytes).unwrap();
            assert_eq!(
                detect(&device).unwrap(),
                expected,
                "{magic:02x?} at {offset}"
            );
        }
        // Too short for any superblock; absent.
        std::fs::write(&device, [0; 1081]).unwrap();
        assert_eq!(detect(&device).unwrap(), None);
        assert!(detect(&top.path().join("none")).is_err());
    }

    #[test]
    fn mount_data_spares_the_journal_and_lets_copies_be_mounted() {
        for (kind, writable, read_only) in [
            ("ext4", "", "noload"),
            ("xfs", "nouuid", "nouuid,norecovery"),
            ("erofs", "", ""),
            ("squashfs", "", ""),
            ("vfat", "", ""),
        ] {
            assert_eq!(mount_data(kind, false), writable, "{kind}");
            assert_eq!(mount_data(kind, true), read_only, "{kind}, read-only");
        }
    }
}
