//! Pieces of ext4's structures on disk, as bytes.

use super::{BLOCK, GROUP};

/// Little-endian members at their offsets. Values that cannot exceed 32 bits by the limit on the
/// size come as `u64`, because all arithmetic is done in it.
pub struct RawRecord(pub Vec<u8>);

impl RawRecord {
    pub fn u16(&mut self, at: usize, value: u16) {
        self.bytes(at, &value.to_le_bytes());
    }

    pub fn u32(&mut self, at: usize, value: u64) {
        self.bytes(at, &(value as u32).to_le_bytes());
    }

    pub fn bytes(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// The block area of an inode with one extent.
pub fn extent(start: u64, blocks: u64) -> [u8; 60] {
    let mut area = RawRecord(vec![0; 60]);
    area.u16(0, 0xf30a);
    area.u16(2, 1); // extents here, of
    area.u16(4, 4);
    area.u16(16, blocks as u16);
    area.u32(20, start);
    let mut bytes = [0; 60];
    bytes.copy_from_slice(&area.0);
    bytes
}

/// A bitmap block: the first `used` bits are set, and those from `size` on.
pub fn bits(used: u64, size: u64) -> Vec<u8> {
    let mut bits = vec![0_u8; BLOCK as usize];
    for bit in (0..used).chain(size..GROUP) {
        bits[(bit / 8) as usize] |= 1 << (bit % 8);
    }
    bits
}

/// A directory block with these directories in it.
pub fn directory(names: &[(u32, &str)]) -> Vec<u8> {
    let mut block = Vec::with_capacity(BLOCK as usize);
    for (index, (inode, name)) in names.iter().enumerate() {
        let length = if index + 1 == names.len() {
            BLOCK as usize - block.len()
        } else {
            (8 + name.len()).next_multiple_of(4)
        };
        let mut entry = RawRecord(vec![0; length]);
        entry.u32(0, (*inode).into());
        entry.u16(4, length as u16);
        entry.0[6] = name.len() as u8;
        entry.0[7] = 2; // a directory
        entry.bytes(8, name.as_bytes());
        block.extend(entry.0);
    }
    block
}

/// CRC-16/ARC, continued: the checksum of group descriptors.
pub fn crc16(mut sum: u16, bytes: &[u8]) -> u16 {
    for byte in bytes {
        sum ^= u16::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 {
                sum >> 1 ^ 0xa001
            } else {
                sum >> 1
            };
        }
    }
    sum
}
