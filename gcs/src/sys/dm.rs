//! Device-mapper's control device. Its ioctls have one buffer: a header of 312 bytes and, for a
//! table, target specifications after it (linux/dm-ioctl.h, interface 4.0.0).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::errno::Errno;

const HEADER: usize = 312;
const TARGET: usize = 40;
/// With the NUL at their ends.
const NAME: usize = 128;
const KIND: usize = 16;

const READ_ONLY: u32 = 1;
/// The kernel clears its copy of the buffer: a table may hold a key.
const SECURE_DATA: u32 = 1 << 15;

/// Numbers of the ioctls, all of type 0xfd.
#[derive(Debug, Clone, Copy)]
enum Command {
    Create = 3,
    Remove = 4,
    /// Without the suspend flag: resume.
    Suspend = 6,
    LoadTable = 9,
}

/// What a device is made of: one target over its whole length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DmTarget<'a> {
    /// Of 512 bytes.
    pub sectors: u64,
    pub kind: &'a str,
    pub parameters: &'a str,
}

/// `/dev/mapper/control`, open.
#[derive(Debug)]
pub struct Control(File);

impl Control {
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        Ok(Self(file))
    }

    /// A device without a table. `EBUSY` when the name is taken.
    pub fn create(&self, name: &str) -> nix::Result<()> {
        self.call(Command::Create, request(name, 0, None)?)
            .map(drop)
    }

    /// Gives it its table, in force after [`Self::resume`].
    pub fn load(&self, name: &str, target: DmTarget<'_>, read_only: bool) -> nix::Result<()> {
        let flags = SECURE_DATA | if read_only { READ_ONLY } else { 0 };
        let request = request(name, flags, Some(target))?;
        self.call(Command::LoadTable, request).map(drop)
    }

    /// Puts the loaded table into use. Returns the device's number in the form of mknod(2).
    pub fn resume(&self, name: &str) -> nix::Result<u64> {
        let answer = self.call(Command::Suspend, request(name, 0, None)?)?;
        let mut number = [0; 8];
        number.copy_from_slice(&answer[40..48]);
        Ok(u64::from_ne_bytes(number))
    }

    /// `ENXIO` when there is none, `EBUSY` while it is in use.
    pub fn remove(&self, name: &str) -> nix::Result<()> {
        self.call(Command::Remove, request(name, 0, None)?)
            .map(drop)
    }

    /// The header as the kernel leaves it.
    fn call(&self, command: Command, mut buffer: Vec<u8>) -> nix::Result<[u8; HEADER]> {
        let number = nix::request_code_readwrite!(0xfd, command as u8, HEADER);
        // SAFETY: the header tells the kernel the buffer's length, beyond which it neither reads
        // nor writes, and the buffer outlives the call.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), number as _, buffer.as_mut_ptr()) };
        let result = Errno::result(result);
        let mut header = [0; HEADER];
        header.copy_from_slice(&buffer[..HEADER]);
        wipe(&mut buffer);
        result.map(|_| header)
    }
}

fn request(name: &str, flags: u32, target: Option<DmTarget<'_>>) -> nix::Result<Vec<u8>> {
    if name.len() >= NAME || name.contains(['\0', '/']) || name.is_empty() {
        return Err(Errno::EINVAL);
    }
    let table = target.map_or(Ok(0), |target| {
        if target.kind.len() >= KIND || target.parameters.contains('\0') {
            return Err(Errno::EINVAL);
        }
        Ok((TARGET + target.parameters.len() + 1).next_multiple_of(8))
    })?;
    let size = HEADER + table;
    let mut buffer = vec![0; size];
    let mut put = |at: usize, bytes: &[u8]| buffer[at..at + bytes.len()].copy_from_slice(bytes);
    let length = u32::try_from(size).map_err(|_| Errno::E2BIG)?;
    put(0, &4_u32.to_ne_bytes()); // version 4.0.0
    put(12, &length.to_ne_bytes());
    put(16, &(HEADER as u32).to_ne_bytes()); // where the targets begin
    put(28, &flags.to_ne_bytes());
    put(48, name.as_bytes());
    if let Some(target) = target {
        put(20, &1_u32.to_ne_bytes()); // targets
        put(HEADER + 8, &target.sectors.to_ne_bytes());
        put(HEADER + 20, &(table as u32).to_ne_bytes()); // where the next one would be
        put(HEADER + 24, target.kind.as_bytes());
        put(HEADER + TARGET, target.parameters.as_bytes());
    }
    Ok(buffer)
}

/// Overwrites a secret, in a way that is not optimised away.
pub fn wipe(secret: &mut [u8]) {
    // SAFETY: the slice is valid for writes of its length.
    unsafe { libc::explicit_bzero(secret.as_mut_ptr().cast(), secret.len()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn a_table_request_is_laid_out_as_the_kernel_reads_it() {
        let target = DmTarget {
            sectors: 2048,
            kind: "linear",
            parameters: "/dev/pmem1 8",
        };
        let bytes = request("name", READ_ONLY, Some(target)).unwrap();
        assert_eq!(bytes.len(), 312 + 56);
        assert_eq!((word(&bytes, 0), word(&bytes, 4)), (4, 0));
        assert_eq!(word(&bytes, 12) as usize, bytes.len());
        assert_eq!((word(&bytes, 16), word(&bytes, 20)), (312, 1));
        assert_eq!(word(&bytes, 28), READ_ONLY);
        assert_eq!(&bytes[48..53], b"name\0");
        assert_eq!(&bytes[312..328], [[0; 8], 2048_u64.to_ne_bytes()].concat());
        assert_eq!(word(&bytes, 312 + 20), 56);
        assert_eq!(&bytes[336..343], b"linear\0");
        assert_eq!(&bytes[352..365], b"/dev/pmem1 8\0");
        assert_eq!(request("name", 0, None).unwrap().len(), 312);
    }

    #[test]
    fn names_that_the_kernel_has_no_room_for_are_refused() {
        for name in ["", "a/b", "a\0b", &"n".repeat(128)] {
            assert_eq!(request(name, 0, None), Err(Errno::EINVAL), "{name:?}");
        }
        assert!(request(&"n".repeat(127), 0, None).is_ok());
    }

    #[test]
    fn a_wiped_secret_is_zero() {
        let mut secret = *b"secret";
        wipe(&mut secret);
        assert_eq!(secret, [0; 6]);
    }
}
