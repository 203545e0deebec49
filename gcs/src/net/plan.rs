//! From an adapter's settings to the steps that set it up in a container's network namespace.
//! Pure.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::settings::{Adapter, Prefix, Route};
use crate::error::Failure;

/// The main table, which is used unless a rule names another.
const MAIN: u32 = libc::RT_TABLE_MAIN as u32;
/// Between the kernel's own rules, which are 0 (local addresses) and 32766 (main).
const RULE_PRIORITY: u32 = 5;
const METRIC: u32 = 1;
const LOW_METRIC: u32 = 500;
/// The least that IPv4 and IPv6 work with.
const LEAST_MTU: u32 = 68;
const LEAST_MTU_V6: u32 = 1280;

/// One change of the interface or its namespace, in the order of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkStep {
    Mtu(u32),
    Up,
    /// Addresses and routes come from DHCP. They then are the steps of [`addressing`].
    Dhcp,
    Address(Prefix),
    Rule {
        from: IpAddr,
        priority: u32,
        table: u32,
    },
    Route {
        destination: Prefix,
        next_hop: Option<IpAddr>,
        /// Whether the next hop is in no subnet of the adapter and is on the link all the same.
        on_link: bool,
        metric: u32,
        table: u32,
    },
}

impl NetworkStep {
    pub fn is_ipv6_rule(&self) -> bool {
        matches!(self, Self::Rule { from, .. } if from.is_ipv6())
    }

    pub fn is_ipv6_route(&self) -> bool {
        matches!(self, Self::Route { destination, .. } if destination.ip.is_ipv6())
    }
}

/// All steps for an interface that has this MTU now. `table` is the policy routing table of an
/// adapter with the low metric.
///
/// # Errors
/// The MTU would be too small for the addresses.
pub fn plan(adapter: &Adapter, table: Option<u32>, mtu: u32) -> Result<Vec<NetworkStep>, Failure> {
    let mut steps = Vec::new();
    if adapter.encap_overhead != 0 {
        steps.push(NetworkStep::Mtu(lowered(adapter, mtu)?));
    }
    steps.push(NetworkStep::Up);
    if adapter.addresses.is_empty() {
        steps.push(NetworkStep::Dhcp);
    }
    steps.extend(addressing(&adapter.addresses, &adapter.routes, table));
    Ok(steps)
}

fn lowered(adapter: &Adapter, mtu: u32) -> Result<u32, Failure> {
    let v6 = adapter.addresses.iter().any(|address| address.ip.is_ipv6());
    let least = if v6 { LEAST_MTU_V6 } else { LEAST_MTU };
    let lowered = mtu.saturating_sub(adapter.encap_overhead.into());
    if lowered < least {
        return Err(Failure::unspecified(format!(
            "network adapter {:?}: an EncapOverhead of {} leaves {lowered} of the MTU {mtu}, \
             at least {least} are needed",
            adapter.id, adapter.encap_overhead
        )));
    }
    Ok(lowered)
}

/// The steps for addresses and routes, each family's addresses before its routes.
pub fn addressing(addresses: &[Prefix], routes: &[Route], table: Option<u32>) -> Vec<NetworkStep> {
    let mut steps = Vec::new();
    for v4 in [true, false] {
        for address in addresses
            .iter()
            .filter(|address| address.ip.is_ipv4() == v4)
        {
            steps.push(NetworkStep::Address(*address));
            if let Some(table) = table {
                steps.push(NetworkStep::Rule {
                    from: address.ip,
                    priority: RULE_PRIORITY,
                    table,
                });
            }
        }
        let routes = routes.iter().filter(|r| r.destination.ip.is_ipv4() == v4);
        // Routes on the link come first, because they may lead to next hops.
        let (on_link, via): (Vec<&Route>, Vec<&Route>) =
            routes.partition(|route| route.next_hop.is_none());
        let mut nets = addresses.to_vec();
        nets.extend(on_link.iter().map(|route| route.destination));
        for route in on_link.into_iter().chain(via) {
            steps.push(step(route, &nets, table));
        }
    }
    steps
}

fn step(route: &Route, nets: &[Prefix], table: Option<u32>) -> NetworkStep {
    let ordinary = match table {
        Some(_) => LOW_METRIC,
        None => METRIC,
    };
    NetworkStep::Route {
        destination: route.destination,
        next_hop: route.next_hop,
        on_link: route
            .next_hop
            .is_some_and(|hop| !is_link_local(hop) && !nets.iter().any(|net| net.contains(hop))),
        metric: route.metric.unwrap_or(ordinary),
        table: table.unwrap_or(MAIN),
    }
}

/// Every interface has the subnet `fe80::/64`.
fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
