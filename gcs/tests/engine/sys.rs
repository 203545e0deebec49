//! What the tests need below the standard library.
#![allow(unsafe_code)] // the test harness's own raw calls, as in the crate's `sys`

pub fn subreaper() {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}
