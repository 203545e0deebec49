//! The messages of DHCP (RFC 2131, RFC 2132), as far as a client needs them. All of it is pure.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::net::settings::{Prefix, Route};

/// Fixed members of a message, up to the options.
const FIXED: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Some servers drop less.
const LEAST_SIZE: usize = 300;

/// Options.
const PAD: u8 = 0;
const MASK: u8 = 1;
const ROUTERS: u8 = 3;
const DNS_SERVERS: u8 = 6;
const DOMAIN: u8 = 15;
const REQUESTED: u8 = 50;
const LEASE_TIME: u8 = 51;
const KIND: u8 = 53;
const SERVER: u8 = 54;
const PARAMETERS: u8 = 55;
const RENEWAL_TIME: u8 = 58;
const REBINDING_TIME: u8 = 59;
const END: u8 = 255;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DhcpMessage {
    Discover = 1,
    Offer = 2,
    Request = 3,
    Ack = 5,
    Nak = 6,
}

/// What a server gave. Between processes it goes as the message itself, in hexadecimal: the code
/// that reads it is there anyway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Lease {
    /// The whole message.
    pub message: Vec<u8>,
    pub server: Ipv4Addr,
    pub address: Prefix,
    pub routes: Vec<Route>,
    pub dns_servers: Vec<Ipv4Addr>,
    /// "" when there is none.
    pub domain: String,
    /// None: it lasts for ever.
    pub term: Option<Term>,
}

/// How long a lease lasts, from the time it was asked for. Each is longer than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// Until its server is asked to prolong it (T1).
    pub renew: Duration,
    /// Until any server is asked (T2).
    pub rebind: Duration,
    pub end: Duration,
}

impl Term {
    /// Less than that is taken for it: no server keeps this machine busy.
    const SHORTEST: u32 = 4;
    const FOR_EVER: u32 = u32::MAX;

    /// From the seconds that a server gave; what it left out, or what cannot be, is as RFC 2131
    /// has it (4.4.5).
    fn new(end: Option<u32>, renew: Option<u32>, rebind: Option<u32>) -> Option<Self> {
        let end = end
            .filter(|end| *end != Self::FOR_EVER)?
            .max(Self::SHORTEST);
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        Some(match (renew, rebind) {
            (Some(renew), Some(rebind)) if 0 < renew && renew < rebind && rebind < end => Self {
                renew: seconds(renew),
                rebind: seconds(rebind),
                end: seconds(end),
            },
            _ => Self {
                renew: seconds(end) / 2,
                rebind: seconds(end) * 7 / 8,
                end: seconds(end),
            },
        })
    }
}

impl From<Lease> for String {
    fn from(lease: Lease) -> Self {
        let digits = lease.message.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        digits
            .filter_map(|digit| char::from_digit(digit.into(), 16))
            .collect()
    }
}

impl TryFrom<String> for Lease {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let byte = |pair: &[u8]| {
            let pair = std::str::from_utf8(pair).ok()?;
            u8::from_str_radix(pair, 16).ok()
        };
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
        let answer = bytes.and_then(|bytes| DhcpAnswer::read(&bytes));
        Ok(answer.ok_or("no message of a DHCP server")?.lease)
    }
}

/// The parts of an answer that matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DhcpAnswer {
    pub kind: DhcpMessage,
    pub lease: Lease,
}

/// Who asks, in every message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client {
    pub transaction: u32,
    pub mac: [u8; 6],
}

impl Client {
    pub fn discover(self) -> Vec<u8> {
        self.message(DhcpMessage::Discover, None, &[])
    }

    pub fn request(self, offer: &DhcpAnswer) -> Vec<u8> {
        let IpAddr::V4(address) = offer.lease.address.ip else {
            return self.discover();
        };
        let wanted = [
            (REQUESTED, address.octets()),
            (SERVER, offer.lease.server.octets()),
        ];
        self.message(DhcpMessage::Request, None, &wanted)
    }

    /// To have the lease of an address prolonged.
    pub fn prolong(self, address: Ipv4Addr) -> Vec<u8> {
        self.message(DhcpMessage::Request, Some(address), &[])
    }

    /// `own`: the address that the answer is sent to; without one it has to be broadcast.
    fn message(
        self,
        kind: DhcpMessage,
        own: Option<Ipv4Addr>,
        addresses: &[(u8, [u8; 4])],
    ) -> Vec<u8> {
        // A request from Ethernet.
        let mut bytes = vec![1, 1, 6, 0];
        bytes.extend(self.transaction.to_be_bytes());
        let broadcast = if own.is_some() { 0 } else { 0x80 };
        bytes.extend([0, 0, broadcast, 0]);
        bytes.extend(own.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
        bytes.resize(28, 0);
        bytes.extend(self.mac);
        bytes.resize(FIXED, 0);
        bytes.extend(COOKIE);
        bytes.extend([KIND, 1, kind as u8]);
        for (option, address) in addresses {
            bytes.extend([*option, 4]);
            bytes.extend(address);
        }
        bytes.extend([PARAMETERS, 7, MASK, ROUTERS, DNS_SERVERS, DOMAIN]);
        bytes.extend([LEASE_TIME, RENEWAL_TIME, REBINDING_TIME, END]);
        bytes.resize(bytes.len().max(LEAST_SIZE), PAD);
        bytes
    }

    /// An answer to this client; none for anything else.
    pub fn answer(self, bytes: &[u8]) -> Option<DhcpAnswer> {
        let fixed = bytes.first_chunk::<FIXED>()?;
        let ours = fixed[4..8] == self.transaction.to_be_bytes() && fixed[28..34] == self.mac;
        DhcpAnswer::read(bytes).filter(|_| ours)
    }
}

impl DhcpAnswer {
    /// Of any conversation; none for what is no answer.
    fn read(bytes: &[u8]) -> Option<Self> {
        let fixed = bytes.first_chunk::<FIXED>()?;
        let options = bytes[FIXED..].strip_prefix(&COOKIE)?;
        if fixed[0] != 2 {
            return None;
        }
        let kind = match option(options, KIND)?.first()? {
            2 => DhcpMessage::Offer,
            5 => DhcpMessage::Ack,
            6 => DhcpMessage::Nak,
            _ => return None,
        };
        let address = *ipv4s(&fixed[16..20]).first()?;
        let first = |name| {
            ipv4s(option(options, name).unwrap_or_default())
                .first()
                .copied()
        };
        let mask = first(MASK).map_or(u32::MAX, Ipv4Addr::to_bits);
        let default = first(ROUTERS).map(|router| Route {
            destination: Prefix {
                ip: Ipv4Addr::UNSPECIFIED.into(),
                length: 0,
            },
            next_hop: Some(router.into()),
            metric: None,
        });
        // Seconds and addresses are as wide.
        let seconds = |name| first(name).map(Ipv4Addr::to_bits);
        Some(Self {
            kind,
            lease: Lease {
                message: bytes.to_vec(),
                server: first(SERVER).unwrap_or(Ipv4Addr::UNSPECIFIED),
                address: Prefix {
                    ip: address.into(),
                    length: u8::try_from(mask.leading_ones()).unwrap_or(32),
                },
                routes: default.into_iter().collect(),
                dns_servers: ipv4s(option(options, DNS_SERVERS).unwrap_or_default()),
                domain: domain(option(options, DOMAIN).unwrap_or_default()),
                term: Term::new(
                    seconds(LEASE_TIME),
                    seconds(RENEWAL_TIME),
                    seconds(REBINDING_TIME),
                ),
            },
        })
    }
}

/// The value of the first option of this number.
fn option(mut options: &[u8], wanted: u8) -> Option<&[u8]> {
    loop {
        match options {
            [PAD, rest @ ..] => options = rest,
            [END, ..] | [] | [_] => return None,
            [number, length, rest @ ..] => {
                let (value, rest) = rest.split_at_checked(usize::from(*length))?;
                if *number == wanted {
                    return Some(value);
                }
                options = rest;
            }
        }
    }
}

fn ipv4s(bytes: &[u8]) -> Vec<Ipv4Addr> {
    let octets = bytes.chunks_exact(4);
    octets
        .map(|o| Ipv4Addr::new(o[0], o[1], o[2], o[3]))
        .collect()
}

/// A name made of what names are made of; others would end up in `resolv.conf`.
fn domain(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    match text.iter().all(fits) {
        true => String::from_utf8_lossy(text).into_owned(),
        false => String::new(),
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
