//! The VM's network: all its adapters on one LAN with QEMU's user-mode network, which has the
//! host at `10.0.2.2` and `fec0::2` and a name server at `10.0.2.3`. An adapter's settings are
//! what a Windows host would send for it (protocol.md 7.8), except that it is known by its MAC
//! address where there is no VMBus.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{json, Value};

/// The host, as the guest sees it.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub const HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 2);
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// The first address that the network leases itself; forwarded ports lead there.
const FIRST: u8 = 15;

/// One adapter, by its number from 0 on; below 200.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nic(u8);

impl Nic {
    pub fn new(number: u8) -> Self {
        Self(number)
    }

    pub fn number(self) -> u8 {
        self.0
    }

    pub fn mac(self) -> String {
        format!("52:54:00:00:00:{:02x}", self.0)
    }

    /// `ID` on the wire: that of a VMBus instance on Hyper-V.
    pub fn id(self) -> String {
        format!("7d2f8c3e-6a0b-4b8f-8a51-5254000000{:02x}", self.0)
    }

    pub fn ipv4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 2, FIRST + self.0)
    }

    pub fn ipv6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, (FIRST + self.0).into())
    }

    /// Settings without any address.
    pub fn bare(self, namespace: &str) -> Value {
        json!({
            "NamespaceID": namespace,
            "ID": self.id(),
            "MacAddress": self.mac().replace(':', "-").to_uppercase(),
        })
    }

    /// Settings with addresses of both families, gateways and the name server.
    pub fn settings(self, namespace: &str) -> Value {
        let mut settings = self.bare(namespace);
        let more = json!({
            "IPAddress": self.ipv4().to_string(),
            "PrefixLength": 24,
            "GatewayAddress": HOST.to_string(),
            "IPv6Address": self.ipv6().to_string(),
            "IPv6PrefixLength": 64,
            "IPv6GatewayAddress": HOST_V6.to_string(),
            "DNSServerList": NAME_SERVER.to_string(),
        });
        for (name, value) in more.as_object().into_iter().flatten() {
            settings[name] = value.clone();
        }
        settings
    }
}

/// Names the network namespace of a container in its spec.
pub fn join(spec: &mut Value, namespace: &str) {
    spec["windows"] = json!({"network": {"networkNamespace": namespace}});
}
