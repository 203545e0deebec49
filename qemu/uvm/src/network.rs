//! What a Windows host would send for an adapter of the VM's network (protocol 7.8), except that
//! the adapter is known by its MAC address where there is no VMBus.

use serde_json::{json, Value};
use uvm_vm::network::{Nic, HOST, HOST_V6, NAME_SERVER};

/// Settings without any address.
pub fn bare(nic: Nic, namespace: &str) -> Value {
    json!({
        "NamespaceID": namespace,
        "ID": nic.id(),
        "MacAddress": nic.mac().replace(':', "-").to_uppercase(),
    })
}

/// Settings with addresses of both families, gateways and the name server.
pub fn settings(nic: Nic, namespace: &str) -> Value {
    let mut settings = bare(nic, namespace);
    let more = json!({
        "IPAddress": nic.ipv4().to_string(),
        "PrefixLength": 24,
        "GatewayAddress": HOST.to_string(),
        "IPv6Address": nic.ipv6().to_string(),
        "IPv6PrefixLength": 64,
        "IPv6GatewayAddress": HOST_V6.to_string(),
        "DNSServerList": NAME_SERVER.to_string(),
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        settings[name] = value.clone();
    }
    settings
}

/// Lets users without privileges open every port and ping in a container that has a network
/// namespace of its own, as Docker does since 20.10.
pub fn unprivileged(spec: &mut Value) {
    spec["linux"]["sysctl"] = json!({
        "net.ipv4.ip_unprivileged_port_start": "0",
        "net.ipv4.ping_group_range": "0 2147483647",
    });
}

/// Names the network namespace of a container in its spec.
pub fn join(spec: &mut Value, namespace: &str) {
    spec["windows"] = json!({"network": {"networkNamespace": namespace}});
}
