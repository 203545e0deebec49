use serde_json::{json, Value};

use super::*;
use crate::prot::settings::NetworkAdapter;

fn adapter(mut settings: Value) -> Adapter {
    settings["ID"] = "a".into();
    let sent: NetworkAdapter = serde_json::from_value(settings).unwrap();
    Adapter::parse(&sent).unwrap()
}

/// A step as ip(8) would have it.
fn as_ip(step: &NetworkStep) -> String {
    match step {
        NetworkStep::Mtu(mtu) => format!("mtu {mtu}"),
        NetworkStep::Up => "up".into(),
        NetworkStep::Dhcp => "dhcp".into(),
        NetworkStep::Address(address) => format!("address {address}"),
        NetworkStep::Rule {
            from,
            priority,
            table,
        } => format!("rule from {from} lookup {table} priority {priority}"),
        NetworkStep::Route {
            destination,
            next_hop,
            on_link,
            metric,
            table,
        } => {
            let via = next_hop
                .map(|hop| format!(" via {hop}"))
                .unwrap_or_default();
            let on_link = if *on_link { " onlink" } else { "" };
            format!("route {destination}{via}{on_link} metric {metric} table {table}")
        }
    }
}

fn planned(settings: Value, table: Option<u32>) -> Vec<String> {
    let steps = plan(&adapter(settings), table, 1500).unwrap();
    steps.iter().map(as_ip).collect()
}

const BOTH: [(&str, &str); 2] = [("10.0.0.5", "10.0.0.1"), ("fd00::5", "fd00::1")];

fn both() -> Value {
    json!({
        "IPAddress": BOTH[0].0, "PrefixLength": 24, "GatewayAddress": BOTH[0].1,
        "IPv6Address": BOTH[1].0, "IPv6PrefixLength": 64, "IPv6GatewayAddress": BOTH[1].1,
    })
}

#[test]
fn the_first_adapter_has_metric_one_in_the_main_table() {
    assert_eq!(
        planned(both(), None),
        [
            "up",
            "address 10.0.0.5/24",
            "route 0.0.0.0/0 via 10.0.0.1 metric 1 table 254",
            "address fd00::5/64",
            "route ::/0 via fd00::1 metric 1 table 254",
        ]
    );
}

#[test]
fn an_adapter_with_the_low_metric_has_a_table_of_its_own() {
    assert_eq!(
        planned(both(), Some(101)),
        [
            "up",
            "address 10.0.0.5/24",
            "rule from 10.0.0.5 lookup 101 priority 5",
            "route 0.0.0.0/0 via 10.0.0.1 metric 500 table 101",
            "address fd00::5/64",
            "rule from fd00::5 lookup 101 priority 5",
            "route ::/0 via fd00::1 metric 500 table 101",
        ]
    );
}

#[test]
fn a_next_hop_outside_every_net_is_on_the_link() {
    for (settings, route) in [
        (
            json!({"IPAddress": "10.0.0.5", "PrefixLength": 32, "GatewayAddress": "10.0.0.1"}),
            "route 0.0.0.0/0 via 10.0.0.1 onlink metric 1 table 254",
        ),
        (
            json!({"IPAddress": "10.0.0.5", "PrefixLength": 24, "GatewayAddress": "10.0.1.1"}),
            "route 0.0.0.0/0 via 10.0.1.1 onlink metric 1 table 254",
        ),
        (
            json!({"IPv6Address": "fd00::5", "IPv6PrefixLength": 128, "IPv6GatewayAddress": "fd00::1"}),
            "route ::/0 via fd00::1 onlink metric 1 table 254",
        ),
        (
            json!({"IPv6Address": "fd00::5", "IPv6PrefixLength": 64, "IPv6GatewayAddress": "fe80::1"}),
            "route ::/0 via fe80::1 metric 1 table 254",
        ),
        (
            json!({"IPAddress": "10.0.0.5", "PrefixLength": 0, "GatewayAddress": "192.168.0.1"}),
            "route 0.0.0.0/0 via 192.168.0.1 metric 1 table 254",
        ),
    ] {
        let steps = planned(settings.clone(), None);
        assert_eq!(steps.last().unwrap(), route, "{settings}");
    }
}

#[test]
fn lists_keep_their_order_with_what_is_on_the_link_first() {
    let settings = json!({
        "IPConfigs": [
            {"IPAddress": "10.0.0.5", "PrefixLength": 32},
            {"IPAddress": "10.0.0.6", "PrefixLength": 32},
        ],
        "Routes": [
            {"NextHop": "10.7.0.1", "DestinationPrefix": "0.0.0.0/0", "Metric": 9},
            {"NextHop": "10.8.0.1", "DestinationPrefix": "10.9.0.0/16"},
            {"DestinationPrefix": "10.7.0.0/16"},
        ],
    });
    let expected = |table: u32, metric: u32, rules: [&str; 2]| {
        let mut steps = vec!["up".to_owned()];
        for (address, rule) in ["10.0.0.5", "10.0.0.6"].iter().zip(rules) {
            steps.push(format!("address {address}/32"));
            steps.extend((!rule.is_empty()).then(|| rule.to_owned()));
        }
        steps.push(format!("route 10.7.0.0/16 metric {metric} table {table}"));
        steps.push(format!(
            "route 0.0.0.0/0 via 10.7.0.1 metric 9 table {table}"
        ));
        steps.push(format!(
            "route 10.9.0.0/16 via 10.8.0.1 onlink metric {metric} table {table}"
        ));
        steps
    };
    assert_eq!(planned(settings.clone(), None), expected(254, 1, ["", ""]));
    let rules = [
        "rule from 10.0.0.5 lookup 102 priority 5",
        "rule from 10.0.0.6 lookup 102 priority 5",
    ];
    assert_eq!(planned(settings, Some(102)), expected(102, 500, rules));
}

#[test]
fn without_addresses_some_are_asked_for() {
    assert_eq!(planned(json!({}), None), ["up", "dhcp"]);
    assert_eq!(
        planned(json!({"EncapOverhead": 50}), None),
        ["mtu 1450", "up", "dhcp"]
    );
}

#[test]
fn the_mtu_stays_usable() {
    let v4 = json!({"IPAddress": "10.0.0.5", "PrefixLength": 24});
    let v6 = json!({"IPv6Address": "fd00::5", "IPv6PrefixLength": 64});
    for (settings, overhead, mtu) in [
        (&v4, 0, None),
        (&v4, 50, Some(1450)),
        (&v4, 1432, Some(68)),
        (&v6, 220, Some(1280)),
    ] {
        let mut settings = settings.clone();
        settings["EncapOverhead"] = overhead.into();
        let first = planned(settings, None).remove(0);
        let expected = mtu.map_or("up".to_owned(), |mtu| format!("mtu {mtu}"));
        assert_eq!(first, expected);
    }
    for (settings, overhead) in [(v4, 1433), (v6, 221)] {
        let mut settings = settings;
        settings["EncapOverhead"] = overhead.into();
        let refused = plan(&adapter(settings), None, 1500).unwrap_err();
        assert!(refused.message.contains("EncapOverhead"), "{refused}");
    }
}
