//! The requests as the kernel will read them.

use std::os::fd::AsFd;

use super::*;

fn read(request: NetlinkRequest<'_>, flags: u16) -> RouteNetlinkMessage {
    let bytes = request.encode(7, false);
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).unwrap();
    assert_eq!(message.header.length as usize, bytes.len());
    assert_eq!(message.header.sequence_number, 7);
    assert_eq!(message.header.flags, NLM_F_REQUEST | NLM_F_ACK | flags);
    match message.payload {
        NetlinkPayload::InnerMessage(inner) => inner,
        other => panic!("{other:?}"),
    }
}

const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;

fn prefix(ip: &str, length: u8) -> Prefix {
    let ip = ip.parse().unwrap();
    Prefix { ip, length }
}

#[test]
fn links() {
    let stdin = std::io::stdin();
    let moving = NetlinkRequest::Move {
        index: 3,
        namespace: stdin.as_fd(),
        name: "eth10",
    };
    let moved = vec![
        LinkAttribute::IfName("eth10".into()),
        LinkAttribute::NetNsFd(0),
    ];
    let up = NetlinkRequest::Link { index: 3, up: true };
    let down = NetlinkRequest::Link {
        index: 3,
        up: false,
    };
    let mtu = NetlinkRequest::Mtu {
        index: 3,
        mtu: 1450,
    };
    for (request, flags, mask, attributes) in [
        (up, LinkFlags::Up, LinkFlags::Up, vec![]),
        (down, LinkFlags::empty(), LinkFlags::Up, vec![]),
        (
            mtu,
            LinkFlags::empty(),
            LinkFlags::empty(),
            vec![LinkAttribute::Mtu(1450)],
        ),
        (moving, LinkFlags::empty(), LinkFlags::empty(), moved),
    ] {
        let RouteNetlinkMessage::NewLink(link) = read(request, 0) else {
            panic!("{request:?}");
        };
        assert_eq!(link.header.index, 3);
        assert_eq!((link.header.flags, link.header.change_mask), (flags, mask));
        assert_eq!(link.attributes, attributes);
    }
}

#[test]
fn addresses() {
    let v4: IpAddr = "10.1.2.3".parse().unwrap();
    let v6: IpAddr = "fd00::5".parse().unwrap();
    let (local, plain) = (AddressAttribute::Local, AddressAttribute::Address);
    let broadcast = |text: &str| AddressAttribute::Broadcast(text.parse().unwrap());
    let none = AddressHeaderFlags::empty();
    for (address, family, flags, attributes) in [
        (
            prefix("10.1.2.3", 20),
            Family::Inet,
            none,
            vec![local(v4), plain(v4), broadcast("10.1.15.255")],
        ),
        (
            prefix("10.1.2.3", 32),
            Family::Inet,
            none,
            vec![local(v4), plain(v4)],
        ),
        (
            prefix("fd00::5", 64),
            Family::Inet6,
            AddressHeaderFlags::Nodad,
            vec![local(v6), plain(v6)],
        ),
    ] {
        let request = NetlinkRequest::Address { index: 3, address };
        let RouteNetlinkMessage::NewAddress(message) = read(request, NEW) else {
            panic!("{address}");
        };
        assert_eq!((message.header.family, message.header.index), (family, 3));
        assert_eq!(message.header.prefix_len, address.length);
        assert_eq!(message.header.flags, flags);
        assert_eq!(message.attributes, attributes);
    }
}

#[test]
fn rules() {
    for (from, family, length) in [
        ("10.1.2.3", Family::Inet, 32),
        ("fd00::5", Family::Inet6, 128),
    ] {
        let from = from.parse().unwrap();
        let request = NetlinkRequest::Rule {
            from,
            priority: 5,
            table: 101,
        };
        let RouteNetlinkMessage::NewRule(rule) = read(request, NEW) else {
            panic!("{from}");
        };
        assert_eq!((rule.header.family, rule.header.src_len), (family, length));
        assert_eq!(rule.header.action, RuleAction::ToTable);
        assert_eq!(rule.header.table, 101);
        let expected = [
            RuleAttribute::Source(from),
            RuleAttribute::Priority(5),
            RuleAttribute::Table(101),
        ];
        assert_eq!(rule.attributes, expected);
    }
}

#[test]
fn routes() {
    let v4 = |text: &str| RouteAddress::Inet(text.parse().unwrap());
    let v6 = |text: &str| RouteAddress::Inet6(text.parse().unwrap());
    let none = RouteFlags::empty();
    let universe = RouteScope::Universe;
    for (destination, next_hop, on_link, table, scope, flags, attributes) in [
        (
            prefix("0.0.0.0", 0),
            "10.0.0.1",
            false,
            254,
            universe,
            none,
            vec![RouteAttribute::Gateway(v4("10.0.0.1"))],
        ),
        (
            prefix("10.9.0.0", 16),
            "10.0.0.1",
            true,
            101,
            universe,
            RouteFlags::Onlink,
            vec![
                RouteAttribute::Destination(v4("10.9.0.0")),
                RouteAttribute::Gateway(v4("10.0.0.1")),
            ],
        ),
        (
            prefix("fd01::", 64),
            "",
            false,
            300,
            RouteScope::Link,
            none,
            vec![RouteAttribute::Destination(v6("fd01::"))],
        ),
    ] {
        let request = NetlinkRequest::Route(RouteRequest {
            index: 3,
            destination,
            next_hop: next_hop.parse().ok(),
            on_link,
            metric: 500,
            table,
        });
        let RouteNetlinkMessage::NewRoute(route) = read(request, NEW) else {
            panic!("{destination}");
        };
        let header = &route.header;
        assert_eq!(header.destination_prefix_length, destination.length);
        assert_eq!((header.scope, header.flags), (scope, flags));
        assert_eq!(
            (header.protocol, header.kind),
            (RouteProtocol::Static, RouteType::Unicast)
        );
        assert_eq!(
            u32::from(header.table),
            if table == 300 { 252 } else { table }
        );
        let mut expected = vec![
            RouteAttribute::Oif(3),
            RouteAttribute::Priority(500),
            RouteAttribute::Table(table),
        ];
        expected.extend(attributes);
        assert_eq!(route.attributes, expected);
    }
}

#[test]
fn an_acknowledgement_is_told_from_other_messages() {
    let message = |kind: u16, sequence: u32, code: i32| {
        let mut bytes = 20_u32.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(code.to_ne_bytes());
        bytes
    };
    for (bytes, expected) in [
        (message(2, 7, 0), Some(Ok(()))),
        (message(2, 7, -libc::EEXIST), Some(Err(Errno::EEXIST))),
        (message(2, 6, 0), None),
        (message(3, 7, 0), None),
        (vec![], None),
        (message(2, 7, 0)[..18].to_vec(), None),
    ] {
        assert_eq!(acknowledgement(&bytes, 7), expected, "{bytes:?}");
    }
}
