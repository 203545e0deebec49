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
    /// Mount data that keeps a read-only mount from writing to the journal.
    read_only: &'static str,
}

/// Long magics come first, because the two bytes of ext4 can stand in the UUID of another file
/// system by chance.
const SIGNATURES: [Signature; 4] = [
    Signature {
        name: "xfs",
        offset: 0,
        magic: b"XFSB",
        read_only: "norecovery",
    },
    Signature {
        name: "squashfs",
        offset: 0,
        magic: b"hsqs",
        read_only: "",
    },
    Signature {
        name: "erofs",
        offset: 1024,
        magic: &0xe0f5_e1e2_u32.to_le_bytes(),
        read_only: "",
    },
    Signature {
        name: "ext4",
        offset: 1024 + 56,
        magic: &0xef53_u16.to_le_bytes(),
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

/// Mount data for a read-only mount of this type (P-243).
pub fn read_only_data(kind: &str) -> &'static str {
    SIGNATURES
        .iter()
        .find(|known| known.name == kind)
        .map_or("", |known| known.read_only)
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
    fn only_what_writes_a_journal_needs_data_for_a_read_only_mount() {
        for (kind, expected) in [
            ("ext4", "noload"),
            ("xfs", "norecovery"),
            ("erofs", ""),
            ("squashfs", ""),
            ("vfat", ""),
        ] {
            assert_eq!(read_only_data(kind), expected, "{kind}");
        }
    }
}
