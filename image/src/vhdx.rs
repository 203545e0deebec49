//! A disk as a VHDX file, the format of Hyper-V's own disks ([MS-VHDX] 2.x, whose names are used).
//!
//! ```text
//! 0      file identifier │ 64 KiB, 128 KiB headers │ 192 KiB, 256 KiB region tables
//! 1 MiB  log, empty
//! 2 MiB  metadata: block size, disk size, identity, sectors
//! 3 MiB  block allocation table
//! 4 MiB  the blocks that hold anything but zeros
//! ```
//!
//! The file is dynamic, so empty parts take no room. All of its identifiers come from the content,
//! so the same disk gives the same file.

use crate::{identity, sha256};

const MIB: usize = 1 << 20;
/// The smallest that the format has.
const BLOCK: usize = MIB;
pub const SECTOR: usize = 512;
/// The usual size of today's disks, to which systems align.
const PHYSICAL_SECTOR: u32 = 4096;
const LOG: usize = MIB;
const METADATA: usize = 2 * MIB;
const TABLE: usize = 3 * MIB;
/// The number of blocks that one block of sector bitmaps is about. The table has a place after as
/// many.
const CHUNK: usize = (1 << 23) * SECTOR / BLOCK;
/// States of a block in the allocation table.
const ZERO: u64 = 2;
const PRESENT: u64 = 6;

/// Flags of a metadata item.
const OF_DISK: u32 = 2;
const REQUIRED: u32 = 4;

/// Wraps a disk image. It is filled up with zeros to whole MiB.
pub fn wrap(disk: &[u8]) -> Vec<u8> {
    let blocks: Vec<&[u8]> = disk.chunks(BLOCK).collect();
    let size = (blocks.len() * BLOCK) as u64;
    let hash = sha256(disk);
    let table = table(&blocks);
    let table_room = (table.len() * 8).next_multiple_of(MIB).max(MIB);

    let mut file = vec![0; TABLE + table_room];
    file[..8].copy_from_slice(b"vhdxfile");
    let creator: Vec<u8> = "lcow-uvm"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    file[8..8 + creator.len()].copy_from_slice(&creator);
    for (copy, at) in [(0, 64 << 10), (1, 128 << 10)] {
        seal(&mut file[at..at + 4096], &header(&hash, copy));
    }
    for at in [192 << 10, 256 << 10] {
        seal(&mut file[at..at + (64 << 10)], &regions(table_room));
    }
    metadata(&mut file[METADATA..TABLE], &hash, size);
    for (index, entry) in table.iter().enumerate() {
        let at = TABLE + index * 8;
        file[at..at + 8].copy_from_slice(&entry.to_le_bytes());
    }
    for block in blocks.iter().filter(|block| !empty(block)) {
        file.extend_from_slice(block);
        file.resize(file.len().next_multiple_of(BLOCK), 0);
    }
    file
}

fn empty(block: &[u8]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

/// The block allocation table: state in the low bits, place in MiB from bit 20 on.
fn table(blocks: &[&[u8]]) -> Vec<u64> {
    let entries = blocks.len() + blocks.len().saturating_sub(1) / CHUNK;
    let room = (entries * 8).next_multiple_of(MIB).max(MIB);
    let mut next = ((TABLE + room) / MIB) as u64;
    let mut table = Vec::with_capacity(entries);
    for (index, block) in blocks.iter().enumerate() {
        if index > 0 && index % CHUNK == 0 {
            // No bitmap: only disks that differ from another one have them.
            table.push(0);
        }
        if empty(block) {
            table.push(ZERO);
        } else {
            table.push(next << 20 | PRESENT);
            next += 1;
        }
    }
    table
}

/// Of the two headers the one with the higher sequence number counts.
fn header(hash: &str, sequence: u64) -> Vec<u8> {
    let mut header = b"head\0\0\0\0".to_vec();
    header.extend_from_slice(&sequence.to_le_bytes());
    header.extend_from_slice(&identity("vhdx file", hash));
    header.extend_from_slice(&identity("vhdx data", hash));
    // No log to replay, whose version is 0; then the version of the format.
    header.extend_from_slice(&[0; 16]);
    header.extend_from_slice(&0_u16.to_le_bytes());
    header.extend_from_slice(&1_u16.to_le_bytes());
    header.extend_from_slice(&(MIB as u32).to_le_bytes());
    header.extend_from_slice(&(LOG as u64).to_le_bytes());
    header
}

fn regions(table_room: usize) -> Vec<u8> {
    let mut table = b"regi\0\0\0\0".to_vec();
    table.extend_from_slice(&2_u32.to_le_bytes());
    table.extend_from_slice(&0_u32.to_le_bytes());
    let rows = [
        (0x2dc2_7766_f623_4200_9d64_115e_9bfd_4a08, TABLE, table_room),
        (0x8b7c_a206_4790_4b9a_b8fe_575f_050f_886e, METADATA, MIB),
    ];
    for (id, at, length) in rows {
        table.extend_from_slice(&guid(id));
        table.extend_from_slice(&(at as u64).to_le_bytes());
        table.extend_from_slice(&(length as u32).to_le_bytes());
        table.extend_from_slice(&1_u32.to_le_bytes());
    }
    table
}

fn metadata(region: &mut [u8], hash: &str, size: u64) {
    // Block size, and two flags that are off: keep empty blocks, depend on another disk.
    let parameters = [(BLOCK as u32).to_le_bytes(), [0; 4]].concat();
    let items: [(u128, u32, Vec<u8>); 5] = [
        (
            0xcaa1_6737_fa36_4d43_b3b6_33f0_aa44_e76b,
            REQUIRED,
            parameters,
        ),
        (
            0x2fa5_4224_cd1b_4876_b211_5dbe_d83b_f4b8,
            REQUIRED | OF_DISK,
            size.to_le_bytes().to_vec(),
        ),
        (
            0xbeca_12ab_b2e6_4523_93ef_c309_e000_c746,
            REQUIRED | OF_DISK,
            identity("vhdx disk", hash).to_vec(),
        ),
        (
            0x8141_bf1d_a96f_4709_ba47_f233_a8fa_ab5f,
            REQUIRED | OF_DISK,
            (SECTOR as u32).to_le_bytes().to_vec(),
        ),
        (
            0xcda3_48c7_445d_4471_9cc9_e988_5251_c556,
            REQUIRED | OF_DISK,
            PHYSICAL_SECTOR.to_le_bytes().to_vec(),
        ),
    ];
    region[..8].copy_from_slice(b"metadata");
    region[10..12].copy_from_slice(&(items.len() as u16).to_le_bytes());
    let mut at = 64 << 10;
    for (index, (id, flags, value)) in items.iter().enumerate() {
        let mut row = guid(*id).to_vec();
        for field in [at as u32, value.len() as u32, *flags] {
            row.extend_from_slice(&field.to_le_bytes());
        }
        let place = 32 * (index + 1);
        region[place..place + row.len()].copy_from_slice(&row);
        region[at..at + value.len()].copy_from_slice(value);
        at += value.len();
    }
}

/// Fills a structure whose checksum, CRC-32C over the whole of it, is at byte 4.
fn seal(place: &mut [u8], content: &[u8]) {
    place[..content.len()].copy_from_slice(content);
    let sum = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(place);
    place[4..8].copy_from_slice(&sum.to_le_bytes());
}

/// A GUID as it is stored: the first three groups of its digits turned round.
fn guid(written: u128) -> [u8; 16] {
    let mut bytes = written.to_be_bytes();
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_each_chunk_of_blocks_the_table_has_a_place_for_a_bitmap() {
        let mut blocks = vec![&[0_u8][..]; 2 * CHUNK + 1];
        for index in [0, CHUNK - 1, CHUNK, 2 * CHUNK] {
            blocks[index] = &[1];
        }
        let table = table(&blocks);
        assert_eq!(table.len(), blocks.len() + 2);
        let present: Vec<(usize, u64)> = (0..)
            .zip(table.iter().copied())
            .filter(|(_, e)| e & 7 == PRESENT)
            .collect();
        let at = |place: u64| place << 20 | PRESENT;
        // The first block lies after the table, and the others follow.
        assert_eq!(
            present,
            [
                (0, at(4)),
                (CHUNK - 1, at(5)),
                (CHUNK + 1, at(6)),
                (2 * CHUNK + 2, at(7))
            ]
        );
        assert_eq!((table[CHUNK], table[2 * CHUNK + 1]), (0, 0));
        assert_eq!(table[1], ZERO);
    }
}
