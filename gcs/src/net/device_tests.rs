use std::time::Instant;

use super::*;
use crate::machine::uevent;
use crate::prot::settings::NetworkAdapter;
use crate::storage::testing::{Script, Tree};

const ID: &str = "7d2f8c3e-6a0b-4b8f-8a51-55a1b2c3d4e5";
const MAC: &str = "00-15-5D-52-C0-0A";

fn adapter(vpci: bool) -> Adapter {
    Adapter::parse(&NetworkAdapter {
        id: ID.to_uppercase(),
        mac_address: MAC.into(),
        vpci_assigned: vpci,
        ..NetworkAdapter::default()
    })
    .unwrap()
}

/// The interface as an arrival finds it: by these events, and a last look.
fn find(tree: &Tree, adapter: &Adapter, events: Script<'_>) -> Result<String, Failure> {
    let interface = ExpectedInterface::new(&tree.roots.sys, adapter)?;
    let now = Instant::now();
    let found = uevent::wait_for(|| Ok(events), &interface, now, || interface.look())?;
    found.ok_or_else(|| interface.missing(Duration::ZERO).expect("it is not there"))
}

fn look(tree: &Tree, adapter: &Adapter) -> Result<String, String> {
    find(tree, adapter, Script::default()).map_err(|failure| failure.message)
}

fn interface(tree: &Tree, name: &str, address: &str) {
    tree.sys_dir(&format!("class/net/{name}"));
    let file = tree.roots.sys.join(format!("class/net/{name}/address"));
    fs::write(file, format!("{address}\n")).unwrap();
}

#[test]
fn the_instance_names_the_interface() {
    let tree = Tree::new();
    let device = format!("bus/vmbus/devices/{ID}");
    tree.sys_dir("bus/vmbus/devices");
    // Known by its address, but on this bus that is not what counts.
    interface(&tree, "eth7", "00:15:5d:52:c0:0a");
    for made in ["", "/net"] {
        tree.sys_dir(&format!("{device}{made}"));
        let text = look(&tree, &adapter(false)).unwrap_err();
        assert!(
            text.contains("no interface below") && text.contains(ID),
            "{text}"
        );
    }
    tree.sys_dir(&format!("{device}/net/eth1"));
    assert_eq!(look(&tree, &adapter(false)).unwrap(), "eth1");
    tree.sys_dir(&format!("{device}/net/eth2"));
    let text = look(&tree, &adapter(false)).unwrap_err();
    assert!(
        text.contains("2 interfaces") && text.contains("eth1, eth2"),
        "{text}"
    );
}

#[test]
fn a_pci_function_below_the_instance_has_the_interface() {
    let tree = Tree::new();
    let device = format!("bus/vmbus/devices/{ID}");
    tree.sys_dir(&format!("{device}/net/eth0"));
    assert!(look(&tree, &adapter(true)).is_err());
    tree.sys_dir(&format!("{device}/pci1234:00/pci_bus"));
    assert!(look(&tree, &adapter(true)).is_err());
    tree.sys_dir(&format!("{device}/pci1234:00/1234:00:02.0/net/enP1"));
    assert_eq!(look(&tree, &adapter(true)).unwrap(), "enP1");
}

#[test]
fn a_late_interface_is_found_by_its_event() {
    let tree = Tree::new();
    tree.sys_dir("bus/vmbus/devices");
    let events = Script::default().event("block", "/devices/x", || {}).event(
        "net",
        "/devices/x/net/eth3",
        || {
            tree.sys_dir(&format!("bus/vmbus/devices/{ID}/net/eth3"));
        },
    );
    let found = find(&tree, &adapter(false), events);
    assert_eq!(found.unwrap(), "eth3");
}

#[test]
fn without_the_bus_the_address_names_the_interface() {
    let tree = Tree::new();
    interface(&tree, "lo", "00:00:00:00:00:00");
    let text = look(&tree, &adapter(false)).unwrap_err();
    assert!(text.contains("with MacAddress 00:15:5d:52:c0:0a"), "{text}");
    interface(&tree, "eth4", "00:15:5d:52:c0:0a");
    for vpci in [false, true] {
        assert_eq!(look(&tree, &adapter(vpci)).unwrap(), "eth4");
    }
    let mut nameless = adapter(false);
    nameless.mac = None;
    let text = look(&tree, &nameless).unwrap_err();
    assert!(text.contains("MacAddress"), "{text}");
    interface(&tree, "eth5", "00:15:5d:52:c0:0a");
    assert!(look(&tree, &adapter(false))
        .unwrap_err()
        .contains("eth4, eth5"));
}

#[test]
fn an_id_is_never_followed_out_of_the_bus() {
    let tree = Tree::new();
    tree.sys_dir("bus/vmbus/devices");
    tree.sys_dir("bus/vmbus/net/eth0");
    for id in ["..", "../..", "x/../.."] {
        let mut other = adapter(false);
        other.id = id.into();
        assert!(look(&tree, &other)
            .unwrap_err()
            .contains("no VMBus instance"));
    }
}
