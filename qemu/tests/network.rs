//! Adapters in a real VM, beyond the lines of the checklist: what fails half-way, what never
//! comes, more than two, and names resolved from inside.

mod common;

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use qemu::container::Container;
use qemu::host::wire::Rpc;
use qemu::host::{HostError, Process, UVM_ID};
use qemu::network::{join, Nic, HOST};
use qemu::uvm::Uvm;
use serde_json::{json, Value};

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
    add(&vm, first.settings("pod")).unwrap();
    let (pod, process) = running(&image, &vm, "pod", "pod");
    // The same default route with the same metric is there: the last step fails.
    let mut settings = late.bare("pod");
    settings["IPConfigs"] = json!([{"IPAddress": late.ipv4().to_string(), "PrefixLength": 24}]);
    settings["Routes"] = json!([
        {"NextHop": HOST.to_string(), "DestinationPrefix": "0.0.0.0/0", "Metric": 1}]);
    let message = refused(add(&vm, settings));
    assert!(message.contains("route 0.0.0.0/0 by 10.0.2.2"), "{message}");
    let count = inside(&vm, &pod, "ls /sys/class/net | grep -c eth");
    assert_eq!(count, "1\n");
    add(&vm, late.settings("pod")).unwrap();
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
        add(&vm, nic.settings("pod")).unwrap();
    }
    for round in 0..2 {
        let id = format!("pod{round}");
        let (pod, process) = running(&image, &vm, &id, "pod");
        if round == 0 {
            add(&vm, nics[3].settings("pod")).unwrap();
        }
        let rules = inside(&vm, &pod, "ip rule");
        for (nic, table) in nics[1..].iter().zip(101..) {
            let rule = format!("from {} lookup {table}", nic.ipv4());
            assert!(rules.contains(&rule), "{rule}: {rules}");
            let routes = inside(&vm, &pod, &format!("ip route show table {table}"));
            assert!(routes.contains("default via 10.0.2.2"), "{table}: {routes}");
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
        "Settings": Nic::new(7).settings("pod")}});
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
    let mut settings = Nic::new(0).settings("pod");
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
