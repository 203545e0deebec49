//! The footer that makes a raw disk a fixed VHD, the format of a Windows host's boot disk.
//!
//! Source: Microsoft's "Virtual Hard Disk Image Format Specification", version 1.0: 512 bytes after
//! the data, all numbers big-endian.

/// The size is a multiple of this many bytes. Linux maps persistent memory, and some hosts take
/// disks, only in such pieces.
pub const ALIGNMENT: u64 = 2 << 20;
pub const FOOTER: usize = 512;
/// 2000-01-01 UTC, the format's zero, in seconds since 1970.
const ZERO: u64 = 946_684_800;
/// Readers take the size from the geometry unless the disk is of a program that is known to write
/// the size itself; Hyper-V is.
const CREATOR: &[u8] = b"win ";
const SECTOR: u64 = 512;

/// The footer of a disk of `size` bytes, made at `epoch` (seconds since 1970).
pub fn footer(size: u64, epoch: u32, id: [u8; 16]) -> [u8; FOOTER] {
    let (cylinders, heads, sectors) = geometry(size / SECTOR);
    let made = u64::from(epoch).saturating_sub(ZERO) as u32;
    let mut footer = [0; FOOTER];
    for (at, bytes) in [
        (0, &b"conectix"[..]),
        // Reserved, always set.
        (8, &2_u32.to_be_bytes()),
        (12, &0x0001_0000_u32.to_be_bytes()),
        // A fixed disk has no header elsewhere.
        (16, &u64::MAX.to_be_bytes()),
        (24, &made.to_be_bytes()),
        (28, CREATOR),
        (32, &0x000a_0000_u32.to_be_bytes()),
        (36, b"Wi2k"),
        (40, &size.to_be_bytes()),
        (48, &size.to_be_bytes()),
        (56, &cylinders.to_be_bytes()),
        (58, &[heads, sectors]),
        // Fixed.
        (60, &2_u32.to_be_bytes()),
        (68, &id),
    ] {
        footer[at..at + bytes.len()].copy_from_slice(bytes);
    }
    let checksum = !footer.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    footer[64..68].copy_from_slice(&checksum.to_be_bytes());
    footer
}

/// Cylinders, heads and sectors per track, as the specification's appendix counts them.
fn geometry(sectors: u64) -> (u16, u8, u8) {
    let total = sectors.min(65_535 * 16 * 255);
    let (per_track, heads, tracks);
    if total >= 65_535 * 16 * 63 {
        (per_track, heads, tracks) = (255, 16, total / 255);
    } else {
        let mut guess = (17, (total / 17).div_ceil(1024).max(4), total / 17);
        if guess.2 >= guess.1 * 1024 || guess.1 > 16 {
            guess = (31, 16, total / 31);
        }
        if guess.2 >= guess.1 * 1024 {
            guess = (63, 16, total / 63);
        }
        (per_track, heads, tracks) = guess;
    }
    // All within their types: at most 65,535 cylinders, 16 heads and 255 sectors.
    ((tracks / heads) as u16, heads as u8, per_track as u8)
}

/// Makes a disk of the data: zeros to whole pieces, then the footer.
pub fn fixed(mut data: Vec<u8>, epoch: u32, id: [u8; 16]) -> Vec<u8> {
    let size = (data.len() as u64).next_multiple_of(ALIGNMENT);
    data.resize(size as usize, 0);
    data.extend(footer(size, epoch, id));
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_geometry_of_the_specification() {
        // qemu-img has the same, except for one cylinder more when the size is no whole number of
        // cylinders.
        for (mib, want) in [(5, (150, 4, 17)), (16, (481, 4, 17)), (127, (1019, 15, 17))] {
            let (cylinders, heads, sectors) = geometry(mib * 2048);
            assert_eq!((cylinders, heads, sectors), want, "{mib} MiB");
        }
        assert_eq!(geometry(u64::MAX), (65_535, 16, 255));
    }

    #[test]
    fn the_checksum_is_over_everything_else() {
        let mut disk = fixed(vec![1; 5000], 1_700_000_000, [7; 16]);
        assert_eq!(disk.len(), (2 << 20) + FOOTER);
        let footer = disk.split_off(2 << 20);
        let sum = footer.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        let stored = u32::from_be_bytes(footer[64..68].try_into().unwrap());
        let own: u32 = footer[64..68].iter().map(|byte| u32::from(*byte)).sum();
        assert_eq!(stored, !(sum - own));
        assert_eq!(&footer[..8], b"conectix");
        assert_eq!(
            footer[24..28],
            (1_700_000_000_u32 - 946_684_800).to_be_bytes()
        );
    }
}
