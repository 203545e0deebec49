//! What a file is beside its contents.

use std::collections::BTreeMap;

/// What is wrong with a path or an entry; the caller puts the archive's name before it.
pub type Why = String;

/// A point in time, as of 1970; `nanos` is below 10⁹ and counts forwards, also before 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Time {
    pub seconds: i64,
    pub nanos: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits with set-id and sticky (`0o7777`).
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    /// Full names (`user.x`) and raw values.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Meta {
    pub fn new(mode: u32) -> Self {
        Meta {
            mode,
            ..Meta::default()
        }
    }
}

/// A file that has no contents on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    Char(Device),
    Block(Device),
    Fifo,
}

/// 12 bits of major and 20 of minor number, as Linux keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    major: u32,
    minor: u32,
}

impl Device {
    pub fn new(major: u64, minor: u64) -> Result<Device, Why> {
        if major >= 1 << 12 || minor >= 1 << 20 {
            return Err(format!(
                "is device {major}:{minor}; Linux has numbers up to 4095:1048575"
            ));
        }
        Ok(Device {
            major: major as u32,
            minor: minor as u32,
        })
    }

    /// As the kernel's `new_encode_dev`: the low 8 bits of the minor, the major, the rest of the minor.
    pub fn encode(self) -> u32 {
        (self.minor & 0xff) | self.major << 8 | (self.minor & !0xff) << 12
    }

    pub fn decode(number: u32) -> Device {
        Device {
            major: number >> 8 & 0xfff,
            minor: number & 0xff | number >> 12 & 0xfff00,
        }
    }
}
