//! Parses an adapter's settings from the host. From here on every address is a valid one.
//!
//! The settings have two shapes (7.8 and 12.3): one address of each family with a gateway, or lists
//! of addresses and routes. Both become the same lists.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::bundle;
use crate::error::Failure;
use crate::prot::settings::NetworkAdapter;

/// What a v0.12.3 host writes for an address it does not have.
const NIL: &str = "<nil>";

/// An address or a net with the length of its prefix, which fits the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefix {
    pub ip: IpAddr,
    pub length: u8,
}

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub destination: Prefix,
    /// `None` when the destination is on the link.
    pub next_hop: Option<IpAddr>,
    /// `None` when the host leaves it to the guest.
    pub metric: Option<u32>,
}

/// Who decides on the low metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LowMetric {
    /// As given for the first adapter of a namespace; every other has it.
    AsGivenForTheFirst(bool),
    /// As given.
    AsGiven(bool),
    /// Every adapter except the first has it (`PolicyBasedRouting`).
    AllButTheFirst,
}

impl LowMetric {
    /// Whether the adapter at `place` (0 is the first) has it.
    pub fn at(self, place: usize) -> bool {
        match self {
            Self::AsGivenForTheFirst(given) => given || place > 0,
            Self::AsGiven(given) => given,
            Self::AllButTheFirst => place > 0,
        }
    }
}

/// One adapter, ready to be looked for and set up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adapter {
    /// VMBus instance, in lower case.
    pub id: String,
    /// Six bytes, when the host sent one that is an address.
    pub mac: Option<[u8; 6]>,
    /// The adapter is a PCI function below the VMBus instance.
    pub vpci: bool,
    /// Empty for DHCP.
    pub addresses: Vec<Prefix>,
    pub routes: Vec<Route>,
    pub low_metric: LowMetric,
    /// Bytes to take off the MTU.
    pub encap_overhead: u16,
    #[serde(skip)]
    pub dns: bundle::AdapterDns,
}

impl Adapter {
    /// # Errors
    /// An address or prefix that is none, a route without a direction.
    pub fn parse(sent: &NetworkAdapter) -> Result<Self, Failure> {
        let doing = || format!("network adapter {:?}", sent.id);
        if sent.id.is_empty() {
            return Err(Failure::unspecified(
                "the settings of a network adapter lack its ID",
            ));
        }
        let (addresses, routes, low_metric) = if sent.ip_configs.is_empty() {
            one_of_each(sent).map(|(addresses, routes)| {
                let low = LowMetric::AsGivenForTheFirst(sent.enable_low_metric);
                (addresses, routes, low)
            })
        } else {
            lists(sent).map(|(addresses, routes)| {
                let low = match sent.policy_based_routing {
                    true => LowMetric::AllButTheFirst,
                    false => LowMetric::AsGiven(sent.enable_low_metric),
                };
                (addresses, routes, low)
            })
        }
        .map_err(|why| Failure::unspecified(format!("{}: {why}", doing())))?;
        Ok(Self {
            id: sent.id.to_lowercase(),
            mac: mac(&sent.mac_address),
            vpci: sent.vpci_assigned,
            addresses,
            routes,
            low_metric,
            encap_overhead: sent.encap_overhead,
            dns: bundle::AdapterDns {
                dns_suffix: sent.dns_suffix.clone(),
                dns_servers: sent.dns_server_list.clone(),
            },
        })
    }
}

type Lists = (Vec<Prefix>, Vec<Route>);

/// The shape of v0.12.3.
fn one_of_each(sent: &NetworkAdapter) -> Result<Lists, String> {
    let (mut addresses, mut routes) = Lists::default();
    let families = [
        (
            ("IPAddress", &sent.ip_address),
            ("PrefixLength", sent.prefix_length),
            ("GatewayAddress", &sent.gateway_address),
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        ),
        (
            ("IPv6Address", &sent.ipv6_address),
            ("IPv6PrefixLength", sent.ipv6_prefix_length),
            ("IPv6GatewayAddress", &sent.ipv6_gateway_address),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ),
    ];
    for ((name, address), (length_name, length), (gateway_name, gateway), any) in families {
        let Some(ip) = address_of_family(name, address, any)? else {
            continue;
        };
        addresses.push(prefix(ip, length, length_name)?);
        if let Some(gateway) = address_of_family(gateway_name, gateway, any)? {
            routes.push(Route {
                destination: Prefix { ip: any, length: 0 },
                next_hop: Some(gateway),
                metric: None,
            });
        }
    }
    Ok((addresses, routes))
}

/// The newer shape.
fn lists(sent: &NetworkAdapter) -> Result<Lists, String> {
    let (mut addresses, mut routes) = Lists::default();
    for config in &sent.ip_configs {
        let ip =
            address("IPAddress", &config.ip_address)?.ok_or("an entry of IPConfigs is empty")?;
        let address = prefix(ip, config.prefix_length, "PrefixLength")?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    for sent in &sent.routes {
        let next_hop = address("NextHop", &sent.next_hop)?;
        let destination = match (sent.destination_prefix.as_str(), next_hop) {
            ("" | NIL, None) => {
                return Err("a route has neither NextHop nor DestinationPrefix".into())
            }
            ("" | NIL, Some(IpAddr::V4(_))) => any(true),
            ("" | NIL, Some(IpAddr::V6(_))) => any(false),
            (text, _) => net(text)?,
        };
        let unspecified = next_hop.is_some_and(|hop| hop.is_unspecified());
        if destination.length == 0 && unspecified {
            continue;
        }
        let route = Route {
            destination,
            next_hop: next_hop.filter(|_| !unspecified),
            metric: (sent.metric != 0).then_some(sent.metric),
        };
        let same_family = |hop: IpAddr| hop.is_ipv4() == destination.ip.is_ipv4();
        if !route.next_hop.is_none_or(same_family) {
            return Err("NextHop and DestinationPrefix of a route are of two families".into());
        }
        if !routes.contains(&route) {
            routes.push(route);
        }
    }
    Ok((addresses, routes))
}

fn any(v4: bool) -> Prefix {
    let ip = match v4 {
        true => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        false => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    Prefix { ip, length: 0 }
}

/// An address, or `None` where the text stands for none.
fn address(name: &str, text: &str) -> Result<Option<IpAddr>, String> {
    match text {
        "" | NIL => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| format!("{name} is not an IP address")),
    }
}

fn address_of_family(name: &str, text: &str, family: IpAddr) -> Result<Option<IpAddr>, String> {
    match address(name, text)? {
        Some(ip) if ip.is_ipv4() != family.is_ipv4() => {
            let wanted = if family.is_ipv4() { "IPv4" } else { "IPv6" };
            Err(format!("{name} is not an {wanted} address"))
        }
        found => Ok(found),
    }
}

fn prefix(ip: IpAddr, length: u8, name: &str) -> Result<Prefix, String> {
    let most = Prefix::whole(ip).length;
    if length > most {
        return Err(format!("{name} is {length}, at most {most} is possible"));
    }
    Ok(Prefix { ip, length })
}

/// `ADDRESS/LENGTH`. Without a length it is the single address.
fn net(text: &str) -> Result<Prefix, String> {
    const NAME: &str = "DestinationPrefix";
    let wrong = || format!("{NAME} is not an address with a prefix length");
    let (ip, length) = match text.split_once('/') {
        Some((ip, length)) => (ip, Some(length.parse::<u8>().map_err(|_| wrong())?)),
        None => (text, None),
    };
    let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
    let length = length.unwrap_or(Prefix::whole(ip).length);
    prefix(ip, length, NAME).map(Prefix::masked)
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.ip, self.length)
    }
}

impl Prefix {
    /// The net that the address is in.
    #[must_use]
    pub fn masked(self) -> Self {
        let ip = match self.ip {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.length));
                Ipv4Addr::from_bits(ip.to_bits() & mask.unwrap_or(0)).into()
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.length));
                Ipv6Addr::from_bits(ip.to_bits() & mask.unwrap_or(0)).into()
            }
        };
        Self { ip, ..self }
    }

    /// The one address.
    pub fn whole(ip: IpAddr) -> Self {
        let length = if ip.is_ipv4() { 32 } else { 128 };
        Self { ip, length }
    }

    /// The address of all in the net, where there is one.
    pub fn broadcast(self) -> Option<Ipv4Addr> {
        match self.ip {
            IpAddr::V4(ip) if self.length < 31 => {
                let hosts = u32::MAX >> self.length;
                Some(Ipv4Addr::from_bits(ip.to_bits() | hosts))
            }
            _ => None,
        }
    }

    /// Whether the address is in the net.
    pub fn contains(self, ip: IpAddr) -> bool {
        let same_family = self.ip.is_ipv4() == ip.is_ipv4();
        same_family && Self { ip, ..self }.masked().ip == self.masked().ip
    }
}

/// Six bytes in hexadecimal with `-` or `:` between them. The address is informational, so an
/// invalid one is ignored.
pub(super) fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> = text
        .split(['-', ':'])
        .map(|part| {
            u8::from_str_radix(part, 16)
                .ok()
                .filter(|_| part.len() == 2)
        })
        .collect::<Option<_>>()?;
    bytes.try_into().ok()
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
