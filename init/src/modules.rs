//! Modules of a kernel that somebody else has built (image profile `stock`). PID 1 loads all of
//! them in the order of the image's list, before anything needs them. Nothing loads a module later.
//!
//! ```text
//! /lib/modules/load (names, in order) → /lib/modules/NAME.ko → finit_module(2)
//! ```
//!
//! The machine goes on without a module that is missing or that the kernel refuses, and logs it.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::kmod::{finit_module, ModuleInitFlags};

use crate::poweroff;

const DIR: &str = "/lib/modules";
const ORDER: &str = "load";
const LOADED: &str = "/proc/modules";
/// How long the loading may take. A hundred modules take seconds under emulation, because most are
/// signed. A driver whose device does not answer must not stop the machine.
const LIMIT: Duration = Duration::from_secs(60);

/// The modules that the image brings, a name a line; most bring none.
pub fn listed() -> Option<String> {
    match fs::read_to_string(Path::new(DIR).join(ORDER)) {
        Ok(order) => Some(order),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            log::error!("the list of kernel modules: {error}");
            None
        }
    }
}

/// Loads them in a child, because a driver may wait.
///
/// # Errors
/// There is no child, or it has not ended in time. Both are logged.
pub fn load(order: &str) -> Result<(), String> {
    let started = Instant::now();
    let insert = |module: &File| finit_module(module, c"", ModuleInitFlags::empty());
    let done = poweroff::bounded(LIMIT, || load_all(Path::new(DIR), order, insert));
    let loaded = fs::read_to_string(LOADED).unwrap_or_default();
    log::info!(
        "{} of {} kernel modules are loaded, after {} ms",
        loaded.lines().count(),
        order.lines().count(),
        started.elapsed().as_millis()
    );
    done.map_err(|error| {
        log::error!("kernel modules, going on without the rest: {error}");
        error.to_string()
    })
}

fn load_all(dir: &Path, order: &str, insert: impl Fn(&File) -> nix::Result<()>) {
    for name in order.lines() {
        let Ok(module) = File::open(dir.join(format!("{name}.ko"))) else {
            log::warn!("the kernel module {name} is not in this image");
            continue;
        };
        match insert(&module) {
            // The kernel has it already, as a module or built in.
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(Errno::ENODEV | Errno::EOPNOTSUPP) => {
                log::info!("the kernel module {name} is not for this machine")
            }
            Err(Errno::ENOENT) => {
                log::info!("the kernel module {name} needs one that is not loaded")
            }
            Err(errno) => log::warn!("the kernel module {name}: {errno}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::io::Read;

    #[test]
    fn each_is_loaded_in_order_and_none_stops_the_others() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["first", "refused", "there", "last"] {
            fs::write(dir.path().join(format!("{name}.ko")), name).expect("a file");
        }
        let asked = RefCell::new(Vec::new());
        let insert = |mut module: &File| {
            let mut name = String::new();
            module.read_to_string(&mut name).expect("it reads");
            asked.borrow_mut().push(name.clone());
            match name.as_str() {
                "refused" => Err(Errno::ENOEXEC),
                "there" => Err(Errno::EEXIST),
                _ => Ok(()),
            }
        };
        let order = "first\nmissing\nrefused\nthere\nlast\n";
        load_all(dir.path(), order, insert);
        assert_eq!(*asked.borrow(), ["first", "refused", "there", "last"]);
    }
}
