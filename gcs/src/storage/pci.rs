//! PCI functions that the host has assigned to the VM (protocol section 7.9).
//!
//! On a host without VMBus, such as QEMU, the instance says where the function is plugged in: in
//! `xxxxxxxx-DDDD-BBBB-xxxx-xxxxxxxxxxxx` DDDD is the PCI domain, as in instances of Hyper-V, and
//! BBBB the bus.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::arrival;
use super::Roots;
use crate::error::Failure;
use crate::machine::uevent::{Device, Matcher, Uevent};

/// How long one may take to appear.
pub const ARRIVAL: Duration = Duration::from_secs(60);

/// A function that the host has assigned and that may not have appeared yet.
#[derive(Debug, Clone)]
pub struct ExpectedFunction {
    instance: String,
    place: PciLocation,
}

/// Where a function is to appear.
#[derive(Debug, Clone)]
enum PciLocation {
    VmBus {
        directory: PathBuf,
    },
    /// The directory of all functions, and how the names of those on the bus begin.
    Bus {
        functions: PathBuf,
        bus: String,
    },
}

impl ExpectedFunction {
    /// # Errors
    /// The instance is no GUID.
    pub fn new(roots: &Roots, instance: &str) -> Result<Self, Failure> {
        let instance = instance.to_ascii_lowercase();
        let plain = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
        if instance.is_empty() || !instance.bytes().all(plain) {
            return Err(Failure::unspecified(format!(
                "VMBusGUID {instance:?} is no GUID"
            )));
        }
        let bus = roots.sys.join("bus");
        let mut parts = instance.split('-').skip(1);
        let mut number = || u16::from_str_radix(parts.next()?, 16).ok();
        let place = match (number(), number()) {
            (Some(domain), Some(number @ 0..=255)) if !bus.join("vmbus").exists() => {
                PciLocation::Bus {
                    functions: bus.join("pci/devices"),
                    bus: format!("{domain:04x}:{number:02x}:"),
                }
            }
            _ => PciLocation::VmBus {
                directory: bus.join("vmbus/devices").join(&instance),
            },
        };
        Ok(Self { instance, place })
    }

    /// The VMBus instance, in lower case.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Its directory in `/sys` if it is there.
    pub fn look(&self) -> Result<Option<PathBuf>, Failure> {
        match &self.place {
            PciLocation::VmBus { directory } => look(directory),
            PciLocation::Bus { functions, bus } => entry(functions, bus),
        }
    }
}

/// The path of a function goes through its VMBus instance.
impl Matcher for ExpectedFunction {
    fn is_match(&self, event: &Uevent) -> bool {
        let here = match &self.place {
            PciLocation::VmBus { .. } => event.devpath.contains(self.instance.as_str()),
            PciLocation::Bus { bus, .. } => event.devpath.contains(&format!("/{bus}")),
        };
        event.subsystem == "pci" && here
    }
}

impl Device for ExpectedFunction {
    fn is_announced(&self) -> bool {
        matches!(self.look(), Ok(Some(_)))
    }

    fn missing(&self, waited: Duration) -> Option<Failure> {
        if self.is_announced() {
            return None;
        }
        let path = match &self.place {
            PciLocation::VmBus { directory } => directory.clone(),
            PciLocation::Bus { functions, bus } => functions.join(format!("{bus}*")),
        };
        Some(Failure::unspecified(format!(
            "no PCI device {} at {path:?} after {:.1} s: was it assigned to the VM?",
            self.instance,
            waited.as_secs_f64()
        )))
    }
}

/// `pci<domain>:<bus>`, and in it what begins with the same `<domain>:<bus>`.
fn look(directory: &Path) -> Result<Option<PathBuf>, Failure> {
    let Some(bus) = entry(directory, "pci")? else {
        return Ok(None);
    };
    let name = bus.file_name().unwrap_or_default().to_string_lossy();
    let location = name.trim_start_matches("pci").to_owned();
    entry(&bus, &location)
}

fn entry(directory: &Path, prefix: &str) -> Result<Option<PathBuf>, Failure> {
    let unlisted =
        |error: io::Error| Failure::unspecified(format!("cannot list {directory:?}: {error}"));
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if arrival::is_absent(&error) => return Ok(None),
        Err(error) => return Err(unlisted(error)),
    };
    for entry in entries {
        let entry = entry.map_err(unlisted)?;
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(prefix.as_bytes())
        {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::testing::{Script, Tree};
    use super::*;
    use crate::machine::uevent;

    /// The function as an arrival finds it: by these events, and a last look.
    fn find_with(tree: &Tree, events: Script<'_>, instance: &str) -> Result<PathBuf, Failure> {
        let function = ExpectedFunction::new(&tree.roots, instance)?;
        let now = Instant::now();
        let found = uevent::wait_for(|| Ok(events), &function, now, || function.look())?;
        let missing = function.missing(Duration::ZERO);
        found.ok_or_else(|| missing.expect("it is not there"))
    }

    const INSTANCE: &str = "7d2f8c3e-6a0b-4b8f-8a51-55a1b2c3d4e5";

    #[test]
    fn a_function_is_found_when_it_comes() {
        let tree = Tree::new();
        tree.sys_dir("bus/vmbus/devices");
        let base = format!("bus/vmbus/devices/{INSTANCE}");
        let function = format!("{base}/pci6a0b:00/6a0b:00:02.0");
        let script = Script::default()
            .event("pci", "/devices/other/pci0000:00/0000:00:01.0", || {
                panic_if_there(&tree, &function);
            })
            .event("pci", &format!("/devices/{INSTANCE}/pci6a0b:00"), || {
                // Not the function, and not yet the function.
                tree.sys_dir(&format!("{base}/pci6a0b:00/pci_bus"));
            })
            .event("pci", &format!("/devices/{INSTANCE}/x"), || {
                tree.sys_dir(&function);
            });
        let upper = INSTANCE.to_uppercase();
        let found = find_with(&tree, script, &upper).unwrap();
        assert_eq!(found, tree.roots.sys.join(&function));
    }

    #[test]
    fn without_vmbus_the_instance_names_the_bus() {
        let tree = Tree::new();
        let at = |name: &str| tree.sys_dir(&format!("bus/pci/devices/{name}"));
        at("0000:02:00.0");
        let script = Script::default()
            .event(
                "pci",
                "/devices/pci0000:00/0000:00:03.0/0000:03:00.0",
                || {},
            )
            .event(
                "pci",
                "/devices/pci0000:00/0000:00:02.0/0000:1a:00.0",
                || {
                    at("0000:1a:00.0");
                },
            );
        let instance = "00000000-0000-001A-0000-000000000000";
        let found = find_with(&tree, script, instance).unwrap();
        assert!(found.ends_with("bus/pci/devices/0000:1a:00.0"), "{found:?}");
        // One that names no bus is waited for where VMBus would have it.
        let failure = find_with(&tree, Script::default(), INSTANCE).unwrap_err();
        assert!(failure.message.contains("vmbus/devices"), "{failure}");
    }

    fn panic_if_there(tree: &Tree, function: &str) {
        assert!(!tree.roots.sys.join(function).exists());
    }

    #[test]
    fn one_that_never_comes_is_named_after_the_time() {
        let tree = Tree::new();
        let failure = find_with(&tree, Script::default(), INSTANCE).unwrap_err();
        assert!(failure.message.contains(INSTANCE), "{failure}");
        for wrong in ["", "../../devices", "a b"] {
            let failure = find_with(&tree, Script::default(), wrong).unwrap_err();
            assert!(failure.message.contains("GUID"), "{failure}");
        }
    }
}
