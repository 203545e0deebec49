//! Adapters in a real VM, beyond the lines of the checklist: what fails half-way, comes late, goes
//! or never comes, more than two, names resolved from inside, addresses lent for seconds.

#[path = "../common/mod.rs"]
mod common;
mod impossible;

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::{json, Value};
use uvm::container::Container;
use uvm::network::{self, join};
use uvm::Uvm;
use uvm_host::wire::Rpc;
use uvm_host::{HostError, Process, UVM_ID};
use uvm_vm::network::{Nic, HOST};

use common::image::Image;
use common::LONG;

const FAIL: i32 = 0x8000_4005_u32.cast_signed();

fn boot(nics: u8) -> Option<(Image, Uvm)> {
    let mut profile = common::profile()?;
    profile.nics = nics;
    Some((Image::open()?, common::boot_profile(profile)))
}

fn add(vm: &Uvm, settings: Value) -> Result<(), HostError> {
    vm.modify("Network", "Add", settings)
}

#[track_caller]
fn refused(outcome: Result<(), HostError>) -> String {
    match outcome {
        Err(HostError::Refused {
            result: FAIL,
            message,
            ..
        }) => message,
        other => panic!("{other:?}"),
    }
}

/// A container in the namespace that runs until its input ends.
fn running(image: &Image, vm: &Uvm, id: &str, namespace: &str) -> (Container, Process) {
    let container = image.mount(vm, id);
    let mut spec = image.spec(id, &["cat"]);
    join(&mut spec, namespace);
    container.create(&spec).unwrap();
    container.start().unwrap();
    let process = container.init().open_stdin().start().unwrap();
    (container, process)
}

#[track_caller]
fn inside(vm: &Uvm, container: &Container, script: &str) -> String {
    let process = json!({"args": ["/bin/sh", "-c", script], "cwd": "/", "env": ["PATH=/bin:/sbin"],
        "user": {"uid": 0, "gid": 0}});
    let out = vm.exec(container.id(), &process).limit(LONG).run().unwrap();
    assert_eq!(out.code, 0, "{script}: {}{}", out.text(), out.error_text());
    out.text()
}

#[test]
fn an_adapter_that_cannot_be_set_up_goes_back_and_can_be_added_again() {
    let Some((image, vm)) = boot(2) else { return };
    let (first, late) = (Nic::new(0), Nic::new(1));
    add(&vm, network::settings(first, "pod")).unwrap();
    let (pod, process) = running(&image, &vm, "pod", "pod");
    // The same default route with the same metric is there: the last step fails.
    let mut settings = network::bare(late, "pod");
    settings["IPConfigs"] = json!([{"IPAddress": late.ipv4().to_string(), "PrefixLength": 24}]);
    settings["Routes"] = json!([
        {"NextHop": HOST.to_string(), "DestinationPrefix": "0.0.0.0/0", "Metric": 1}]);
    let message = refused(add(&vm, settings));
    assert!(message.contains("route 0.0.0.0/0 by 10.0.2.2"), "{message}");
    let count = inside(&vm, &pod, "ls /sys/class/net | grep -c eth");
    assert_eq!(count, "1\n");
    add(&vm, network::settings(late, "pod")).unwrap();
    let all = inside(&vm, &pod, "ip -4 -o addr; ping -c 1 -W 60 10.0.2.2");
    for nic in [first, late] {
        assert!(all.contains(&nic.ipv4().to_string()), "{all}");
    }
    drop(process);
    pod.remove().unwrap();
}

#[test]
fn each_further_adapter_has_a_table_of_its_own_and_the_last_container_frees_all() {
    let Some((image, vm)) = boot(4) else { return };
    let nics = [0, 1, 2, 3].map(Nic::new);
    for nic in &nics[..3] {
        add(&vm, network::settings(*nic, "pod")).unwrap();
    }
    for round in 0..2 {
        let id = format!("pod{round}");
        let (pod, process) = running(&image, &vm, &id, "pod");
        if round == 0 {
            add(&vm, network::settings(nics[3], "pod")).unwrap();
        }
        let rules = inside(&vm, &pod, "ip rule; ip -6 rule");
        for (nic, table) in nics[1..].iter().zip(101..) {
            let rule = format!("from {} lookup {table}", nic.ipv4());
            assert!(rules.contains(&rule), "{rule}: {rules}");
            let routes = inside(&vm, &pod, &format!("ip route show table {table}"));
            assert!(routes.contains("default via 10.0.2.2"), "{table}: {routes}");
            let rule = format!("from {} lookup {table}", nic.ipv6());
            assert!(rules.contains(&rule), "{rule}: {rules}");
            // Shows the table of IPv6 only here.
            let way = format!("ip -6 route get fd00::9 from {}", nic.ipv6());
            let way = inside(&vm, &pod, &way);
            let wanted = ["via fec0::2", &format!("table {table}")].map(|part| way.contains(part));
            assert_eq!(wanted, [true, true], "{table}: {way}");
            let from = nic.ipv4();
            inside(&vm, &pod, &format!("ping -c 1 -W 60 -I {from} {HOST}"));
        }
        drop(process);
        pod.remove().unwrap();
    }
}

#[test]
fn an_adapter_that_never_comes_keeps_nobody_waiting() {
    let Some(vm) = common::boot() else { return };
    let began = Instant::now();
    let request = json!({"Request": {"ResourceType": "Network", "RequestType": "Add",
        "Settings": network::settings(Nic::new(7), "pod")}});
    let mut added = vm.send(Rpc::ModifySettings, UVM_ID, request).unwrap();
    let mut slowest = Duration::ZERO;
    let mut asked = 0;
    while began.elapsed() < Duration::from_secs(4) {
        let start = Instant::now();
        vm.call(Rpc::Start, UVM_ID, json!({})).unwrap();
        slowest = slowest.max(start.elapsed());
        asked += 1;
    }
    let answer = added.answer(LONG).unwrap();
    assert_eq!(answer.members["Result"], FAIL);
    let text = answer.members["ErrorMessage"].as_str().unwrap().to_owned();
    assert!(text.contains("52:54:00:00:00:07"), "{text}");
    assert!(began.elapsed() >= Duration::from_secs(5));
    println!("{asked} round trips meanwhile, the slowest {slowest:?}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

/// Plugs an adapter into a place of the profile's.
fn plug(vm: &Uvm, nic: Nic) {
    let id = format!("nic{}", nic.number());
    let mut qmp = vm.vm().qmp();
    qmp.command(
        "netdev_add",
        json!({"type": "hubport", "id": id, "hubid": 0}),
    )
    .unwrap();
    let device = json!({"driver": "virtio-net-pci", "id": id, "netdev": id, "mac": nic.mac(),
        "romfile": "", "bus": "port0"});
    qmp.command("device_add", device).unwrap();
}

fn unplug(vm: &Uvm, nic: Nic) {
    let id = format!("nic{}", nic.number());
    let mut qmp = vm.vm().qmp();
    qmp.command("device_del", json!({"id": id})).unwrap();
    qmp.wait_event("DEVICE_DELETED", LONG, |data| data["device"] == id.as_str())
        .unwrap();
    qmp.command("netdev_del", json!({"id": id})).unwrap();
}

#[test]
fn an_adapter_is_plugged_in_while_it_is_waited_for_and_out_while_it_is_used() {
    let Some(mut profile) = common::profile() else {
        return;
    };
    profile.nics = 1;
    // Places for devices that come later.
    profile.pmem_slots = 1;
    let Some(image) = Image::open() else { return };
    let vm = common::boot_profile(profile);
    let (first, late) = (Nic::new(0), Nic::new(9));
    add(&vm, network::settings(first, "pod")).unwrap();
    let (pod, process) = running(&image, &vm, "pod", "pod");
    for round in 0..2 {
        let request = json!({"Request": {"ResourceType": "Network", "RequestType": "Add",
            "Settings": network::settings(late, "pod")}});
        let mut added = vm.send(Rpc::ModifySettings, UVM_ID, request).unwrap();
        // It is being looked for: others are answered.
        vm.call(Rpc::Start, UVM_ID, json!({})).unwrap();
        plug(&vm, late);
        added.wait(LONG).unwrap();
        let ping = format!("ping -c 1 -W 60 -I {} {HOST}", late.ipv4());
        inside(&vm, &pod, &ping);
        let message = refused(add(&vm, network::settings(late, "POD")));
        assert!(message.contains("is in namespace pod already"), "{message}");
        unplug(&vm, late);
        let gone = format!("! grep -q {} /sys/class/net/*/address", late.mac());
        inside(&vm, &pod, &gone);
        vm.modify("Network", "Remove", network::bare(late, "pod"))
            .unwrap();
        inside(&vm, &pod, &format!("ping -c 1 -W 60 {HOST}"));
        println!("round {round}");
    }
    vm.modify("Network", "Remove", network::bare(late, "nobody"))
        .unwrap();
    drop(process);
    pod.remove().unwrap();
}

#[test]
fn settings_that_cannot_be_are_refused_by_name_and_leave_nothing() {
    let Some((image, vm)) = boot(2) else { return };
    let nic = Nic::new(0);
    for (changes, part) in impossible::settings() {
        let mut settings = network::settings(nic, "pod");
        for (name, value) in changes.as_object().unwrap() {
            settings[name] = value.clone();
        }
        let outcome = add(&vm, settings);
        let Err(HostError::Refused { message, .. }) = outcome else {
            panic!("{changes}: {outcome:?}");
        };
        assert!(message.contains(part), "{changes}: {message}");
    }
    // Blanks and doubles in lists of names (more than six domains: P-105).
    let mut settings = network::settings(nic, "pod");
    settings["DNSServerList"] = " 10.0.2.3 ,,10.0.2.4,10.0.2.3, ".into();
    settings["DNSSuffix"] = " a.test,, b.test ,a.test".into();
    add(&vm, settings).unwrap();
    let (pod, process) = running(&image, &vm, "pod", "pod");
    assert_eq!(
        inside(&vm, &pod, "cat /etc/resolv.conf"),
        "search a.test b.test\nnameserver 10.0.2.3\nnameserver 10.0.2.4\n"
    );
    drop(process);
    pod.remove().unwrap();
}

/// It is seen when the adapter is set up, which then stays where it was.
#[test]
fn an_mtu_that_is_too_small_is_refused_and_the_adapter_can_be_added_again() {
    let Some((image, vm)) = boot(2) else { return };
    add(&vm, network::settings(Nic::new(0), "pod")).unwrap();
    let (pod, process) = running(&image, &vm, "pod", "pod");
    let late = Nic::new(1);
    let mut settings = network::settings(late, "pod");
    settings["EncapOverhead"] = 1400.into();
    let message = refused(add(&vm, settings));
    assert!(
        message.contains("EncapOverhead of 1400 leaves 100"),
        "{message}"
    );
    in_vm(
        &vm,
        &format!("grep -q {} /sys/class/net/*/address", late.mac()),
    );
    add(&vm, network::settings(late, "pod")).unwrap();
    let (from, ping) = (late.ipv4(), "ping -c 1 -W 60");
    inside(
        &vm,
        &pod,
        &format!("{ping} {HOST} && {ping} -I {from} {HOST}"),
    );
    drop(process);
    pod.remove().unwrap();
}

/// Runs a script in the VM itself.
#[track_caller]
fn in_vm(vm: &Uvm, script: &str) -> String {
    let out = vm
        .external(&["/bin/sh", "-c", script])
        .limit(LONG)
        .run()
        .unwrap();
    assert_eq!(out.code, 0, "{script}: {}{}", out.text(), out.error_text());
    out.text()
}

/// Waits until there are more such records than `before`.
#[track_caller]
fn told(vm: &Uvm, before: usize, text: &str) {
    let deadline = Instant::now() + LONG;
    let is = |record: &uvm_host::log::Record| record.message.contains(text);
    while vm.log_records().into_iter().filter(is).count() <= before {
        assert!(Instant::now() < deadline, "no record {text:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_lent_address_is_prolonged_goes_with_its_lease_and_comes_back() {
    let Some((image, vm)) = boot(0) else { return };
    // The adapter is one end of a pair whose other end has a DHCP server, in the VM itself.
    let nic = Nic::new(9);
    let server = "10.0.9.1";
    in_vm(
        &vm,
        &format!(
            "ip link add there type veth && ip link set there address {} && \
             ip addr add {server}/24 dev veth0 && ip link set veth0 up && \
             printf 'start 10.0.9.20\nend 10.0.9.20\ninterface veth0\nlease_file /run/leases\n\
             opt subnet 255.255.255.0\nopt router {server}\nopt lease 8\n' > /run/udhcpd.conf && \
             : > /run/leases",
            nic.mac()
        ),
    );
    let serve = || {
        vm.external(&["/bin/udhcpd", "-f", "/run/udhcpd.conf"])
            .start()
            .unwrap()
    };
    let dhcpd = serve();
    let mut settings = network::bare(nic, "pod");
    // With a table of its own, which has to be cleared as well.
    settings["EnableLowMetric"] = true.into();
    add(&vm, settings).unwrap();
    let (pod, process) = running(&image, &vm, "pod", "pod");
    let addresses = "ip -4 -o addr show dev there; ip rule | grep 10.0.9 ; ip route show table 101";
    let with = inside(&vm, &pod, addresses);
    for part in [
        "inet 10.0.9.20/24",
        "from 10.0.9.20 lookup 101",
        "default via 10.0.9.1",
    ] {
        assert!(with.contains(part), "{with}");
    }
    // Three times half of it: longer than the lease.
    told(&vm, 2, "10.0.9.20/24 is prolonged");
    assert_eq!(inside(&vm, &pod, addresses), with);
    let dump = vm.dump_stacks().unwrap();
    assert!(dump.contains("pod there 10.0.9.20/24 failed=0"), "{dump}");

    vm.signal(UVM_ID, dhcpd.pid, 9).unwrap();
    drop(dhcpd);
    told(&vm, 0, "the lease of 10.0.9.20/24 is over");
    assert_eq!(inside(&vm, &pod, &format!("{addresses}; true")), "");
    // Nothing else suffers, and another server helps.
    let again = serve();
    told(&vm, 0, "the address is 10.0.9.20/24 now");
    assert_eq!(inside(&vm, &pod, addresses), with);
    inside(&vm, &pod, &format!("ping -c 1 -W 60 {server}"));
    // With the container all that ends.
    drop(process);
    pod.remove().unwrap();
    let dump = vm.dump_stacks().unwrap();
    assert!(
        !dump.contains("Tenancy") && !dump.contains("10.0.9.20/24 failed"),
        "{dump}"
    );
    vm.signal(UVM_ID, again.pid, 9).unwrap();
}

#[test]
fn names_are_resolved_from_inside_by_the_hosts_list() {
    let Some((image, vm)) = boot(1) else { return };
    // The user-mode network leads 10.0.2.2 to this machine's loopback.
    let socket = match UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)) {
        Ok(socket) => socket,
        Err(error) => {
            println!("SKIPPED: no name server of ours at 127.0.0.1:53: {error}");
            return;
        }
    };
    std::thread::spawn(move || serve_names(&socket));
    let mut settings = network::settings(Nic::new(0), "pod");
    settings["DNSServerList"] = HOST.to_string().into();
    settings["DNSSuffix"] = "pod.test".into();
    add(&vm, settings).unwrap();
    let (pod, process) = running(&image, &vm, "pod", "pod");
    let file = inside(&vm, &pod, "cat /etc/resolv.conf");
    assert_eq!(file, "search pod.test\nnameserver 10.0.2.2\n");
    let said = inside(&vm, &pod, "nslookup -type=a box.pod.test");
    assert!(said.contains("10.9.8.7"), "{said}");
    drop(process);
    pod.remove().unwrap();
}

/// Answers every question with 10.9.8.7.
fn serve_names(socket: &UdpSocket) {
    let mut query = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut query) {
        let question = &query[12..length];
        let mut answer = query[..2].to_vec();
        // A response without error; one question, one answer.
        answer.extend([0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        answer.extend(question);
        // The name of the question, type A, class IN, 60 s, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 9, 8, 7]);
        socket.send_to(&answer, from).ok();
    }
}
