use super::*;
use crate::net::lease::tenancy::Tenancy;
use crate::prot::settings::NetworkAdapter;

fn adapter(id: &str, dns: &str) -> Adapter {
    Adapter::parse(&NetworkAdapter {
        id: id.into(),
        dns_server_list: dns.into(),
        ..NetworkAdapter::default()
    })
    .unwrap()
}

fn servers(namespaces: &Namespaces, id: &str) -> Vec<String> {
    let adapters = namespaces.adapters(id);
    adapters.into_iter().map(|dns| dns.dns_servers).collect()
}

/// With these adapters added to namespace `n`, resolved.
fn with(ids: &[&str]) -> Namespaces {
    let mut namespaces = Namespaces::default();
    for id in ids {
        namespaces.begin_add("N", adapter(id, id)).unwrap();
        namespaces.resolved("n", id);
    }
    namespaces
}

fn ids(assignments: &[Assignment]) -> Vec<(&str, Option<u32>)> {
    let each = assignments.iter();
    each.map(|one| (one.adapter.id.as_str(), one.table))
        .collect()
}

#[test]
fn ids_are_compared_in_lower_case() {
    let mut namespaces = with(&["AA", "bb"]);
    for id in ["n", "N"] {
        assert!(namespaces.known(id));
        assert_eq!(servers(&namespaces, id), ["AA", "bb"]);
    }
    for id in ["", "m"] {
        assert!(!namespaces.known(id));
        assert!(namespaces.adapters(id).is_empty());
    }
    for duplicate in ["aa", "AA", "BB"] {
        let refused = namespaces
            .begin_add("N", adapter(duplicate, ""))
            .unwrap_err();
        assert_eq!(refused.code, HResult::FAIL);
    }
    // In another namespace it is another adapter.
    namespaces.begin_add("m", adapter("aa", "")).unwrap();
    assert!(namespaces.begin_add("", adapter("cc", "")).is_err());
    assert!(!namespaces.known(""));
}

#[test]
fn a_namespace_has_one_container_at_a_time() {
    let mut namespaces = with(&["aa"]);
    namespaces.bind(Some("N"), "one").unwrap();
    let refused = namespaces.bind(Some("n"), "two").unwrap_err();
    assert_eq!(refused.code, HResult::FAIL);
    assert!(refused.message.contains("one"));
    namespaces.unbind("two");
    assert_eq!(namespaces.bound("n"), Some(("one", None)));
    namespaces.unbind("one");
    namespaces.bind(Some("n"), "two").unwrap();
}

#[test]
fn an_empty_namespace_is_never_registered() {
    let mut namespaces = Namespaces::default();
    for id in [None, Some("")] {
        for container in ["one", "two"] {
            namespaces.bind(id, container).unwrap();
            assert!(namespaces.assign(container, 7).is_empty());
        }
    }
    assert!(namespaces.describe().is_empty());
}

#[test]
fn a_standalone_containers_own_namespace_goes_with_it() {
    let mut namespaces = Namespaces::default();
    namespaces.bind(Some("X"), "one").unwrap();
    assert!(namespaces.known("x"));
    namespaces.unbind("one");
    assert!(!namespaces.known("x"));
}

#[test]
fn adapters_are_assigned_once_per_binding() {
    let mut namespaces = with(&["aa", "bb"]);
    assert!(namespaces.assign("pod", 7).is_empty(), "not bound");
    namespaces.bind(Some("n"), "pod").unwrap();
    let both = [("aa", None), ("bb", Some(101))];
    assert_eq!(ids(&namespaces.assign("pod", 7)), both);
    assert!(namespaces.assign("pod", 7).is_empty(), "under way");
    namespaces.assigned("pod", "aa");
    namespaces.assigned("pod", "bb");
    assert!(namespaces.assign("pod", 7).is_empty(), "there");

    assert_eq!(namespaces.bound("N"), Some(("pod", Some(7))));

    // One that comes later moves alone, with a table of its own.
    namespaces.begin_add("n", adapter("CC", "")).unwrap();
    assert_eq!(namespaces.assign_one("n", "cc"), None, "not found yet");
    namespaces.resolved("n", "CC");
    let late = namespaces.assign_one("n", "CC").unwrap();
    assert_eq!(ids(&[late]), [("cc", Some(102))]);

    namespaces.unbind("pod");
    assert_eq!(namespaces.bound("n"), None);
    namespaces.bind(Some("n"), "next").unwrap();
    let all = [("aa", None), ("bb", Some(101)), ("cc", Some(102))];
    assert_eq!(ids(&namespaces.assign("next", 8)), all);
}

#[test]
fn what_dhcp_says_of_names_counts_where_the_settings_say_nothing() {
    let leased = |id: &str, servers: &str| Leased {
        id: id.into(),
        dns_suffix: String::new(),
        dns_servers: servers.into(),
        tenancy: Tenancy {
            interface: "eth0".into(),
            mac: [0; 6],
            table: None,
            lease: None,
        },
    };
    let mut namespaces = Namespaces::default();
    for (id, dns) in [("aa", ""), ("bb", "2")] {
        namespaces.begin_add("n", adapter(id, dns)).unwrap();
    }
    assert_eq!(namespaces.learn("pod", vec![leased("aa", "7")]), None);
    namespaces.bind(Some("n"), "pod").unwrap();
    for (given, news) in [
        (vec![], false),
        (vec![leased("bb", "8")], false),
        (vec![leased("zz", "8")], false),
        (vec![leased("aa", "7"), leased("bb", "8")], true),
    ] {
        assert_eq!(namespaces.learn("pod", given).is_some(), news);
    }
    assert_eq!(servers(&namespaces, "n"), ["7", "2"]);
}

#[test]
fn a_failed_add_can_be_repeated_and_leaves_the_namespace_known() {
    let mut namespaces = Namespaces::default();
    namespaces.begin_add("n", adapter("aa", "1")).unwrap();
    namespaces.forget("N", "AA");
    assert!(namespaces.known("n"));
    assert!(servers(&namespaces, "n").is_empty());
    namespaces.begin_add("n", adapter("aa", "2")).unwrap();
    assert_eq!(servers(&namespaces, "n"), ["2"]);
}

#[test]
fn remove_finds_the_adapter_wherever_it_is() {
    for (namespace, id, left) in [
        ("N", "AA", vec!["bb"]),
        ("other", "aa", vec!["bb"]),
        ("", "aa", vec!["bb"]),
        ("n", "zz", vec!["AA", "bb"]),
    ] {
        let mut namespaces = with(&["AA", "bb"]);
        namespaces.remove(namespace, id);
        assert_eq!(servers(&namespaces, "n"), left, "{namespace:?} {id}");
        if left.len() == 1 {
            namespaces.begin_add("n", adapter(id, "")).unwrap();
        }
    }
    // By namespace first: the same id elsewhere stays.
    let mut namespaces = with(&["aa"]);
    namespaces.begin_add("m", adapter("aa", "m")).unwrap();
    namespaces.remove("N", "aa");
    assert!(!namespaces.known("n"));
    assert_eq!(servers(&namespaces, "m"), ["m"]);
    // A bound namespace stays without adapters.
    namespaces.bind(Some("m"), "pod").unwrap();
    namespaces.remove("m", "aa");
    assert!(namespaces.known("m"));
}
