//! Devices that the host has attached and that the kernel may not have made yet.

use std::io;
use std::time::Duration;

/// How long a disk that the host has attached may take to appear (protocol section 7).
pub const ARRIVAL: Duration = Duration::from_secs(5);

/// Also the errors of a device that is just appearing or disappearing.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV)
    )
}
