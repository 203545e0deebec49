//! The text of the files under `/etc` that every container gets. Pure.

use super::document::{text, Object};
use crate::error::Failure;

/// The generated files, under `/etc` in the container.
pub(super) const NAMES: [&str; 3] = ["hostname", "hosts", "resolv.conf"];
/// Longest host name in bytes, as later hosts have it.
const HOSTNAME_MAX: usize = 255;
/// More search domains are an error; some C libraries take no more (5.8).
const SEARCH_MAX: usize = 6;

/// The DNS settings of one adapter, as the host sends them: comma-separated lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdapterDns {
    pub dns_suffix: String,
    pub dns_servers: String,
}

pub(super) fn destination(name: &str) -> String {
    format!("/etc/{name}")
}

/// All of [`NAMES`] with their text. `uvm` is the name of a container without one.
pub(super) fn contents(
    spec: &Object,
    uvm: &str,
    adapters: &[AdapterDns],
) -> Result<[(&'static str, String); 3], Failure> {
    let given = text(spec, "hostname")?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    if given.len() > HOSTNAME_MAX || !given.bytes().all(plain) {
        return Err(Failure::unspecified(format!(
            "hostname: a host name has at most {HOSTNAME_MAX} letters, digits, '_', '-' and '.'"
        )));
    }
    // The kernel calls a VM without a name "(none)". That is no good name, but it is the VM's.
    let name = if given.is_empty() { uvm } else { given };
    let [hostname, hosts_file, resolv] = NAMES;
    Ok([
        (hostname, format!("{name}\n")),
        (hosts_file, hosts(name)),
        (resolv, resolv_conf(adapters)?),
    ])
}

/// `/etc/hosts`, byte for byte as in 5.7.
pub fn hosts(name: &str) -> String {
    let alias = match name.split_once('.') {
        Some((first, _)) => format!("{name} {first}"),
        None => name.to_owned(),
    };
    format!(
        "127.0.0.1 localhost\n\
         127.0.0.1 {alias}\n\
         \n\
         # The following lines are desirable for IPv6 capable hosts\n\
         ::1     ip6-localhost ip6-loopback\n\
         fe00::0 ip6-localnet\n\
         ff00::0 ip6-mcastprefix\n\
         ff02::1 ip6-allnodes\n\
         ff02::2 ip6-allrouters\n"
    )
}

/// `/etc/resolv.conf` from the adapters in the order added (5.8).
pub fn resolv_conf(adapters: &[AdapterDns]) -> Result<String, Failure> {
    let search = merge(adapters.iter().map(|a| a.dns_suffix.as_str()));
    let servers = merge(adapters.iter().map(|a| a.dns_servers.as_str()));
    if search.len() > SEARCH_MAX {
        return Err(Failure::unspecified(format!(
            "resolv.conf: {} DNS search domains, at most {SEARCH_MAX} are possible",
            search.len()
        )));
    }
    let mut text = String::new();
    if !search.is_empty() {
        text += &format!("search {}\n", search.join(" "));
    }
    for server in servers {
        text += &format!("nameserver {server}\n");
    }
    Ok(text)
}

/// The parts of comma-separated lists, trimmed, each once, as first seen.
fn merge<'a>(lists: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut merged = Vec::new();
    for part in lists.flat_map(|list| list.split(',')).map(str::trim) {
        if !part.is_empty() && !merged.contains(&part) {
            merged.push(part);
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = "\n# The following lines are desirable for IPv6 capable hosts\n::1     ip6-localhost ip6-loopback\nfe00::0 ip6-localnet\nff00::0 ip6-mcastprefix\nff02::1 ip6-allnodes\nff02::2 ip6-allrouters\n";

    #[test]
    fn hosts_names_the_first_label_of_a_dotted_name() {
        for (name, line) in [
            ("box", "127.0.0.1 box"),
            ("box.example.org", "127.0.0.1 box.example.org box"),
            ("box.", "127.0.0.1 box. box"),
        ] {
            assert_eq!(hosts(name), format!("127.0.0.1 localhost\n{line}\n{REST}"));
        }
    }

    #[test]
    fn resolv_conf_merges_in_order_without_duplicates() {
        let adapter = |suffix: &str, servers: &str| AdapterDns {
            dns_suffix: suffix.into(),
            dns_servers: servers.into(),
        };
        for (adapters, text) in [
            (vec![], ""),
            (vec![adapter("", "")], ""),
            (vec![adapter("a", "")], "search a\n"),
            (
                vec![adapter("", "1.1.1.1,::1")],
                "nameserver 1.1.1.1\nnameserver ::1\n",
            ),
            (
                vec![adapter("b, a,,b", " 2 ,1"), adapter("c,a", "1,3")],
                "search b a c\nnameserver 2\nnameserver 1\nnameserver 3\n",
            ),
            (vec![adapter("a,b,c,d,e,f,a", "")], "search a b c d e f\n"),
        ] {
            assert_eq!(resolv_conf(&adapters).unwrap(), text, "{adapters:?}");
        }
        assert!(resolv_conf(&[adapter("a,b,c", ""), adapter("d,e,f,g", "")]).is_err());
    }
}
