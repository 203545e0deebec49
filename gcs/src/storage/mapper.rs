//! Makes and removes devices of the device-mapper, with their nodes under `/dev/mapper`, because
//! there is no udev (protocol section 7.5).

use std::io;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::kernel::Kernel;
use super::{Roots, Undo};
use crate::error::Failure;

pub use crate::sys::dm::DmTarget;

const LOAD_PAUSE: Duration = Duration::from_millis(100);
const REMOVE_PAUSE: Duration = Duration::from_millis(10);
const REMOVE_ATTEMPTS: usize = 10;

/// One request to the device-mapper.
#[derive(Debug, Clone, Copy)]
pub enum MapperRequest<'a> {
    Create,
    Load(DmTarget<'a>, ReadOnly),
    Resume,
    Remove,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadOnly(pub bool);

/// Where the node of a device is.
pub fn node(roots: &Roots, name: &str) -> PathBuf {
    roots.dev.join("mapper").join(name)
}

/// Makes a device of one target. When the work fails later, its undo removes the device. The device
/// below the target may not have appeared yet, so a missing one is tried again until the deadline.
pub fn create(
    undo: &mut Undo<'_>,
    roots: &Roots,
    name: &str,
    target: DmTarget<'_>,
    read_only: ReadOnly,
    deadline: Instant,
) -> Result<PathBuf, Failure> {
    let kernel = undo.kernel();
    // The error leaves the parameters out, because a key may be among them.
    let failed = |what: &str, error: io::Error| {
        Failure::unspecified(format!(
            "cannot {what} the {} device {name}: {error}",
            target.kind
        ))
    };
    let ask = |request| kernel.map(roots, name, request);
    let made = undo.create_device(roots, name);
    made.map_err(|error| failed("create", error))?;
    loop {
        match ask(MapperRequest::Load(target, read_only)) {
            Ok(_) => break,
            Err(error) if is_coming(&error) && Instant::now() < deadline => sleep(LOAD_PAUSE),
            Err(error) => return Err(failed("set up", error)),
        }
    }
    let number = ask(MapperRequest::Resume).map_err(|error| failed("start", error))?;
    let node = node(roots, name);
    kernel
        .make_node(&node, number)
        .map_err(|error| failed("make the node of", error))?;
    Ok(node)
}

fn is_coming(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV)
    )
}

/// Removes a device and its node. A missing one is a success.
pub fn remove(kernel: &dyn Kernel, roots: &Roots, name: &str) -> io::Result<()> {
    let mut attempt = 1;
    loop {
        match kernel.map(roots, name, MapperRequest::Remove) {
            Ok(_) => break,
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => break,
            Err(error)
                if error.raw_os_error() == Some(libc::EBUSY) && attempt < REMOVE_ATTEMPTS =>
            {
                attempt += 1;
                sleep(REMOVE_PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
    match kernel.remove_node(&node(roots, name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Removes what an Add has made, the uppermost first.
pub fn remove_all(kernel: &dyn Kernel, roots: &Roots, names: &[String]) -> Result<(), Failure> {
    for name in names.iter().rev() {
        remove(kernel, roots, name).map_err(|error| {
            Failure::unspecified(format!("cannot remove the mapped device {name}: {error}"))
        })?;
    }
    Ok(())
}
