//! Who a process is and what it may do: capabilities, and the settings of `prctl(2)` that go with
//! them.

use nix::errno::Errno;

/// `_LINUX_CAPABILITY_VERSION_3`
const VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The capabilities that this process may have, as a mask.
pub fn permitted() -> nix::Result<u64> {
    let header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut halves = [Half::default(); 2];
    // SAFETY: version 3 has two halves; both structs have the kernel's layout.
    let done = unsafe { libc::syscall(libc::SYS_capget, &header, halves.as_mut_ptr()) };
    Errno::result(done)?;
    Ok(u64::from(halves[1].permitted) << 32 | u64::from(halves[0].permitted))
}

/// Gives this process these capabilities and no others.
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> nix::Result<()> {
    let header = Header {
        version: VERSION,
        pid: 0,
    };
    let half = |shift: u32| Half {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let halves = [half(0), half(32)];
    // SAFETY: version 3 has two halves; both structs have the kernel's layout.
    let done = unsafe { libc::syscall(libc::SYS_capset, &header, halves.as_ptr()) };
    Errno::result(done).map(drop)
}

/// Takes a capability from the bounding set; `EINVAL` when the kernel has none of this number.
pub fn drop_bounding(capability: u32) -> nix::Result<()> {
    prctl(libc::PR_CAPBSET_DROP, u64::from(capability), 0)
}

/// Adds one to the ambient set; it has to be permitted and inheritable.
pub fn raise_ambient(capability: u32) -> nix::Result<()> {
    let raise = u64::from(libc::PR_CAP_AMBIENT_RAISE.cast_unsigned());
    prctl(libc::PR_CAP_AMBIENT, raise, u64::from(capability))
}

/// Whether the permitted set survives a change of the user id.
pub fn keep_capabilities(keep: bool) -> nix::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, u64::from(keep), 0)
}

/// Nobody but who may trace all processes looks into this one from now on, until it executes.
pub fn undumpable() -> nix::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0, 0)
}

/// What this process executes gains no rights by it.
pub fn no_new_privileges() -> nix::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)
}

fn prctl(what: libc::c_int, first: u64, second: u64) -> nix::Result<()> {
    // SAFETY: none of the operations above takes a pointer.
    let done = unsafe { libc::prctl(what, first, second, 0_u64, 0_u64) };
    Errno::result(done).map(drop)
}

/// A session keyring of its own, so that keys of others are not found (keyctl(2)). Kernels
/// without keys give `ENOSYS`.
pub fn own_keyring() -> nix::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: no name is given, which the null pointer says.
    let done = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<u8>(),
        )
    };
    Errno::result(done).map(drop)
}

/// `ioprio_set(2)` of this process.
pub fn io_priority(class: u32, priority: u32) -> nix::Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: integers only.
    let done = unsafe {
        libc::syscall(
            libc::SYS_ioprio_set,
            IOPRIO_WHO_PROCESS,
            0,
            class << 13 | priority,
        )
    };
    Errno::result(done).map(drop)
}

/// `personality(2)` of this process.
pub fn personality(persona: u32) -> nix::Result<()> {
    // SAFETY: an integer only.
    Errno::result(unsafe { libc::personality(libc::c_ulong::from(persona)) }).map(drop)
}

/// The kernel's `struct sched_attr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scheduling {
    /// Set by [`schedule`].
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    /// Nanoseconds, as the next two.
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

/// `sched_setattr(2)` of this process.
pub fn schedule(attributes: &Scheduling) -> nix::Result<()> {
    let attributes = Scheduling {
        size: size_of::<Scheduling>() as u32,
        ..*attributes
    };
    // SAFETY: `attributes` has the kernel's layout, says its size and outlives the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_sched_setattr,
            0,
            std::ptr::from_ref(&attributes),
            0,
        )
    };
    Errno::result(done).map(drop)
}

/// `setdomainname(2)` of the UTS namespace.
pub fn set_domain(name: &str) -> nix::Result<()> {
    // SAFETY: the length is that of the text; no NUL is needed.
    Errno::result(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }).map(drop)
}
