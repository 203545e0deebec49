//! Adapters of scenarios: in the VM, in namespaces, in containers.

use serde_json::{json, Value};

use crate::{not_run, Checked, Container, Guest, Lab, Plan};
use uvm::network::join;
use uvm_host::HostError;
use uvm_vm::network::Nic;

const KIND: &str = "io.kubernetes.cri.container-type";

/// A VM of the scenario's own with adapters.
pub fn with_nics(lab: &Lab, nics: u8) -> Checked<Guest> {
    lab.boot(|boot| boot.profile.nics = nics)
}

/// Network Add of an adapter that is there. A guest may not find it without VMBus.
pub fn add(vm: &Guest, settings: Value) -> Checked {
    let refusal = match vm.modify("Network", "Add", settings) {
        Ok(()) => return Ok(()),
        Err(refusal) => refusal,
    };
    let here = vm.sh("test -d /sys/bus/vmbus && echo yes || echo no")?;
    // This project's guest must find it. Any other may know only the bus.
    let ours = vm.sh("test /init -ef /bin/gcs && echo yes || echo no")?;
    match (&refusal, here.as_str(), ours.as_str()) {
        (HostError::Refused { .. }, "no", "no") => Err(not_run(format!(
            "this guest finds no adapter in a VM without VMBus: {refusal}"
        ))),
        _ => Err(refusal.into()),
    }
}

/// Makes a namespace known. The adapter may not be found, but it was added all the same.
pub fn know(vm: &Guest, settings: Value) -> Checked {
    match add(vm, settings) {
        Err(crate::Stop::NotRun { .. }) => Ok(()),
        outcome => outcome,
    }
}

/// A container in the namespace: it waits for its input to end unless told otherwise.
pub fn member<'g>(vm: &'g Guest, namespace: &str) -> Plan<'g> {
    vm.container("cat").edit(|spec| join(spec, namespace))
}

pub fn sandbox<'g>(vm: &'g Guest, namespace: Option<&str>) -> Plan<'g> {
    vm.container("cat").edit(|spec| {
        spec["annotations"] = json!({KIND: "sandbox"});
        if let Some(namespace) = namespace {
            join(spec, namespace);
        }
    })
}

/// A running container in the namespace, with its program.
pub fn running<'g>(vm: &'g Guest, namespace: &str) -> Checked<(Container<'g>, uvm_host::Process)> {
    let container = member(vm, namespace).create()?;
    let process = container.init().open_stdin().start()?;
    Ok((container, process))
}

/// The interface with the adapter's address, in a container.
pub fn interface(container: &Container<'_>, nic: Nic) -> Checked<String> {
    let mac = nic.mac();
    container.sh(&format!(
        "grep -l {mac} /sys/class/net/*/address | cut -d/ -f5 | grep ."
    ))
}

/// What the host gave an adapter, as a container has it: its two addresses and its IPv4 routes.
/// What the network adds by itself, mainly by router advertisements, may change at any time.
pub fn configured(container: &Container<'_>, nic: Nic) -> Checked<Vec<String>> {
    let name = interface(container, nic)?;
    let addresses = container.sh(&format!("ip addr show dev {name}"))?;
    let given = [format!("{}/24", nic.ipv4()), format!("{}/64", nic.ipv6())];
    let words = addresses.split_whitespace().map(str::to_owned);
    let mut all: Vec<String> = words.filter(|word| given.contains(word)).collect();
    let routes = container.sh(&format!("ip -4 route show dev {name}"))?;
    all.extend(routes.lines().map(|route| route.trim().to_owned()));
    all.sort();
    Ok(all)
}

/// How many interfaces with the adapter's address the VM itself has.
pub fn in_vm(vm: &Guest, nic: Nic) -> Checked<String> {
    let mac = nic.mac();
    vm.sh(&format!(
        "cat /sys/class/net/*/address | grep -c {mac}; true"
    ))
}
