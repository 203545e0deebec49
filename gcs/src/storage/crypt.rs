//! An encrypted scratch disk (protocol section 7.7): dm-crypt over dm-integrity, with a key that is
//! made here, handed to the kernel and forgotten. Nobody can read the data after the device is
//! closed, so there is no header, no passphrase and no program for them.
//!
//! ```text
//! disk ── dm-integrity, no journal, a tag of 32 bytes per block ── dm-crypt, AES-XTS and
//!                                                                  HMAC-SHA256 ── file system
//! ```
//!
//! A block that was never written has no valid tag and cannot be read.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::mapper::{self, DmTarget, ReadOnly};
use super::{Roots, Undo};
use crate::error::Failure;
use crate::sys::dm::wipe;

const BLOCK: usize = 4096;
const SECTOR: u64 = 512;
/// AES-256 twice for XTS, and SHA-256.
const KEY: usize = 64 + 32;
/// `D` means no journal, because nobody can read the disk after a crash of the VM anyway.
const INTEGRITY: &str = "0 32 D 1 block_size:4096";
const CIPHER: &str = "capi:authenc(hmac(sha256),xts(aes))-plain64";

/// Opens the disk as the empty device `name`. Returns both mapped devices and the node of the upper
/// one.
pub fn create(
    undo: &mut Undo<'_>,
    roots: &Roots,
    name: &str,
    device: &Path,
    deadline: Instant,
) -> Result<(Vec<String>, PathBuf), Failure> {
    let failed = |what: &'static str| {
        move |error: io::Error| {
            Failure::unspecified(format!("cannot {what} the disk to be encrypted: {error}"))
        }
    };
    // As cryptsetup names the lower device.
    let below = format!("{name}_dif");
    let parameters = format!("{} {INTEGRITY}", device.display());
    let integrity = |sectors| DmTarget {
        sectors,
        kind: "integrity",
        parameters: &parameters,
    };

    // Where there is no superblock, the target makes one, which then says how much room is left.
    clear_first_block(device).map_err(failed("write to"))?;
    let least = BLOCK as u64 / SECTOR;
    mapper::create(
        undo,
        roots,
        &below,
        integrity(least),
        ReadOnly(false),
        deadline,
    )?;
    undo.step_back().map_err(failed("prepare"))?;
    let sectors = provided_sectors(device).map_err(failed("prepare"))?;
    let node = mapper::create(
        undo,
        roots,
        &below,
        integrity(sectors),
        ReadOnly(false),
        deadline,
    )?;

    let mut key = [0; KEY];
    let random = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut key));
    random.map_err(failed("make a key for"))?;
    let mut parameters = crypt_parameters(&key, &node);
    wipe(&mut key);
    let crypt = DmTarget {
        sectors,
        kind: "crypt",
        parameters: &parameters,
    };
    let made = mapper::create(undo, roots, name, crypt, ReadOnly(false), deadline);
    let mut secret = std::mem::take(&mut parameters).into_bytes();
    wipe(&mut secret);
    let node = made?;
    // The search for a file system reads the beginning.
    clear_first_block(&node).map_err(failed("write to"))?;
    Ok((vec![below, name.to_owned()], node))
}

/// It is allocated once with its final length, so that no copy of the key is left in memory.
fn crypt_parameters(key: &[u8; KEY], below: &Path) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let tail = format!(
        " 0 {} 0 2 integrity:32:aead sector_size:4096",
        below.display()
    );
    let mut text = String::with_capacity(CIPHER.len() + 1 + 2 * KEY + tail.len());
    text.push_str(CIPHER);
    text.push(' ');
    for byte in key {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text.push_str(&tail);
    text
}

fn clear_first_block(device: &Path) -> io::Result<()> {
    let file = File::options().write(true).open(device)?;
    file.write_all_at(&[0; BLOCK], 0)?;
    file.sync_all()
}

/// The member of dm-integrity's superblock (Documentation/admin-guide/device-mapper/dm-integrity).
fn provided_sectors(device: &Path) -> io::Result<u64> {
    let mut file = File::open(device)?;
    let mut head = [0; 24];
    file.read_exact_at(&mut head, 0)?;
    let size = file.seek(SeekFrom::End(0))? / SECTOR;
    let mut sectors = [0; 8];
    sectors.copy_from_slice(&head[16..]);
    let sectors = u64::from_le_bytes(sectors);
    if !head.starts_with(b"integrt\0") || sectors == 0 || sectors > size {
        return Err(io::Error::other("dm-integrity has not set it up"));
    }
    Ok(sectors)
}

#[cfg(test)]
#[path = "crypt_tests.rs"]
mod tests;
