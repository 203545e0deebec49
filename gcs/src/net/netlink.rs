//! The requests of rtnetlink(7) that a plan needs, and the socket that carries them.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL,
    NLM_F_REQUEST,
};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily as Family, RouteNetlinkMessage};
use nix::errno::Errno;
use nix::sys::socket::{
    connect, recv, send, socket, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol,
    SockType,
};

use super::settings::Prefix;

/// A change of the network namespace that the socket is of. Indexes are those of interfaces.
#[derive(Debug, Clone, Copy)]
pub enum NetlinkRequest<'a> {
    Link {
        index: u32,
        up: bool,
    },
    Mtu {
        index: u32,
        mtu: u32,
    },
    /// The interface gets the name `name` there.
    Move {
        index: u32,
        namespace: BorrowedFd<'a>,
        name: &'a str,
    },
    Address {
        index: u32,
        address: Prefix,
    },
    /// Packets from the address are routed by the table.
    Rule {
        from: IpAddr,
        priority: u32,
        table: u32,
    },
    Route(RouteRequest),
}

/// A route of one interface.
#[derive(Debug, Clone, Copy)]
pub struct RouteRequest {
    pub index: u32,
    pub destination: Prefix,
    pub next_hop: Option<IpAddr>,
    /// Whether the next hop is on the link although it is in no subnet of the link.
    pub on_link: bool,
    pub metric: u32,
    pub table: u32,
}

impl NetlinkRequest<'_> {
    /// The whole message. The kernel answers with an acknowledgement that has this number. `undo`
    /// removes the address, rule or route instead.
    pub fn encode(&self, sequence: u32, undo: bool) -> Vec<u8> {
        let message = match (undo, self.message()) {
            (true, message) => inverse(message),
            (false, message) => message,
        };
        let create = match message {
            RouteNetlinkMessage::NewAddress(_)
            | RouteNetlinkMessage::NewRule(_)
            | RouteNetlinkMessage::NewRoute(_) => NLM_F_CREATE | NLM_F_EXCL,
            _ => 0,
        };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | create;
        header.sequence_number = sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    fn message(&self) -> RouteNetlinkMessage {
        match *self {
            Self::Link { index, up } => {
                let mut message = link(index, Vec::new());
                message.header.change_mask = LinkFlags::Up;
                if up {
                    message.header.flags = LinkFlags::Up;
                }
                RouteNetlinkMessage::NewLink(message)
            }
            Self::Mtu { index, mtu } => {
                RouteNetlinkMessage::NewLink(link(index, vec![LinkAttribute::Mtu(mtu)]))
            }
            Self::Move {
                index,
                namespace,
                name,
            } => {
                let attributes = vec![
                    LinkAttribute::IfName(name.to_owned()),
                    LinkAttribute::NetNsFd(namespace.as_raw_fd()),
                ];
                RouteNetlinkMessage::NewLink(link(index, attributes))
            }
            Self::Address { index, address } => {
                RouteNetlinkMessage::NewAddress(address_message(index, address))
            }
            Self::Rule {
                from,
                priority,
                table,
            } => RouteNetlinkMessage::NewRule(rule_message(from, priority, table)),
            Self::Route(route) => RouteNetlinkMessage::NewRoute(route_message(route)),
        }
    }
}

fn address_message(index: u32, address: Prefix) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.ip);
    message.header.prefix_len = address.length;
    message.header.index = index;
    if address.ip.is_ipv6() {
        // Probing for duplicates is off, because an address cannot be used meanwhile and the host
        // assigns each only once.
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes = vec![
        AddressAttribute::Local(address.ip),
        AddressAttribute::Address(address.ip),
    ];
    let broadcast = address.broadcast().map(AddressAttribute::Broadcast);
    message.attributes.extend(broadcast);
    message
}

fn rule_message(from: IpAddr, priority: u32, table: u32) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(from);
    message.header.src_len = Prefix::whole(from).length;
    message.header.table = short_table(table);
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Source(from),
        RuleAttribute::Priority(priority),
        RuleAttribute::Table(table),
    ];
    message
}

fn route_message(route: RouteRequest) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = family(route.destination.ip);
    header.destination_prefix_length = route.destination.length;
    header.table = short_table(route.table);
    header.protocol = RouteProtocol::Static;
    header.kind = RouteType::Unicast;
    if route.next_hop.is_none() {
        header.scope = RouteScope::Link;
    }
    if route.on_link {
        header.flags = RouteFlags::Onlink;
    }
    message.attributes = vec![
        RouteAttribute::Oif(route.index),
        RouteAttribute::Priority(route.metric),
        RouteAttribute::Table(route.table),
    ];
    if route.destination.length > 0 {
        let to = route_address(route.destination.ip);
        message.attributes.push(RouteAttribute::Destination(to));
    }
    let gateway = route
        .next_hop
        .map(|hop| RouteAttribute::Gateway(route_address(hop)));
    message.attributes.extend(gateway);
    message
}

/// The message that removes what this one makes.
fn inverse(message: RouteNetlinkMessage) -> RouteNetlinkMessage {
    match message {
        RouteNetlinkMessage::NewAddress(message) => RouteNetlinkMessage::DelAddress(message),
        RouteNetlinkMessage::NewRule(message) => RouteNetlinkMessage::DelRule(message),
        RouteNetlinkMessage::NewRoute(message) => RouteNetlinkMessage::DelRoute(message),
        other => other,
    }
}

/// The table number in the one-byte member. The attribute has the whole number.
fn short_table(table: u32) -> u8 {
    u8::try_from(table).unwrap_or(libc::RT_TABLE_COMPAT)
}

fn family(ip: IpAddr) -> Family {
    match ip {
        IpAddr::V4(_) => Family::Inet,
        IpAddr::V6(_) => Family::Inet6,
    }
}

fn route_address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    }
}

fn link(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = attributes;
    message
}

/// A socket to the kernel for the network namespace in which it was opened. Requests block until
/// the change is made, so it is for tasks.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Makes the change.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn request(&mut self, request: NetlinkRequest<'_>) -> Result<(), Errno> {
        self.converse(request, false)
    }

    /// Removes an address, a rule or a route.
    ///
    /// # Errors
    /// What the kernel answers; `EADDRNOTAVAIL`, `ENOENT` or `ESRCH` when it is not there.
    pub fn undo(&mut self, request: NetlinkRequest<'_>) -> Result<(), Errno> {
        self.converse(request, true)
    }

    fn converse(&mut self, request: NetlinkRequest<'_>, undo: bool) -> Result<(), Errno> {
        self.sequence += 1;
        let fd = self.socket.as_raw_fd();
        send(fd, &request.encode(self.sequence, undo), MsgFlags::empty())?;
        let mut answer = [0; 4096];
        loop {
            let length = match recv(fd, &mut answer, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                length => length?,
            };
            if let Some(result) = acknowledgement(&answer[..length], self.sequence) {
                return result;
            }
        }
    }
}

/// The result for the request with this number; `None` for any other message. It reads `struct
/// nlmsghdr` and `nlmsgerr` (netlink(7)) itself, because the parser for all messages of rtnetlink
/// would add a quarter of a megabyte to the guest.
fn acknowledgement(bytes: &[u8], sequence: u32) -> Option<Result<(), Errno>> {
    let header = bytes.first_chunk::<20>()?;
    let [_, _, _, _, kind @ .., _, _, _, _] = header.first_chunk::<10>()?;
    let number = |at: usize| Some(i32::from_ne_bytes(*header.get(at..)?.first_chunk()?));
    let is_error = i32::from(u16::from_ne_bytes(*kind)) == libc::NLMSG_ERROR;
    if !is_error || number(8)?.cast_unsigned() != sequence {
        return None;
    }
    Some(match number(16)? {
        0 => Ok(()),
        code => Err(Errno::from_raw(code.wrapping_neg())),
    })
}

#[cfg(test)]
#[path = "netlink_tests.rs"]
mod tests;
