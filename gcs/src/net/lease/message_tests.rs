use super::*;

const CLIENT: Client = Client {
    transaction: 0x0102_0304,
    mac: [0, 0x15, 0x5d, 1, 2, 3],
};

fn server_says(kind: u8, options: &[u8]) -> Vec<u8> {
    let mut bytes = CLIENT.discover();
    bytes[0] = 2;
    bytes[16..20].copy_from_slice(&[10, 0, 2, 15]);
    bytes.truncate(FIXED);
    bytes.extend(COOKIE);
    bytes.extend([PAD, KIND, 1, kind]);
    bytes.extend(options);
    bytes.push(END);
    bytes
}

fn full() -> Vec<u8> {
    let mut options = vec![MASK, 4, 255, 255, 255, 0];
    options.extend([ROUTERS, 8, 10, 0, 2, 2, 10, 0, 2, 9]);
    options.extend([DNS_SERVERS, 8, 10, 0, 2, 3, 10, 0, 2, 4]);
    options.extend([SERVER, 4, 10, 0, 2, 1]);
    options.extend([DOMAIN, 6]);
    options.extend(b"a.test");
    options
}

#[test]
fn an_answer_becomes_a_lease() {
    let answer = CLIENT.answer(&server_says(2, &full())).unwrap();
    assert_eq!(answer.kind, DhcpMessage::Offer);
    assert_eq!(answer.lease.server, Ipv4Addr::new(10, 0, 2, 1));
    assert_eq!(answer.lease.address.to_string(), "10.0.2.15/24");
    let [route] = answer.lease.routes.as_slice() else {
        panic!("{answer:?}");
    };
    assert_eq!(route.next_hop, Some(Ipv4Addr::new(10, 0, 2, 2).into()));
    assert_eq!(route.destination.length, 0);
    let servers = [Ipv4Addr::new(10, 0, 2, 3), Ipv4Addr::new(10, 0, 2, 4)];
    assert_eq!(answer.lease.dns_servers, servers);
    assert_eq!(answer.lease.domain, "a.test");
}

#[test]
fn a_bare_answer_is_one_address_alone() {
    let answer = CLIENT.answer(&server_says(5, &[])).unwrap();
    assert_eq!(answer.kind, DhcpMessage::Ack);
    assert_eq!(answer.lease.address.to_string(), "10.0.2.15/32");
    assert!(answer.lease.routes.is_empty() && answer.lease.dns_servers.is_empty());
    assert_eq!(answer.lease.term, None);
}

#[test]
fn the_request_names_what_was_offered_and_by_whom() {
    let offer = CLIENT.answer(&server_says(2, &full())).unwrap();
    let request = CLIENT.request(&offer);
    assert!(request.len() >= LEAST_SIZE);
    let options = &request[FIXED + COOKIE.len()..];
    assert_eq!(option(options, KIND), Some(&[3][..]));
    assert_eq!(option(options, REQUESTED), Some(&[10, 0, 2, 15][..]));
    assert_eq!(option(options, SERVER), Some(&[10, 0, 2, 1][..]));
}

#[test]
fn to_prolong_a_lease_only_the_own_address_is_named() {
    let request = CLIENT.prolong(Ipv4Addr::new(10, 0, 2, 15));
    assert_eq!(request[12..16], [10, 0, 2, 15]);
    // The answer comes to that address.
    assert_eq!((CLIENT.discover()[10], request[10]), (0x80, 0));
    let options = &request[FIXED + COOKIE.len()..];
    assert_eq!(option(options, KIND), Some(&[3][..]));
    assert_eq!(
        (option(options, REQUESTED), option(options, SERVER)),
        (None, None)
    );
}

#[test]
fn a_term_is_what_the_server_says_if_that_can_be() {
    let forever = u32::MAX;
    for (sent, expected) in [
        ((None, None, None), None),
        ((Some(forever), Some(10), Some(20)), None),
        ((Some(800), None, None), Some((400_000, 700_000, 800_000))),
        (
            (Some(800), Some(10), Some(20)),
            Some((10_000, 20_000, 800_000)),
        ),
        // Not in order, or only one.
        (
            (Some(800), Some(20), Some(10)),
            Some((400_000, 700_000, 800_000)),
        ),
        (
            (Some(800), Some(0), Some(10)),
            Some((400_000, 700_000, 800_000)),
        ),
        (
            (Some(800), Some(10), Some(800)),
            Some((400_000, 700_000, 800_000)),
        ),
        (
            (Some(800), Some(10), None),
            Some((400_000, 700_000, 800_000)),
        ),
        ((Some(0), None, None), Some((2_000, 3_500, 4_000))),
    ] {
        let (end, renew, rebind) = sent;
        let term = Term::new(end, renew, rebind);
        let found = term.map(|t| (t.renew.as_millis(), t.rebind.as_millis(), t.end.as_millis()));
        assert_eq!(found, expected, "{sent:?}");
    }
    let mut options = vec![LEASE_TIME, 4, 0, 0, 3, 0x20];
    options.extend([RENEWAL_TIME, 4, 0, 0, 0, 10, REBINDING_TIME, 4, 0, 0, 0, 20]);
    let answer = CLIENT.answer(&server_says(5, &options)).unwrap();
    assert_eq!(answer.lease.term, Term::new(Some(800), Some(10), Some(20)));
}

#[test]
fn a_lease_goes_from_process_to_process_as_its_message() {
    let lease = CLIENT.answer(&server_says(5, &full())).unwrap().lease;
    let text = serde_json::to_string(&lease).unwrap();
    assert_eq!(serde_json::from_str::<Lease>(&text).unwrap(), lease);
    for wrong in ["", "0", "zz", &text[1..9]] {
        assert!(Lease::try_from(wrong.to_owned()).is_err(), "{wrong}");
    }
}

#[test]
fn what_is_not_for_us_or_broken_is_nothing() {
    let good = server_says(2, &full());
    let changed = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    for (what, bytes) in [
        ("a request", changed(0)),
        ("another transaction", changed(7)),
        ("another client", changed(33)),
        ("no cookie", changed(FIXED)),
        ("cut", good[..FIXED + 3].to_vec()),
        ("no kind", server_says(9, &full())),
        ("nothing", Vec::new()),
    ] {
        assert_eq!(CLIENT.answer(&bytes), None, "{what}");
    }
    // An option that says it is longer than the message.
    assert_eq!(option(&[PAD, 1, 200, 0], 1), None);
    assert_eq!(option(&[PAD, 1], 1), None);
    for text in [&b"a b"[..], b"a\nnameserver", b"\xff"] {
        assert_eq!(domain(text), "");
    }
    assert_eq!(domain(b"a.test\0"), "a.test");
}

#[test]
fn every_cut_of_an_answer_is_taken_without_a_panic() {
    let good = server_says(2, &full());
    for length in 0..good.len() {
        CLIENT.answer(&good[..length]);
    }
}
