use serde_json::json;

use super::*;

fn parse(settings: serde_json::Value) -> Result<Adapter, String> {
    let mut all = json!({"NamespaceID": "n", "ID": "AB"});
    for (name, value) in settings.as_object().unwrap() {
        all[name] = value.clone();
    }
    let sent: NetworkAdapter = serde_json::from_value(all).unwrap();
    Adapter::parse(&sent).map_err(|failure| failure.message)
}

fn prefix_of(text: &str) -> Prefix {
    let (ip, length) = text.split_once('/').unwrap();
    Prefix {
        ip: ip.parse().unwrap(),
        length: length.parse().unwrap(),
    }
}

fn route(destination: &str, next_hop: &str, metric: u32) -> Route {
    Route {
        destination: prefix_of(destination),
        next_hop: next_hop.parse().ok(),
        metric: (metric != 0).then_some(metric),
    }
}

#[test]
fn both_shapes_become_the_same_lists() {
    let old = json!({
        "IPAddress": "10.0.0.5", "PrefixLength": 24, "GatewayAddress": "10.0.0.1",
        "IPv6Address": "fd00::5", "IPv6PrefixLength": 64, "IPv6GatewayAddress": "fd00::1",
    });
    let new = json!({
        "IPConfigs": [
            {"IPAddress": "10.0.0.5", "PrefixLength": 24},
            {"IPAddress": "fd00::5", "PrefixLength": 64},
            {"IPAddress": "fd00::5", "PrefixLength": 64},
        ],
        "Routes": [
            {"NextHop": "10.0.0.1", "DestinationPrefix": "0.0.0.0/0"},
            {"NextHop": "fd00::1", "DestinationPrefix": "::/0"},
        ],
    });
    for shape in [old, new] {
        let adapter = parse(shape).unwrap();
        assert_eq!(adapter.id, "ab");
        assert_eq!(
            adapter.addresses,
            [prefix_of("10.0.0.5/24"), prefix_of("fd00::5/64")]
        );
        assert_eq!(
            adapter.routes,
            [
                route("0.0.0.0/0", "10.0.0.1", 0),
                route("::/0", "fd00::1", 0)
            ]
        );
    }
}

#[test]
fn absent_addresses_are_none() {
    for settings in [
        json!({}),
        json!({"IPAddress": "<nil>", "GatewayAddress": "<nil>"}),
        json!({"IPAddress": "", "GatewayAddress": "10.0.0.1", "PrefixLength": 24}),
    ] {
        let adapter = parse(settings).unwrap();
        assert_eq!((adapter.addresses, adapter.routes), Lists::default());
    }
    let adapter =
        parse(json!({"IPAddress": "1.2.3.4", "PrefixLength": 32, "GatewayAddress": "<nil>"}));
    assert_eq!(adapter.unwrap().routes, []);
}

#[test]
fn routes_of_the_newer_shape() {
    for (sent, expected) in [
        // The host's way to say that there is no gateway.
        (
            json!({"NextHop": "0.0.0.0", "DestinationPrefix": "0.0.0.0/0"}),
            None,
        ),
        (json!({"NextHop": "::", "DestinationPrefix": "::/0"}), None),
        (
            json!({"NextHop": "10.0.0.1", "Metric": 7}),
            Some(route("0.0.0.0/0", "10.0.0.1", 7)),
        ),
        (
            json!({"DestinationPrefix": "10.9.1.2/16"}),
            Some(route("10.9.0.0/16", "", 0)),
        ),
        (
            json!({"DestinationPrefix": "10.9.1.2", "NextHop": "0.0.0.0"}),
            Some(route("10.9.1.2/32", "", 0)),
        ),
    ] {
        let settings = json!({
            "IPConfigs": [{"IPAddress": "10.0.0.5", "PrefixLength": 24}],
            "Routes": [sent],
        });
        let routes = parse(settings).unwrap().routes;
        assert_eq!(routes, Vec::from_iter(expected), "{sent}");
    }
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let new = |route: serde_json::Value| json!({"IPConfigs": [{"IPAddress": "10.0.0.5", "PrefixLength": 24}], "Routes": [route]});
    for (settings, part) in [
        (json!({"ID": ""}), "lack its ID"),
        (
            json!({"IPAddress": "10.0.0"}),
            "IPAddress is not an IP address",
        ),
        (
            json!({"IPAddress": "::1"}),
            "IPAddress is not an IPv4 address",
        ),
        (
            json!({"IPv6Address": "1.1.1.1"}),
            "IPv6Address is not an IPv6 address",
        ),
        (
            json!({"IPAddress": "10.0.0.5", "PrefixLength": 33}),
            "PrefixLength is 33, at most 32",
        ),
        (
            json!({"IPv6Address": "fd00::5", "IPv6PrefixLength": 129}),
            "IPv6PrefixLength is 129, at most 128",
        ),
        (
            json!({"IPAddress": "10.0.0.5", "PrefixLength": 24, "GatewayAddress": "gw"}),
            "GatewayAddress is not an IP address",
        ),
        (json!({"IPConfigs": [{"PrefixLength": 24}]}), "is empty"),
        (
            json!({"IPConfigs": [{"IPAddress": "10.0.0.5", "PrefixLength": 40}]}),
            "PrefixLength is 40",
        ),
        (new(json!({})), "neither NextHop nor"),
        (
            new(json!({"DestinationPrefix": "10.0.0.0/x"})),
            "DestinationPrefix is not",
        ),
        (
            new(json!({"DestinationPrefix": "::/0", "NextHop": "10.0.0.1"})),
            "two families",
        ),
    ] {
        let message = parse(settings.clone()).unwrap_err();
        assert!(message.contains(part), "{settings}: {message}");
    }
}

#[test]
fn the_low_metric_depends_on_shape_and_place() {
    let new = json!([{"IPAddress": "10.0.0.5", "PrefixLength": 24}]);
    for (settings, first, second) in [
        (json!({}), false, true),
        (json!({"EnableLowMetric": true}), true, true),
        (json!({"IPConfigs": new}), false, false),
        (
            json!({"IPConfigs": new, "EnableLowMetric": true}),
            true,
            true,
        ),
        (
            json!({"IPConfigs": new, "EnableLowMetric": true, "PolicyBasedRouting": true}),
            false,
            true,
        ),
    ] {
        let low = parse(settings.clone()).unwrap().low_metric;
        assert_eq!((low.at(0), low.at(1)), (first, second), "{settings}");
    }
}

#[test]
fn mac_addresses_in_both_spellings() {
    let bytes = Some([0, 0x15, 0x5d, 0x52, 0xc0, 0x0a]);
    for (text, expected) in [
        ("00-15-5D-52-C0-0A", bytes),
        ("00:15:5d:52:c0:0a", bytes),
        ("", None),
        ("00-15-5D-52-C0", None),
        ("0-15-5D-52-C0-0A", None),
        ("00-15-5D-52-C0-0A-00", None),
    ] {
        assert_eq!(mac(text), expected, "{text}");
    }
}
