//! Network namespaces, adapters and the files that name them; policies.
//!
//! Adapters are QEMU's, so a guest that knows them only by VMBus finds none: what needs one is
//! then not run. Traffic goes to a listener of this process, over the VM's user-mode network.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::time::{Duration, Instant};

use serde_json::json;

use super::nics::{add, configured, in_vm, interface, member, running, sandbox, with_nics};
use super::{Area, Scenario};
use crate::{codes, contains, not_run, refused, same, that, Checked, Container, LIMIT};
use uvm::network;
use uvm_host::wire::Rpc;
use uvm_host::UVM_ID;
use uvm_vm::network::{Nic, HOST, HOST_V6};

pub const AREA: Area = Area {
    name: "network",
    scenarios: SCENARIOS,
    not_run: &[],
};

/// How long a guest may take to report that an adapter does not appear (7.8), with room for a busy
/// machine.
const ARRIVAL: Duration = Duration::from_secs(5);
/// A listener on this machine that answers a line with another.
fn listener(on: IpAddr) -> Checked<u16> {
    let listener = TcpListener::bind((on, 0))
        .map_err(|e| not_run(format!("this machine cannot listen at {on}: {e}")))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            stream.set_read_timeout(Some(LIMIT)).ok();
            let mut line = [0; 4];
            if stream.read_exact(&mut line).is_ok() && &line == b"ping" {
                stream.write_all(b"pong\n").ok();
            }
        }
    });
    Ok(port)
}

/// Sends a line from the container to this machine and back.
fn reaches_host(container: &Container<'_>, host: IpAddr, port: u16) -> Checked {
    let said = container.sh(&format!("echo ping | nc -w 30 {host} {port}"))?;
    same("what this machine answered", "pong".to_owned(), said)
}

fn ipv4(container: &Container<'_>) -> Checked {
    reaches_host(
        container,
        HOST.into(),
        listener(Ipv4Addr::LOCALHOST.into())?,
    )
}

/// IPv6 as far as this machine has it.
fn ipv6(container: &Container<'_>) -> Checked {
    match listener(Ipv6Addr::LOCALHOST.into()) {
        Ok(port) => reaches_host(container, HOST_V6.into(), port),
        Err(_) => container
            .sh(&format!("ping -6 -c 1 -W 30 {HOST_V6}"))
            .map(drop),
    }
}

const SCENARIOS: &[(u16, Scenario)] = &[
    (134, |lab| {
        let (vm, nic) = (with_nics(lab, 1)?, Nic::new(0));
        add(&vm, network::settings(nic, "early"))?;
        same("adapters left in the VM", "1".to_owned(), in_vm(&vm, nic)?)?;
        let pod = sandbox(&vm, Some("early")).create()?;
        same("adapters left in the VM", "0".to_owned(), in_vm(&vm, nic)?)?;
        // The first process exists and waits, so what it is given is there.
        let process = pod.init().open_stdin().start()?;
        let addresses = pod.sh(&format!("ip addr show dev {}", interface(&pod, nic)?))?;
        contains("ip addr", &format!("inet {}/24", nic.ipv4()), &addresses)?;
        drop(process);
        pod.remove()
    }),
    (264, |lab| {
        let vm = with_nics(lab, 2)?;
        let nics = [Nic::new(0), Nic::new(1)];
        // Two pods, on one LAN with each other and with this machine.
        add(&vm, network::settings(nics[0], "one"))?;
        add(&vm, network::settings(nics[1], "two"))?;
        let (one, first) = running(&vm, "one")?;
        let (two, second) = running(&vm, "two")?;
        for (pod, other) in [(&one, nics[1]), (&two, nics[0])] {
            let (v4, v6) = (other.ipv4(), other.ipv6());
            pod.sh(&format!("ping -c 1 -W 30 {v4} && ping -6 -c 1 -W 30 {v6}"))?;
            ipv4(pod)?;
            ipv6(pod)?;
            contains(
                "/etc/resolv.conf",
                "nameserver 10.0.2.3",
                &pod.sh("cat /etc/resolv.conf")?,
            )?;
        }
        drop((first, second));
        one.remove()?;
        two.remove()
    }),
    (265, |lab| {
        let vm = with_nics(lab, 2)?;
        let (first, late) = (Nic::new(0), Nic::new(1));
        add(&vm, network::settings(first, "late"))?;
        let (pod, process) = running(&vm, "late")?;
        let before = configured(&pod, first)?;
        that(
            before.len() >= 4,
            "two addresses and two routes",
            format!("{before:?}"),
        )?;
        add(&vm, network::settings(late, "late"))?;
        same("the first adapter", before, configured(&pod, first)?)?;
        same("adapters left in the VM", "0".to_owned(), in_vm(&vm, late)?)?;
        let addresses = pod.sh(&format!("ip addr show dev {}", interface(&pod, late)?))?;
        contains("ip addr", &format!("inet {}/24", late.ipv4()), &addresses)?;
        ipv4(&pod)?;
        drop(process);
        pod.remove()
    }),
    (266, |lab| {
        let vm = with_nics(lab, 1)?;
        let nic = Nic::new(0);
        add(&vm, network::settings(nic, "twice"))?;
        for (namespace, id) in [("twice", nic.id()), ("TWICE", nic.id().to_uppercase())] {
            let mut again = network::settings(nic, namespace);
            again["ID"] = id.into();
            refused(vm.modify("Network", "Add", again), codes::FAIL)?;
        }
        // The first is still good.
        let pod = member(&vm, "twice").create()?;
        pod.remove()
    }),
    (267, |lab| {
        let vm = with_nics(lab, 2)?;
        let nics = [Nic::new(0), Nic::new(1)];
        for nic in nics {
            add(&vm, network::settings(nic, "metrics"))?;
        }
        let (pod, process) = running(&vm, "metrics")?;
        let names = [interface(&pod, nics[0])?, interface(&pod, nics[1])?];
        for (nic, name) in nics.iter().zip(&names) {
            let shown = pod.sh(&format!("ip addr show dev {name}"))?;
            contains("ip addr", &format!("inet {}/24", nic.ipv4()), &shown)?;
            contains("ip addr", &format!("inet6 {}/64", nic.ipv6()), &shown)?;
            contains("ip addr", ",UP", &shown)?;
        }
        let [first, second] = names;
        let main = pod.sh("ip route show")?;
        contains(
            "the main table",
            &format!("default via {HOST} dev {first}"),
            &main,
        )?;
        contains("the main table", "metric 1", &main)?;
        that(
            !main.contains(&format!("default via {HOST} dev {second}")),
            "no default route of the second adapter in the main table",
            &main,
        )?;
        let other = pod.sh("ip route show table 101")?;
        contains(
            "table 101",
            &format!("default via {HOST} dev {second}"),
            &other,
        )?;
        contains("table 101", "metric 500", &other)?;
        let rules = pod.sh("ip rule show")?;
        let rule = format!("5:\tfrom {} lookup 101", nics[1].ipv4());
        contains("the rules", &rule, &rules)?;
        ipv4(&pod)?;
        // Out by the second adapter, because of where it comes from.
        let from = nics[1].ipv4();
        let way = pod.sh(&format!("ip route get 10.9.9.9 from {from}"))?;
        contains("ip route get", &format!("via {HOST} dev {second}"), &way)?;
        pod.sh(&format!("ping -c 1 -W 30 -I {from} {HOST}"))?;
        drop(process);
        pod.remove()
    }),
    (268, |lab| {
        let (vm, nic) = (with_nics(lab, 1)?, Nic::new(0));
        let mut settings = network::settings(nic, "outside");
        settings["PrefixLength"] = 32.into();
        settings["IPv6PrefixLength"] = 128.into();
        add(&vm, settings)?;
        let (pod, process) = running(&vm, "outside")?;
        ipv4(&pod)?;
        ipv6(&pod)?;
        drop(process);
        pod.remove()
    }),
    (269, |lab| {
        let (vm, nic) = (with_nics(lab, 1)?, Nic::new(0));
        let mtu = |text: String| text.parse::<u32>().unwrap_or(0);
        let before = vm.sh(&format!(
            "cat $(dirname $(grep -l {} /sys/class/net/*/address))/mtu",
            nic.mac()
        ))?;
        let mut settings = network::settings(nic, "overhead");
        settings["EncapOverhead"] = 50.into();
        add(&vm, settings)?;
        let (pod, process) = running(&vm, "overhead")?;
        let name = interface(&pod, nic)?;
        let after = pod.sh(&format!("cat /sys/class/net/{name}/mtu"))?;
        same("the MTU", mtu(before).saturating_sub(50), mtu(after))?;
        ipv4(&pod)?;
        drop(process);
        pod.remove()
    }),
    (270, |lab| {
        let (vm, nic) = (with_nics(lab, 1)?, Nic::new(0));
        add(&vm, network::bare(nic, "dhcp"))?;
        let (pod, process) = running(&vm, "dhcp")?;
        let shown = pod.sh(&format!("ip addr show dev {}", interface(&pod, nic)?))?;
        contains("ip addr", "inet 10.0.2.", &shown)?;
        contains(
            "the main table",
            &format!("default via {HOST}"),
            &pod.sh("ip route")?,
        )?;
        ipv4(&pod)?;
        drop(process);
        pod.remove()
    }),
    (271, |lab| {
        let (vm, nic) = (with_nics(lab, 1)?, Nic::new(0));
        let mut settings = network::bare(nic, "lists");
        let second = Ipv4Addr::new(10, 0, 2, 77);
        settings["IPConfigs"] = json!([
            {"IPAddress": nic.ipv4().to_string(), "PrefixLength": 24},
            {"IPAddress": second.to_string(), "PrefixLength": 24},
            {"IPAddress": nic.ipv6().to_string(), "PrefixLength": 64},
        ]);
        settings["Routes"] = json!([
            {"NextHop": HOST.to_string(), "DestinationPrefix": "0.0.0.0/0", "Metric": 7},
            {"NextHop": "::", "DestinationPrefix": "::/0"},
            {"NextHop": HOST.to_string(), "DestinationPrefix": "10.9.0.0/16"},
        ]);
        add(&vm, settings)?;
        let (pod, process) = running(&vm, "lists")?;
        let name = interface(&pod, nic)?;
        let shown = pod.sh(&format!("ip addr show dev {name}"))?;
        for address in [nic.ipv4(), second] {
            contains("ip addr", &format!("inet {address}/24"), &shown)?;
        }
        contains("ip addr", &format!("inet6 {}/64", nic.ipv6()), &shown)?;
        let routes = pod.sh("ip route")?;
        for route in [
            format!("default via {HOST} dev {name}  metric 7"),
            format!("10.9.0.0/16 via {HOST} dev {name}"),
        ] {
            contains("the main table", &route, &routes)?;
        }
        ipv4(&pod)?;
        drop(process);
        pod.remove()
    }),
    (272, |lab| {
        let (vm, nic) = (with_nics(lab, 1)?, Nic::new(0));
        let remove =
            |namespace: &str| vm.modify("Network", "Remove", network::bare(nic, namespace));
        remove("nobody")?;
        add(&vm, network::settings(nic, "removed"))?;
        remove("removed")?;
        add(&vm, network::settings(nic, "removed"))?;
        // Hosts name another namespace than the one they added to.
        remove("other")?;
        add(&vm, network::settings(nic, "again"))?;
        let (pod, process) = running(&vm, "again")?;
        ipv4(&pod)?;
        drop(process);
        pod.remove()
    }),
    (273, |lab| {
        let (vm, nic) = (with_nics(lab, 1)?, Nic::new(0));
        // A guest that cannot find it here answers so, and then there is nothing to wait for.
        add(&vm, network::settings(nic, "there"))?;
        vm.modify("Network", "Remove", network::bare(nic, "there"))?;
        let driver = "/sys/bus/virtio/drivers/virtio_net";
        let device = vm.sh(&format!(
            "cd {driver} && for d in virtio*; do \
             grep -q {} $d/net/*/address && echo $d; done",
            nic.mac()
        ))?;
        vm.sh(&format!("echo {device} > {driver}/unbind"))?;
        let began = Instant::now();
        refused(
            vm.modify("Network", "Add", network::settings(nic, "gone")),
            codes::FAIL,
        )?;
        that(
            began.elapsed() >= ARRIVAL,
            "a refusal after 5 s",
            format!("{:?}", began.elapsed()),
        )?;
        // One that comes while it is waited for.
        let request = json!({"Request": {"ResourceType": "Network", "RequestType": "Add",
            "Settings": network::settings(nic, "gone")}});
        let mut added = vm.send(Rpc::ModifySettings, UVM_ID, request)?;
        vm.sh(&format!("echo {device} > {driver}/bind"))?;
        added.wait(LIMIT)?;
        let (pod, process) = running(&vm, "gone")?;
        ipv4(&pod)?;
        drop(process);
        pod.remove()
    }),
    (279, |lab| {
        let (vm, nic) = (with_nics(lab, 1)?, Nic::new(0));
        add(&vm, network::settings(nic, "again"))?;
        for _ in 0..3 {
            let (pod, process) = running(&vm, "again")?;
            let second = member(&vm, "again").try_create()?;
            refused(second, codes::FAIL)?;
            ipv4(&pod)?;
            drop(process);
            pod.remove()?;
        }
        // Also after a Create that failed once the namespace was taken.
        let broken = member(&vm, "again")
            .args(&["/no/such/program"])
            .try_create()?;
        if let Ok(container) = broken {
            container.remove()?;
        }
        vm.modify("Network", "Remove", network::bare(nic, "again"))?;
        add(&vm, network::settings(nic, "again"))?;
        let (pod, process) = running(&vm, "again")?;
        ipv4(&pod)?;
        drop(process);
        pod.remove()
    }),
];
