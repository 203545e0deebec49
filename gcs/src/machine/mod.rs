//! The VM itself, as far as the service looks after it: its clock, its memory, the kernel's log and
//! the kernel's events of devices. None of them knows containers or requests.

pub mod clock;
pub mod containers_limit;
pub mod kmsg;
pub mod memory;
pub mod uevent;
