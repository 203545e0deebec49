//! From an adapter's id to the name of its interface: by the VMBus instance in sysfs (7.8).
//!
//! A VM without VMBus (QEMU) finds its adapters by their MAC addresses instead. On Hyper-V the
//! addresses are informational.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::settings::Adapter;
use crate::error::Failure;
use crate::machine::uevent::{Device, Matcher, Uevent};

/// How long an adapter that the host has attached may take to appear (7.8).
pub const ARRIVAL: Duration = Duration::from_secs(5);

/// An adapter that the host has attached and that may not have appeared yet (P-273).
#[derive(Debug, Clone)]
pub struct ExpectedInterface {
    /// Of the adapter.
    id: String,
    place: InterfaceLocation,
}

/// Where the interface shows up.
#[derive(Debug, Clone)]
enum InterfaceLocation {
    /// The directory of the VMBus device.
    VmBus(PathBuf),
    /// The same, but a PCI function below it has the interface.
    Pci(PathBuf),
    /// Among all interfaces, the one with this address.
    Mac(PathBuf, String),
}

impl std::fmt::Display for InterfaceLocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::VmBus(device) | Self::Pci(device) => write!(f, "below {}", device.display()),
            Self::Mac(_, mac) => write!(f, "with MacAddress {mac}"),
        }
    }
}

impl ExpectedInterface {
    /// `sys` is where sysfs is mounted.
    ///
    /// # Errors
    /// The settings do not say which interface it is.
    pub fn new(sys: &Path, adapter: &Adapter) -> Result<Self, Failure> {
        let id = adapter.id.clone();
        match InterfaceLocation::of(sys, adapter) {
            Ok(place) => Ok(Self { id, place }),
            Err(failure) => Err(failure.during(format!("network adapter {id:?}"))),
        }
    }

    /// The name of the interface if it is there.
    ///
    /// # Errors
    /// There are several.
    pub fn look(&self) -> Result<Option<String>, Failure> {
        let found = self.place.look();
        found.map_err(|failure| failure.during(format!("network adapter {:?}", self.id)))
    }
}

/// An interface has appeared, or the bus device that it belongs to.
impl Matcher for ExpectedInterface {
    fn is_match(&self, event: &Uevent) -> bool {
        matches!(event.subsystem.as_str(), "net" | "vmbus" | "pci")
    }
}

impl Device for ExpectedInterface {
    /// It is always looked for in a task, because reading an address blocks while another one is
    /// being changed.
    fn is_announced(&self) -> bool {
        true
    }

    fn missing(&self, waited: Duration) -> Option<Failure> {
        let text = format!(
            "network adapter {:?}: no interface {} after {:.1} s: was it attached to the VM?",
            self.id,
            self.place,
            waited.as_secs_f64()
        );
        match self.look() {
            Ok(Some(_)) => None,
            Ok(None) | Err(_) => Some(Failure::unspecified(text)),
        }
    }
}

impl InterfaceLocation {
    fn of(sys: &Path, adapter: &Adapter) -> Result<Self, Failure> {
        let id_is_name = !adapter.id.contains('/') && !adapter.id.starts_with('.');
        let bus = sys.join("bus/vmbus");
        match (bus.exists(), adapter.mac) {
            (true, _) if !id_is_name => Err(Failure::unspecified("the ID is no VMBus instance")),
            (true, _) => {
                let device = bus.join("devices").join(&adapter.id);
                Ok(match adapter.vpci {
                    true => Self::Pci(device),
                    false => Self::VmBus(device),
                })
            }
            (false, Some(mac)) => {
                let bytes: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
                Ok(Self::Mac(sys.join("class/net"), bytes.join(":")))
            }
            (false, None) => Err(Failure::unspecified(
                "this VM has no VMBus, so the settings need the MacAddress",
            )),
        }
    }

    /// The interface if it is there.
    fn look(&self) -> Result<Option<String>, Failure> {
        let found = match self {
            Self::VmBus(device) => names(&device.join("net"))?,
            Self::Pci(device) => {
                let Some(function) = pci_function(device)? else {
                    return Ok(None);
                };
                names(&function.join("net"))?
            }
            Self::Mac(all, mac) => {
                let has = |name: &String| {
                    let address = fs::read_to_string(all.join(name).join("address"));
                    address.is_ok_and(|address| address.trim_end() == mac)
                };
                names(all)?.into_iter().filter(has).collect()
            }
        };
        match found.as_slice() {
            [] => Ok(None),
            [name] => Ok(Some(name.clone())),
            several => Err(Failure::unspecified(format!(
                "{} interfaces {self}: {}",
                several.len(),
                several.join(", ")
            ))),
        }
    }
}

/// `<device>/pciXXXX:XX/XXXX:XX...`: the function that a VMBus device passes through.
fn pci_function(device: &Path) -> Result<Option<PathBuf>, Failure> {
    for bus in names(device)? {
        let Some(number) = bus.strip_prefix("pci") else {
            continue;
        };
        let bus_dir = device.join(&bus);
        let mut functions = names(&bus_dir)?;
        functions.retain(|name| name.starts_with(number));
        return Ok(functions.first().map(|name| bus_dir.join(name)));
    }
    Ok(None)
}

/// The names in a directory, in order. Empty when it does not exist.
fn names(directory: &Path) -> Result<Vec<String>, Failure> {
    let list = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    };
    match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        // A device that goes away while it is looked at.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(Vec::new()),
        listed => listed.map_err(|error| {
            Failure::unspecified(format!("cannot list {}: {error}", directory.display()))
        }),
    }
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
