//! `seccomp(2)`: filters on system calls, and the `execve(2)` that follows one.

use std::ffi::{c_char, CStr, CString};
use std::io;
use std::marker::PhantomData;

use nix::errno::Errno;

/// One instruction of classic BPF (`struct sock_filter`).
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Instruction(libc::sock_filter);

impl Instruction {
    #[must_use]
    pub const fn new(operation: u16, yes: u8, no: u8, value: u32) -> Self {
        Self(libc::sock_filter {
            code: operation,
            jt: yes,
            jf: no,
            k: value,
        })
    }

    /// (operation, jump if true, jump if false, value).
    #[must_use]
    pub const fn parts(self) -> (u16, u8, u8, u32) {
        (self.0.code, self.0.jt, self.0.jf, self.0.k)
    }
}

impl PartialEq for Instruction {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl std::fmt::Debug for Instruction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x?}", self.parts())
    }
}

/// Puts the calling thread under `program`, beside the filters it has. `flags` are those of
/// `SECCOMP_SET_MODE_FILTER`.
pub fn load(program: &[Instruction], flags: u32) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the kernel reads `len` instructions, which outlive the call, and writes none;
    // `Instruction` is transparent over what it reads.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            std::ptr::from_ref(&program),
        )
    };
    match done {
        0 => Ok(()),
        // With TSYNC, the thread that could not follow. There is only one thread.
        1.. => Err(io::Error::other("another thread has filters of its own")),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An `execve(2)` laid out beforehand: [`Execution::begin`] makes no other system call, not even
/// for memory, because a filter may forbid it.
pub struct Execution<'a> {
    path: &'a CStr,
    args: Vec<*const c_char>,
    env: Vec<*const c_char>,
    texts: PhantomData<&'a [CString]>,
}

impl<'a> Execution<'a> {
    #[must_use]
    pub fn new(path: &'a CStr, args: &'a [CString], env: &'a [CString]) -> Self {
        let pointers = |texts: &'a [CString]| {
            let texts = texts.iter().map(|text| text.as_ptr());
            texts.chain([std::ptr::null()]).collect()
        };
        Self {
            path,
            args: pointers(args),
            env: pointers(env),
            texts: PhantomData,
        }
    }

    /// Returns only with why it could not.
    #[must_use]
    pub fn begin(&self) -> Errno {
        // SAFETY: both lists end in a null pointer, and what they point to outlives `self`.
        unsafe { libc::execve(self.path.as_ptr(), self.args.as_ptr(), self.env.as_ptr()) };
        Errno::last()
    }
}
