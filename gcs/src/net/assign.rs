//! Moves adapters into a container's network namespace and sets them up there (7.8). It blocks and
//! leaves the process in the other namespace, so it is for a task that ends afterwards.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sched::{setns, CloneFlags};
use nix::sys::stat::fstat;

use serde::{Deserialize, Serialize};

use super::device::ExpectedInterface;
use super::lease::{client, Tenancy};
use super::netlink::{Netlink, NetlinkRequest, RouteRequest};
use super::plan::{addressing, plan, NetworkStep};
use super::settings::{self, Adapter};
use crate::error::Failure;

/// An adapter to be moved, with the settings that depend on the other adapters of its namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    pub adapter: Adapter,
    /// The policy routing table when it has the low metric.
    pub table: Option<u32>,
}

/// The DNS settings that a DHCP server sent with the address of an adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leased {
    /// Of the adapter.
    pub id: String,
    /// Comma separated, as in the settings.
    pub dns_suffix: String,
    pub dns_servers: String,
    pub tenancy: Tenancy,
}

/// What is known of an adapter before it is moved.
struct Ready<'a> {
    assignment: &'a Assignment,
    name: String,
    index: u32,
    mac: [u8; 6],
    steps: Vec<NetworkStep>,
}

/// Looks for the interfaces of all adapters, then moves each into the network namespace of process
/// `pid` and sets it up. `sys` is where sysfs is mounted. `None` when an interface is not there yet
/// and nothing was done.
///
/// # Errors
/// What has failed, and for which adapter. All adapters that were moved are moved back.
pub fn assign(
    sys: &Path,
    assignments: &[Assignment],
    pid: i32,
) -> Result<Option<Vec<Leased>>, Failure> {
    // The namespace is opened first, because another process may soon have the pid of one that is
    // gone.
    let there = namespace(&format!("/proc/{pid}/ns/net"), "of the container")?;
    let here = namespace("/proc/self/ns/net", "of the VM")?;
    let mut ready = Vec::new();
    for assignment in assignments {
        let Some(adapter) = look(sys, assignment)? else {
            return Ok(None);
        };
        ready.push(adapter);
    }
    let doing = |what: &str, error: Errno| {
        Failure::unspecified(format!("network of process {pid}: {what}: {error}"))
    };
    let open = |what: &str| {
        Netlink::open().map_err(|error| {
            Failure::unspecified(format!("rtnetlink for the namespace {what}: {error}"))
        })
    };
    let mut outside = open("of the VM")?;
    setns(&there, CloneFlags::CLONE_NEWNET)
        .map_err(|error| doing("entering its namespace", error))?;
    let mut inside = open("of the container")?;

    // A container may live in the VM's own namespace, where adapters keep their names (P-376).
    let stays = same_file(&there, &here)
        .map_err(|error| doing("comparing its namespace with the VM's", error))?;
    let (mut moved, mut leased) = (Vec::new(), Vec::new());
    for adapter in &ready {
        let arrived = match stays {
            true => Ok(adapter.name.clone()),
            false => move_in(&mut outside, adapter, &there),
        };
        let done = arrived.and_then(|name| {
            moved.push((adapter, name.clone()));
            set_up(&mut inside, adapter, &name)
        });
        match done {
            Ok(lease) => leased.extend(lease),
            Err(failure) => {
                for (adapter, name) in moved.iter().filter(|_| !stays) {
                    move_back(&mut inside, adapter, name, &here);
                }
                return Err(failure.during(format!("network adapter {:?}", adapter.id())));
            }
        }
    }
    Ok(Some(leased))
}

fn same_file(one: &OwnedFd, other: &OwnedFd) -> nix::Result<bool> {
    let (one, other) = (fstat(one)?, fstat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

impl Ready<'_> {
    fn id(&self) -> &str {
        &self.assignment.adapter.id
    }
}

pub(super) fn namespace(path: &str, whose: &str) -> Result<OwnedFd, Failure> {
    File::open(path).map(OwnedFd::from).map_err(|error| {
        Failure::unspecified(format!("opening the network namespace {whose}: {error}"))
    })
}

fn look<'a>(sys: &Path, assignment: &'a Assignment) -> Result<Option<Ready<'a>>, Failure> {
    let adapter = &assignment.adapter;
    let Some(name) = ExpectedInterface::new(sys, adapter)?.look()? else {
        return Ok(None);
    };
    let about = |what: &str, why: String| {
        let id = &adapter.id;
        Failure::unspecified(format!("network adapter {id:?} ({name}): {what}: {why}"))
    };
    let attribute = |what: &'static str| {
        let file = sys.join("class/net").join(&name).join(what);
        let text = fs::read_to_string(file).map_err(|error| about(what, error.to_string()))?;
        Ok::<_, Failure>(text.trim_end().to_owned())
    };
    let mtu = attribute("mtu")?;
    let mtu = mtu.parse().map_err(|_| about("mtu", "no number".into()))?;
    let index = if_nametoindex(name.as_str()).map_err(|e| about("its index", e.to_string()))?;
    Ok(Some(Ready {
        assignment,
        steps: plan(adapter, assignment.table, mtu)?,
        mac: settings::mac(&attribute("address")?).unwrap_or_default(),
        index,
        name,
    }))
}

/// Sets the interface down and moves it. It keeps its name unless an interface there has it, since
/// both namespaces count from `eth0`.
fn move_in(outside: &mut Netlink, adapter: &Ready<'_>, there: &OwnedFd) -> Result<String, Failure> {
    let index = adapter.index;
    let name = free_name(&adapter.name);
    outside
        .request(NetlinkRequest::Link { index, up: false })
        .and_then(|()| {
            outside.request(NetlinkRequest::Move {
                index,
                namespace: there.as_fd(),
                name: &name,
            })
        })
        .map_err(|error| {
            let text = format!("moving {} into the container: {error}", adapter.name);
            Failure::unspecified(text)
        })?;
    Ok(name)
}

/// The name if it is free in this process's namespace, else the first that is, of the same kind.
fn free_name(name: &str) -> String {
    let free = |name: &str| if_nametoindex(name).is_err();
    let kind = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let numbered = (0..).map(|number: u32| format!("{kind}{number}"));
    let mut names = std::iter::once(name.to_owned()).chain(numbered);
    names.find(|name| free(name)).unwrap_or_default()
}

fn set_up(
    inside: &mut Netlink,
    adapter: &Ready<'_>,
    name: &str,
) -> Result<Option<Leased>, Failure> {
    let index = if_nametoindex(name)
        .map_err(|error| Failure::unspecified(format!("{name} did not arrive: {error}")))?;
    let (mut leased, mut one_table) = (None, false);
    for step in &adapter.steps {
        if *step != NetworkStep::Dhcp {
            apply(inside, index, step, &mut one_table)?;
            continue;
        }
        let lease = client::lease(name, adapter.mac, Instant::now() + client::LIMIT)
            .map_err(|error| Failure::unspecified(format!("DHCP on {name}: {error}")))?;
        for step in addressing(&[lease.address], &lease.routes, adapter.assignment.table) {
            apply(inside, index, &step, &mut one_table)?;
        }
        let servers = lease.dns_servers.iter().map(ToString::to_string);
        leased = Some(Leased {
            id: adapter.id().to_owned(),
            dns_suffix: lease.domain.clone(),
            dns_servers: servers.collect::<Vec<_>>().join(","),
            tenancy: Tenancy {
                interface: name.to_owned(),
                mac: adapter.mac,
                table: adapter.assignment.table,
                lease: Some(lease),
            },
        });
    }
    Ok(leased)
}

/// The change that a step is, and how the log names it. None: it is not one change but several, see
/// [`set_up`].
pub(super) fn change(index: u32, step: &NetworkStep) -> Option<(NetlinkRequest<'static>, String)> {
    Some(match *step {
        NetworkStep::Mtu(mtu) => (NetlinkRequest::Mtu { index, mtu }, format!("MTU {mtu}")),
        NetworkStep::Up => (NetlinkRequest::Link { index, up: true }, "link up".into()),
        NetworkStep::Dhcp => return None,
        NetworkStep::Address(address) => (
            NetlinkRequest::Address { index, address },
            format!("address {address}"),
        ),
        NetworkStep::Rule {
            from,
            priority,
            table,
        } => (
            NetlinkRequest::Rule {
                from,
                priority,
                table,
            },
            format!("rule from {from} to table {table}"),
        ),
        NetworkStep::Route {
            destination,
            next_hop,
            on_link,
            metric,
            table,
        } => {
            let request = NetlinkRequest::Route(RouteRequest {
                index,
                destination,
                next_hop,
                on_link,
                metric,
                table,
            });
            let via = next_hop.map_or("the link".into(), |hop| hop.to_string());
            (request, format!("route {destination} by {via}"))
        }
    })
}

/// `one_table`: the kernel has no policy routing for IPv6. All its routes are then in one table,
/// where those of several adapters may collide.
pub(super) fn apply(
    inside: &mut Netlink,
    index: u32,
    step: &NetworkStep,
    one_table: &mut bool,
) -> Result<(), Failure> {
    let Some((request, what)) = change(index, step) else {
        return Ok(());
    };
    match inside.request(request) {
        Ok(()) => Ok(()),
        Err(Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP) if step.is_ipv6_rule() => {
            *one_table = true;
            log::warn!("{what}: this kernel has no such rules; the route is in the main table");
            Ok(())
        }
        Err(Errno::EEXIST) if *one_table && step.is_ipv6_route() => {
            log::warn!("{what}: this kernel's main table has that of another adapter");
            Ok(())
        }
        Err(error) => Err(Failure::unspecified(format!("{what}: {error}"))),
    }
}

/// Moves the adapter back, so that a failed request can be repeated. One that cannot be moved
/// returns when the namespace ends.
fn move_back(inside: &mut Netlink, adapter: &Ready<'_>, name: &str, here: &OwnedFd) {
    let back = if_nametoindex(name).and_then(|index| {
        inside.request(NetlinkRequest::Link { index, up: false })?;
        inside.request(NetlinkRequest::Move {
            index,
            namespace: here.as_fd(),
            name: &adapter.name,
        })
    });
    if let Err(error) = back {
        log::warn!(
            "network adapter {:?}: moving {name} back: {error}",
            adapter.id()
        );
    }
}
