//! What safe code cannot express: what a child does before its exec, and the time stamp counter.
#![allow(unsafe_code)] // The only module of the crate with `unsafe`.

pub mod child;

/// The processor's time stamp counter; `None` on processors that are not x86-64.
pub fn time_stamp() -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: every x86-64 has the instruction, which only writes registers.
        Some(unsafe { std::arch::x86_64::_rdtsc() })
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
}
