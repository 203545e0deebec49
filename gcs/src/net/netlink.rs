//! The few requests of rtnetlink(7) that a plan needs, as bytes, and the socket that carries them.
//!
//! Written here because a crate for all of rtnetlink is 220 KB of the guest for these seven
//! messages; the tests read them back with that crate.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    connect, recv, send, socket, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol,
    SockType,
};

use super::settings::Prefix;

/// linux/rtnetlink.h
const RT_SCOPE_LINK: u8 = 253;
const RTNH_F_ONLINK: u32 = 4;
/// linux/fib_rules.h
const FR_ACT_TO_TBL: u8 = 1;
const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
const HEADER: usize = 16;

/// A change of the network namespace that the socket is of. Indexes are those of interfaces.
#[derive(Debug, Clone, Copy)]
pub enum Request<'a> {
    Link {
        index: u32,
        up: bool,
    },
    Mtu {
        index: u32,
        mtu: u32,
    },
    /// The interface is called `name` there.
    Move {
        index: u32,
        namespace: BorrowedFd<'a>,
        name: &'a str,
    },
    Address {
        index: u32,
        address: Prefix,
    },
    /// What comes from the address is routed by the table.
    Rule {
        from: IpAddr,
        priority: u32,
        table: u32,
    },
    Route {
        index: u32,
        destination: Prefix,
        next_hop: Option<IpAddr>,
        /// The next hop is on the link though no net of the link has it.
        on_link: bool,
        metric: u32,
        table: u32,
    },
}

impl Request<'_> {
    /// The whole message; the kernel answers it by an acknowledgement with this number.
    pub fn encode(&self, sequence: u32) -> Vec<u8> {
        const CREATE: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        match *self {
            Self::Link { index, up } => {
                let flag = libc::IFF_UP as u32;
                link(index, if up { flag } else { 0 }, flag)
            }
            Self::Mtu { index, mtu } => link(index, 0, 0).number(libc::IFLA_MTU, mtu),
            Self::Move {
                index,
                namespace,
                name,
            } => {
                let mut text = name.as_bytes().to_vec();
                text.push(0);
                link(index, 0, 0)
                    .bytes(libc::IFLA_IFNAME, &text)
                    .number(libc::IFLA_NET_NS_FD, namespace.as_raw_fd().cast_unsigned())
            }
            Self::Address { index, address } => {
                // An address that is still being probed for duplicates cannot be used; the host
                // gives each out once.
                let flags = match address.ip {
                    IpAddr::V4(_) => 0,
                    IpAddr::V6(_) => libc::IFA_F_NODAD as u8,
                };
                let mut body = vec![family(address.ip), address.length, flags, 0];
                body.extend(index.to_ne_bytes());
                let message = Message::new(libc::RTM_NEWADDR, CREATE, body)
                    .ip(libc::IFA_LOCAL, address.ip)
                    .ip(libc::IFA_ADDRESS, address.ip);
                match address.broadcast() {
                    Some(broadcast) => message.ip(libc::IFA_BROADCAST, broadcast),
                    None => message,
                }
            }
            Self::Rule {
                from,
                priority,
                table,
            } => {
                let whole = Prefix::whole(from);
                let body = vec![
                    family(from),
                    0,
                    whole.length,
                    0,
                    short_table(table),
                    0,
                    0,
                    FR_ACT_TO_TBL,
                    0,
                    0,
                    0,
                    0,
                ];
                Message::new(libc::RTM_NEWRULE, CREATE, body)
                    .ip(FRA_SRC, from)
                    .number(FRA_PRIORITY, priority)
                    .number(FRA_TABLE, table)
            }
            Self::Route {
                index,
                destination,
                next_hop,
                on_link,
                metric,
                table,
            } => {
                let scope = match next_hop {
                    Some(_) => 0,
                    None => RT_SCOPE_LINK,
                };
                let mut body = vec![
                    family(destination.ip),
                    destination.length,
                    0,
                    0,
                    short_table(table),
                    libc::RTPROT_STATIC,
                    scope,
                    libc::RTN_UNICAST,
                ];
                body.extend(if on_link { RTNH_F_ONLINK } else { 0 }.to_ne_bytes());
                let mut message = Message::new(libc::RTM_NEWROUTE, CREATE, body)
                    .number(libc::RTA_OIF, index)
                    .number(libc::RTA_PRIORITY, metric)
                    .number(libc::RTA_TABLE, table);
                if destination.length > 0 {
                    message = message.ip(libc::RTA_DST, destination.ip);
                }
                match next_hop {
                    Some(hop) => message.ip(libc::RTA_GATEWAY, hop),
                    None => message,
                }
            }
        }
        .finish(sequence)
    }
}

/// The byte-wide member for the table, of which `RTA_TABLE` is the whole.
fn short_table(table: u32) -> u8 {
    u8::try_from(table).unwrap_or(libc::RT_TABLE_COMPAT)
}

fn family(ip: IpAddr) -> u8 {
    let family = match ip {
        IpAddr::V4(_) => libc::AF_INET,
        IpAddr::V6(_) => libc::AF_INET6,
    };
    family as u8
}

fn link(index: u32, flags: u32, change: u32) -> Message {
    let mut body = vec![0; 4];
    for number in [index, flags, change] {
        body.extend(number.to_ne_bytes());
    }
    Message::new(libc::RTM_NEWLINK, 0, body)
}

struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: i32, body: Vec<u8>) -> Self {
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16;
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        // Number and port, to be filled in or left zero.
        bytes.extend([0; 8]);
        bytes.extend(body);
        Self(bytes)
    }

    fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    fn ip(self, kind: u16, value: IpAddr) -> Self {
        match value {
            IpAddr::V4(ip) => self.bytes(kind, &ip.octets()),
            IpAddr::V6(ip) => self.bytes(kind, &ip.octets()),
        }
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// A conversation with the kernel about the network namespace in which it was begun. Blocks, if
/// only for what the change takes: for tasks.
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

    /// Has the change made.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn request(&mut self, request: Request<'_>) -> Result<(), Errno> {
        self.sequence += 1;
        let fd = self.socket.as_raw_fd();
        send(fd, &request.encode(self.sequence), MsgFlags::empty())?;
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

/// What a message says about the request of this number; none for any other message.
fn acknowledgement(bytes: &[u8], sequence: u32) -> Option<Result<(), Errno>> {
    let (header, body) = bytes.split_first_chunk::<HEADER>()?;
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    let number = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
    if i32::from(kind) != libc::NLMSG_ERROR || number != sequence {
        return None;
    }
    match i32::from_ne_bytes(*body.first_chunk()?) {
        0 => Some(Ok(())),
        error => Some(Err(Errno::from_raw(error.wrapping_neg()))),
    }
}

#[cfg(test)]
#[path = "netlink_tests.rs"]
mod tests;
