//! The conversations of a DHCP client: it asks for a lease, and asks to have one prolonged. Both
//! block, so they are for a task.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use super::message::{Client, DhcpAnswer, DhcpMessage, Lease};

/// For a lease, over all tries (P-270).
pub const LIMIT: Duration = Duration::from_secs(30);
/// To have a lease prolonged, over all tries; more follow later.
const PROLONG_LIMIT: Duration = Duration::from_secs(10);
/// Until a message is sent again.
const PATIENCE: Duration = Duration::from_secs(3);

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;

/// Asks for a lease on the interface, which is up, of this process's network namespace. Blocks
/// until the deadline.
///
/// # Errors
/// No server gave one by then, or the socket cannot be had.
pub fn lease(interface: &str, mac: [u8; 6], deadline: Instant) -> io::Result<Lease> {
    let (socket, client) = open(interface, mac)?;
    let mut offer: Option<DhcpAnswer> = None;
    loop {
        let message = match &offer {
            Some(offer) => client.request(offer),
            None => client.discover(),
        };
        let server = SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT);
        socket.send_to(&message, server)?;
        let wanted = match offer {
            Some(_) => DhcpMessage::Ack,
            None => DhcpMessage::Offer,
        };
        let again = deadline.min(Instant::now() + PATIENCE);
        match wait(&socket, client, wanted, again)? {
            Some(ack) if ack.kind == DhcpMessage::Ack => return Ok(ack.lease),
            Some(answer) => offer = Some(answer).filter(|answer| answer.kind == DhcpMessage::Offer),
            // An offer that its server does not stand to any more is no use either.
            None => offer = None,
        }
        if Instant::now() >= deadline {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "no DHCP server gave an address",
            ));
        }
    }
}

fn open(interface: &str, mac: [u8; 6]) -> io::Result<(UdpSocket, Client)> {
    let socket = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT))?;
    setsockopt(&socket, sockopt::BindToDevice, &interface.into())?;
    socket.set_broadcast(true)?;
    let client = Client {
        transaction: transaction(mac),
        mac,
    };
    Ok((socket, client))
}

/// Asks to have a lease prolonged: its server, or `any`. Blocks for [`PROLONG_LIMIT`] at most.
/// None: it was refused, and its address must not be used any more.
///
/// # Errors
/// Nobody answered, or the socket cannot be had.
pub fn prolong(
    interface: &str,
    mac: [u8; 6],
    lease: &Lease,
    any: bool,
) -> io::Result<Option<Lease>> {
    let IpAddr::V4(address) = lease.address.ip else {
        return Ok(None);
    };
    let to = if any {
        Ipv4Addr::BROADCAST
    } else {
        lease.server
    };
    let deadline = Instant::now() + PROLONG_LIMIT;
    let (socket, client) = open(interface, mac)?;
    while Instant::now() < deadline {
        socket.send_to(&client.prolong(address), SocketAddrV4::new(to, SERVER_PORT))?;
        let again = deadline.min(Instant::now() + PATIENCE);
        if let Some(answer) = wait(&socket, client, DhcpMessage::Ack, again)? {
            return Ok((answer.kind == DhcpMessage::Ack).then_some(answer.lease));
        }
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        format!("{to} does not answer"),
    ))
}

/// Until then, the answer of this kind, or a refusal.
fn wait(
    socket: &UdpSocket,
    client: Client,
    wanted: DhcpMessage,
    until: Instant,
) -> io::Result<Option<DhcpAnswer>> {
    let mut buffer = [0; 2048];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let answer = client.answer(&buffer[..length]);
                let fits =
                    |answer: &DhcpAnswer| answer.kind == wanted || answer.kind == DhcpMessage::Nak;
                if let Some(answer) = answer.filter(fits) {
                    return Ok(Some(answer));
                }
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                _ => return Err(error),
            },
        }
    }
}

/// Tells this client's conversation from others on the link, which have other addresses.
fn transaction(mac: [u8; 6]) -> u32 {
    let [_, _, a, b, c, d] = mac;
    u32::from_be_bytes([a, b, c, d]) ^ std::process::id().rotate_left(16)
}
