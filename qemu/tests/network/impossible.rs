//! Settings of an adapter that cannot be.

use serde_json::{json, Value};

/// Changes to good settings, and a part of the refusal.
pub fn settings() -> Vec<(Value, &'static str)> {
    let one = json!([{"IPAddress": "10.0.2.15", "PrefixLength": 24}]);
    vec![
        (
            json!({"IPAddress": "10.0.2"}),
            "IPAddress is not an IP address",
        ),
        (
            json!({"IPAddress": "10.0.2.15/24"}),
            "IPAddress is not an IP address",
        ),
        (
            json!({"IPAddress": "fd00::1"}),
            "IPAddress is not an IPv4 address",
        ),
        (
            json!({"IPv6Address": "10.0.2.15"}),
            "IPv6Address is not an IPv6 address",
        ),
        (
            json!({"PrefixLength": 33}),
            "PrefixLength is 33, at most 32",
        ),
        (
            json!({"IPv6PrefixLength": 129}),
            "IPv6PrefixLength is 129, at most 128",
        ),
        (
            json!({"GatewayAddress": "gateway"}),
            "GatewayAddress is not an IP address",
        ),
        (
            json!({"IPv6GatewayAddress": "::g"}),
            "IPv6GatewayAddress is not an IP address",
        ),
        (
            json!({"IPConfigs": [{"IPAddress": ""}]}),
            "an entry of IPConfigs is empty",
        ),
        (
            json!({"IPConfigs": one, "Routes": [{}]}),
            "neither NextHop nor DestinationPrefix",
        ),
        (
            json!({"IPConfigs": one, "Routes": [{"NextHop": "::1", "DestinationPrefix": "10.0.0.0/8"}]}),
            "of two families",
        ),
        (json!({"ID": ""}), "lack its ID"),
        (json!({"NamespaceID": ""}), "lack the NamespaceID"),
        // No number at all is no document: the decoder's word.
        (json!({"PrefixLength": 256}), "PrefixLength"),
        (json!({"EncapOverhead": 70_000}), "EncapOverhead"),
        (json!({"IPAddress": 7}), "IPAddress"),
    ]
}
