//! `bpf(2)`, as far as cgroup device programs need it: load and attach.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Programs of this group run besides those of the groups above it, and all must agree.
const FLAG_ALLOW_MULTI: u32 = 2;

/// One instruction (`struct bpf_insn`; Documentation/bpf/standardization/instruction-set).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Insn {
    code: u8,
    registers: u8,
    offset: i16,
    value: i32,
}

impl Insn {
    const fn new(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Self {
        Self {
            code,
            registers: from << 4 | to,
            offset,
            value,
        }
    }
    /// `to = *(u32 *)(from + offset)`
    pub const fn load32(to: u8, from: u8, offset: i16) -> Self {
        Self::new(0x61, to, from, offset, 0)
    }
    pub const fn mov(to: u8, value: i32) -> Self {
        Self::new(0xb7, to, 0, 0, value)
    }
    pub const fn mov_reg(to: u8, from: u8) -> Self {
        Self::new(0xbf, to, from, 0, 0)
    }
    pub const fn and(to: u8, value: i32) -> Self {
        Self::new(0x57, to, 0, 0, value)
    }
    pub const fn and_reg(to: u8, from: u8) -> Self {
        Self::new(0x5f, to, from, 0, 0)
    }
    pub const fn or(to: u8, value: i32) -> Self {
        Self::new(0x47, to, 0, 0, value)
    }
    pub const fn xor(to: u8, value: i32) -> Self {
        Self::new(0xa7, to, 0, 0, value)
    }
    pub const fn shift_right(to: u8, bits: i32) -> Self {
        Self::new(0x77, to, 0, 0, bits)
    }
    /// Skips `over` instructions when the low half of the register is not `value`.
    pub const fn jump_if_ne32(register: u8, value: i32, over: i16) -> Self {
        Self::new(0x56, register, 0, over, value)
    }
    pub const fn exit() -> Self {
        Self::new(0x95, 0, 0, 0, 0)
    }

    /// (code, destination, source, offset, value), for tests and printing.
    pub const fn parts(self) -> (u8, u8, u8, i16, i32) {
        (
            self.code,
            self.registers & 15,
            self.registers >> 4,
            self.offset,
            self.value,
        )
    }
}

impl std::fmt::Debug for Insn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x?}", self.parts())
    }
}

/// The members of `union bpf_attr` for the two commands, up to the last one used.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    kind: u32,
    count: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Makes `program` decide about the devices of the cgroup (v2) `group`, beside the programs
/// already there. The kernel drops it with the group.
pub fn attach_device_program(group: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let attr = AttachAttr {
        target: raw(group),
        program: raw(program),
        kind: ATTACH_CGROUP_DEVICE,
        flags: FLAG_ALLOW_MULTI,
    };
    // SAFETY: `attr` is the layout of BPF_PROG_ATTACH and outlives the call.
    unsafe { bpf(PROG_ATTACH, &attr) }.map(drop)
}

/// Makes the kernel verify `program` and keep it while the descriptor is open or it is attached.
pub fn load_device_program(program: &[Insn]) -> io::Result<OwnedFd> {
    let license = c"MIT";
    let mut attr = LoadAttr {
        kind: PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        code: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        expected_attach_type: ATTACH_CGROUP_DEVICE,
        ..LoadAttr::default()
    };
    attr.name[..7].copy_from_slice(b"devices");
    // SAFETY: `attr` is the layout of BPF_PROG_LOAD; `program` and `license` outlive the call.
    let fd = unsafe { bpf(PROG_LOAD, &attr) }?;
    // SAFETY: just returned by the kernel (close-on-exec), owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    // An open fd is never negative.
    fd.as_raw_fd().cast_unsigned()
}

/// # Safety
/// `attr` must be what `command` expects, its pointers valid.
unsafe fn bpf<T>(command: i32, attr: &T) -> io::Result<i32> {
    // SAFETY: by the caller; the size tells the kernel how far `attr` reaches.
    let got = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attr),
            size_of::<T>(),
        )
    };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(got).map_err(io::Error::other)
}
