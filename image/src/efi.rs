//! A disk that UEFI boots from: a GUID partition table with one EFI system partition (FAT32), which
//! holds files at their paths. It is made without root, and the same files give the same bytes:
//! times are FAT's first day, and the volume's serial number and all GUIDs come from the content.

use std::io::{Cursor, Read, Seek, SeekFrom, Write};

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use gptman::{GPTPartitionEntry, GPT};

use crate::vhdx::SECTOR;
use crate::{identity, sha256, Error};

/// Where firmware looks for a program on an unknown disk.
pub const BOOT_PROGRAM: &str = "EFI/BOOT/BOOTX64.EFI";
const MIB: usize = 1 << 20;
/// FAT32 has at least 65,525 clusters, and firmware need not read smaller FATs on a disk.
const SMALLEST: usize = 64 * MIB;
/// The EFI system partition's type, C12A7328-F81F-11D2-BA4B-00A0C93EC93B as it is stored.
const SYSTEM_PARTITION: [u8; 16] = [
    0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
];

/// Makes the disk. `files`: path from the root of the partition, without a leading slash, and
/// content; parents are made.
///
/// # Errors
/// A path is not one of FAT's, or the files do not fit into memory.
pub fn disk(files: &[(&str, &[u8])]) -> Result<Vec<u8>, Error> {
    let hashes: String = files
        .iter()
        .map(|(path, bytes)| format!("{path} {}\n", sha256(bytes)))
        .collect();
    let content = sha256(hashes.as_bytes());
    let partition = partition(files, &content)?;
    let id = identity("disk", &content);
    // Table, 1 MiB to align to, partition, the table again.
    let mut disk = Cursor::new(vec![0; partition.len() + 2 * MIB]);
    let failed = |error: gptman::Error| Error::Archive(format!("the partition table: {error}"));
    let mut table = GPT::new_from(&mut disk, SECTOR as u64, id).map_err(failed)?;
    let start = MIB / SECTOR;
    table[1] = GPTPartitionEntry {
        partition_type_guid: SYSTEM_PARTITION,
        unique_partition_guid: identity("partition", &content),
        starting_lba: start as u64,
        ending_lba: (start + partition.len() / SECTOR - 1) as u64,
        attribute_bits: 0,
        partition_name: "EFI system".into(),
    };
    table.write_into(&mut disk).map_err(failed)?;
    GPT::write_protective_mbr_into(&mut disk, SECTOR as u64).map_err(failed)?;
    let mut disk = disk.into_inner();
    disk[MIB..MIB + partition.len()].copy_from_slice(&partition);
    Ok(disk)
}

fn partition(files: &[(&str, &[u8])], hash: &str) -> Result<Vec<u8>, Error> {
    let failed = |doing: &str| {
        let doing = doing.to_owned();
        move |error: std::io::Error| {
            Error::Archive(format!("the EFI system partition: {doing}: {error}"))
        }
    };
    let content: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    // Its tables and directories take less than an eighth.
    let size = (content + content / 8 + MIB)
        .next_multiple_of(MIB)
        .max(SMALLEST);
    let mut serial = [0; 4];
    serial.copy_from_slice(&identity("volume", hash)[..4]);
    let mut volume = Cursor::new(vec![0; size]);
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_cluster(SECTOR as u32)
        .volume_id(u32::from_le_bytes(serial))
        .volume_label(*b"LCOW-UVM   ");
    fatfs::format_volume(&mut volume, options).map_err(failed("making it"))?;
    volume
        .seek(SeekFrom::Start(0))
        .map_err(failed("reading it"))?;
    {
        // The crate has no clock compiled in, so every time is the earliest one.
        let fs = FileSystem::new(&mut volume, FsOptions::new()).map_err(failed("reading it"))?;
        for (path, bytes) in files {
            let mut at = fs.root_dir();
            let mut parts = path.split('/').peekable();
            while let Some(part) = parts.next() {
                if parts.peek().is_some() {
                    at = at.create_dir(part).map_err(failed(path))?;
                    continue;
                }
                let mut file = at.create_file(part).map_err(failed(path))?;
                file.write_all(bytes).map_err(failed(path))?;
                file.flush().map_err(failed(path))?;
            }
        }
        fs.unmount().map_err(failed("writing its tables"))?;
    }
    Ok(volume.into_inner())
}

/// Reads one file back from a disk that [`disk`] made, as firmware would.
///
/// # Errors
/// There is no such partition or file.
pub fn read(disk: &[u8], path: &str) -> Result<Vec<u8>, Error> {
    let broken = |what: String| Error::Archive(format!("the disk: {what}"));
    let mut cursor = Cursor::new(disk);
    let table = GPT::read_from(&mut cursor, SECTOR as u64).map_err(|e| broken(e.to_string()))?;
    let entry = table
        .iter()
        .map(|(_, entry)| entry)
        .find(|entry| entry.partition_type_guid == SYSTEM_PARTITION)
        .ok_or_else(|| broken("it has no EFI system partition".into()))?;
    let range = entry.starting_lba as usize * SECTOR..(entry.ending_lba as usize + 1) * SECTOR;
    let partition = disk
        .get(range)
        .ok_or_else(|| broken("its partition lies outside".into()))?;
    let io = |error: std::io::Error| broken(format!("{path}: {error}"));
    let mut volume = Cursor::new(partition.to_vec());
    let fs =
        FileSystem::new(&mut volume, FsOptions::new().update_accessed_date(false)).map_err(io)?;
    let mut bytes = Vec::new();
    fs.root_dir()
        .open_file(path)
        .map_err(io)?
        .read_to_end(&mut bytes)
        .map_err(io)?;
    Ok(bytes)
}
