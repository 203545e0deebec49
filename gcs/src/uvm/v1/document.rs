//! What the host's documents of the retired protocol mean for the engine. Pure.

use std::path::Path;

use serde_json::{json, Value};

use crate::error::Failure;
use crate::net::{Adapter, Assignment};
use crate::prot::settings::NetworkAdapter as Settings;
use crate::prot::v1::NetworkAdapter;
use crate::prot::ProcessParameters;

/// Capabilities of a process for which the host sent no OCI document (8.4).
const CAPABILITIES: [&str; 11] = [
    "CAP_AUDIT_WRITE",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_ADMIN",
    "CAP_NET_ADMIN",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_CHOWN",
    "CAP_FOWNER",
    "CAP_DAC_OVERRIDE",
    "CAP_NET_RAW",
];
/// `resolv.conf` takes no more.
const NAME_SERVERS: usize = 3;

/// The spec of the container as it is written to the bundle.
pub fn spec(id: &str, root: &Path, mut sent: Value) -> Result<Value, Failure> {
    let top = sent
        .as_object_mut()
        .ok_or_else(|| Failure::unspecified("OciSpecification is not an object"))?;
    for name in ["hooks", "windows"] {
        top.remove(name);
    }
    if !top.get("process").is_some_and(Value::is_object) {
        return Err(Failure::unspecified("OciSpecification has no process"));
    }
    if !top.get("root").is_some_and(Value::is_object) {
        top.insert("root".into(), json!({}));
    }
    if !top.get("linux").is_some_and(Value::is_object) {
        top.insert("linux".into(), json!({}));
    }
    // The guest itself has mounted the root.
    sent["root"]["path"] = root.to_string_lossy().into();
    sent["linux"]["cgroupsPath"] = format!("/containers/{id}").into();
    Ok(sent)
}

/// A process from the members that are no OCI document.
pub fn process(parameters: ProcessParameters, args: Vec<String>) -> Value {
    let variables = parameters.environment.into_iter();
    let env: Vec<String> = variables.map(|(n, v)| format!("{n}={v}")).collect();
    let cwd = match parameters.working_directory.as_str() {
        "" => "/",
        directory => directory,
    };
    json!({
        "terminal": parameters.emulate_console, "args": args, "env": env, "cwd": cwd,
        "user": {"uid": 0, "gid": 0}, "noNewPrivileges": true,
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024}],
        "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES,
            "inheritable": CAPABILITIES, "permitted": CAPABILITIES, "ambient": CAPABILITIES}})
}

/// `NatEnabled` means the addresses as given; otherwise DHCP is used.
pub fn assignments(adapters: &[NetworkAdapter]) -> Result<Vec<Assignment>, Failure> {
    let one = |sent: &NetworkAdapter| {
        let mut settings = Settings {
            id: sent.adapter_instance_id.clone(),
            mac_address: sent.mac_address.clone(),
            encap_overhead: sent.encap_overhead,
            ..Settings::default()
        };
        if sent.nat_enabled {
            settings.ip_address = sent.allocated_ip_address.clone();
            settings.prefix_length = sent.host_ip_prefix_length;
            settings.gateway_address = sent.host_ip_address.clone();
            settings.ipv6_address = sent.allocated_ipv6_address.clone();
            settings.ipv6_prefix_length = sent.host_ipv6_prefix_length;
            settings.ipv6_gateway_address = sent.host_ipv6_address.clone();
        }
        Ok(Assignment {
            adapter: Adapter::parse(&settings)?,
            table: sent.enable_low_metric.then_some(LOW_METRIC_TABLE),
        })
    };
    adapters.iter().map(one).collect()
}

/// The policy routing table for adapters with a low metric (7.8).
const LOW_METRIC_TABLE: u32 = 101;

/// The text of `resolv.conf` for adapters behind NAT; none when there is no such adapter.
pub fn resolv_conf(adapters: &[NetworkAdapter]) -> Option<String> {
    let nat: Vec<_> = adapters.iter().filter(|a| a.nat_enabled).collect();
    let parts = |list: &str| -> Vec<String> {
        let words = list.split([',', ' ']).filter(|word| !word.is_empty());
        words.map(str::to_owned).collect()
    };
    let mut text = String::new();
    let servers = nat.iter().flat_map(|a| parts(&a.host_dns_server_list));
    for server in servers.take(NAME_SERVERS) {
        text += &format!("nameserver {server}\n");
    }
    let search: Vec<String> = nat.iter().flat_map(|a| parts(&a.host_dns_suffix)).collect();
    if !search.is_empty() {
        text += &format!("search {}\n", search.join(" "));
    }
    (!nat.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_adapters_behind_nat() {
        let adapter = |nat, servers: &str, suffix: &str| NetworkAdapter {
            nat_enabled: nat,
            host_dns_server_list: servers.into(),
            host_dns_suffix: suffix.into(),
            ..NetworkAdapter::default()
        };
        for (adapters, text) in [
            (vec![], None),
            (vec![adapter(false, "1", "a")], None),
            (vec![adapter(true, "", "")], Some("")),
            (
                vec![adapter(true, "1,2 3,,4", "a.b,c")],
                Some("nameserver 1\nnameserver 2\nnameserver 3\nsearch a.b c\n"),
            ),
        ] {
            assert_eq!(resolv_conf(&adapters).as_deref(), text, "{adapters:?}");
        }
    }

    #[test]
    fn a_spec_gets_the_root_and_the_group_of_its_container() {
        let sent = json!({"process": {"args": ["a"]}, "root": {"path": "/elsewhere"}, "hooks": {},
            "windows": {}, "future": 1});
        let got = spec("c", Path::new("/r"), sent).unwrap();
        let wanted = json!({"process": {"args": ["a"]}, "root": {"path": "/r"}, "future": 1,
            "linux": {"cgroupsPath": "/containers/c"}});
        assert_eq!(got, wanted);
        for wrong in [json!([]), json!({}), json!({"process": 1})] {
            assert!(spec("c", Path::new("/r"), wrong).is_err());
        }
    }
}
