//! What a step fails with: what was being done, to which thing, and the errno.

use std::fmt::Display;
use std::io;

use nix::errno::Errno;

use crate::error::Failure;

/// Names the step that a result is of.
pub trait Step<T> {
    fn step<D: Display>(self, doing: impl FnOnce() -> D) -> Result<T, Failure>;
}

impl<T> Step<T> for nix::Result<T> {
    fn step<D: Display>(self, doing: impl FnOnce() -> D) -> Result<T, Failure> {
        self.map_err(|errno| failed(doing(), errno))
    }
}

impl<T> Step<T> for io::Result<T> {
    fn step<D: Display>(self, doing: impl FnOnce() -> D) -> Result<T, Failure> {
        self.map_err(|error| match error.raw_os_error() {
            Some(errno) => failed(doing(), Errno::from_raw(errno)),
            None => Failure::unspecified(format!("{}: {error}", doing())),
        })
    }
}

pub fn failed(doing: impl Display, errno: Errno) -> Failure {
    Failure::unspecified(format!("{doing}: {} ({errno:?})", errno.desc()))
}
