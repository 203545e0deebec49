//! Waiting for a device that the host has attached.

use std::io;
use std::time::{Duration, Instant};

use crate::error::Failure;
use crate::uevent::{self, Matcher, Source};

/// How long a disk that the host has attached may take to appear (protocol section 7).
pub const ARRIVAL: Duration = Duration::from_secs(5);

/// Looks until there is something or the deadline passes (then none).
///
/// # Errors
/// What `look` fails with, and a subscription to device events that cannot be had.
pub fn wait<T, S: Source>(
    subscribe: impl FnOnce() -> io::Result<S>,
    matcher: &impl Matcher,
    deadline: Instant,
    mut look: impl FnMut() -> Result<Option<T>, Failure>,
) -> Result<Option<T>, Failure> {
    let found = uevent::wait_for(subscribe, matcher, deadline, || {
        look().map_err(Waiting::Look)
    });
    found.map_err(|waiting| match waiting {
        Waiting::Look(failure) => failure,
        Waiting::Events(error) => {
            Failure::unspecified(format!("cannot wait for device events: {error}"))
        }
    })
}

enum Waiting {
    Look(Failure),
    Events(io::Error),
}

impl From<io::Error> for Waiting {
    fn from(error: io::Error) -> Self {
        Self::Events(error)
    }
}

/// Also what a device gives that is just coming or going.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV)
    )
}
