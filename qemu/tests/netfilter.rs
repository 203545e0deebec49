//! Packet filters of pods, as kube-proxy writes them: a pod with NET_ADMIN loads rules with
//! Debian's iptables, the older and the newer, and packets take them.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use uvm::network::{self, join};
use uvm_conformance::{Container, Guest, Lab};
use uvm_host::MappedVirtualDisk;
use uvm_vm::network::Nic;
use uvm_vm::profile::ColdDisk;

/// Where containers have Debian's programs.
const PROGRAMS: &str = "/nf";
const SERVICE: &str = "10.96.0.10";
/// An address that no packet finds back to: what comes from it has to be masqueraded.
const LOST: &str = "172.31.0.1";

/// The programs, their libraries and extensions, as a disk.
fn disk(dir: &Path) -> Option<PathBuf> {
    let mut files = Vec::new();
    for name in ["xtables-legacy-multi", "xtables-nft-multi"] {
        let Some(path) = uvm_vm::choice::program(name) else {
            println!("SKIPPED: {name} is not there (Debian: iptables)");
            return None;
        };
        files.push(path);
    }
    for entry in std::fs::read_dir("/usr/lib/x86_64-linux-gnu/xtables").unwrap() {
        files.push(entry.unwrap().path());
    }
    // Of all, what they need: the loader too.
    let listed = Command::new("ldd").args(&files).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let words = listed.split_whitespace();
    let paths = words.filter(|word| word.starts_with('/') && !word.ends_with(':'));
    files.extend(paths.map(PathBuf::from));
    let root = dir.join("programs");
    std::fs::create_dir(&root).unwrap();
    for file in files {
        std::fs::copy(&file, root.join(file.file_name().unwrap())).unwrap();
    }
    let image = dir.join("programs.ext4");
    std::fs::File::create(&image)
        .unwrap()
        .set_len(32 << 20)
        .unwrap();
    let made = Command::new(uvm_vm::choice::program("mke2fs")?)
        .args(["-q", "-t", "ext4", "-d"])
        .args([&root, &image])
        .status()
        .unwrap();
    assert!(made.success());
    Some(image)
}

/// An adapter on a LAN without QEMU's user-mode network, which answers for whatever address it
/// sees: TCP between adapters would meet it.
fn wire(nic: Nic) -> [String; 4] {
    let (id, mac) = (nic.number(), nic.mac());
    [
        "-netdev".into(),
        format!("hubport,id=nic{id},hubid=1"),
        "-device".into(),
        format!("virtio-net-pci,netdev=nic{id},mac={mac},romfile="),
    ]
}

/// A pod in a namespace of its own.
fn pod<'g>(vm: &'g Guest, nic: Nic, programs: &str) -> Container<'g> {
    let namespace = format!("pod{}", nic.number());
    vm.modify("Network", "Add", network::settings(nic, &namespace))
        .unwrap();
    vm.container("cat")
        .with_mount(PROGRAMS, programs, &["rbind", "ro"])
        .edit(|spec| {
            join(spec, &namespace);
            for set in ["bounding", "effective", "permitted"] {
                let set = &mut spec["process"]["capabilities"][set];
                set.as_array_mut().unwrap().push(json!("CAP_NET_ADMIN"));
            }
        })
        .create()
        .unwrap()
}

/// The rules of a service with two endpoints, in the shape that kube-proxy gives them.
fn rules(ports: [u16; 2], to: Nic) -> String {
    let to = to.ipv4();
    let [one, two] = ports;
    format!(
        "*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SVC-ECHO - [0:0]
:KUBE-SEP-ONE - [0:0]
:KUBE-SEP-TWO - [0:0]
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully
-A KUBE-SERVICES -d {SERVICE}/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-ECHO
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j RETURN
-A KUBE-SVC-ECHO -j KUBE-MARK-MASQ
-A KUBE-SVC-ECHO -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-ONE
-A KUBE-SVC-ECHO -j KUBE-SEP-TWO
-A KUBE-SEP-ONE -p tcp -m tcp -j DNAT --to-destination {to}:{one}
-A KUBE-SEP-TWO -p tcp -m tcp -j DNAT --to-destination {to}:{two}
COMMIT
*filter
:KUBE-FORWARD - [0:0]
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A OUTPUT -d 10.96.0.11/32 -p tcp -m multiport --dports 80,443 -j REJECT --reject-with icmp-port-unreachable
COMMIT
"
    )
}

/// A command line of Debian's iptables, the older variant or the newer.
fn xtables(variant: &str, args: &str) -> String {
    format!(
        "XTABLES_LIBDIR={PROGRAMS} XTABLES_LOCKFILE=/tmp/xtables.lock \
         {PROGRAMS}/ld-linux-x86-64.so.2 --library-path {PROGRAMS} \
         {PROGRAMS}/xtables-{variant}-multi {args}"
    )
}

/// A VM with three adapters and, mounted at `path`, the disk with the programs.
fn with_programs(lab: &Lab, disk: PathBuf, path: &str) -> Guest {
    let booted = lab.boot(|boot| {
        boot.profile.qemu_arguments = [0, 1, 2].map(Nic::new).into_iter().flat_map(wire).collect();
        boot.profile.disks.push(ColdDisk {
            path: disk,
            format: "raw".into(),
            read_only: true,
        });
    });
    let vm = booted.unwrap();
    vm.add_disk(&MappedVirtualDisk::new(0, 0, path, true))
        .unwrap();
    vm
}

#[test]
fn rules_of_a_service_lead_packets_to_its_endpoints() {
    let Some(lab) = common::lab() else { return };
    let dir = tempfile::tempdir().unwrap();
    let Some(image) = disk(dir.path()) else {
        return;
    };
    let programs = "/run/mounts/scsi/m1";
    let vm = with_programs(&lab, image, programs);
    let [server, ..] = [0, 1, 2].map(Nic::new);
    let endpoints = pod(&vm, server, programs);
    let served = endpoints.init().open_stdin().start().unwrap();
    let ports = [8081, 8082];
    let loops: Vec<_> = ports
        .iter()
        .map(|port| {
            let answer = format!("exec nc -ll -p {port} -e echo from {port}");
            endpoints.exec(&answer).start().unwrap()
        })
        .collect();
    for (nic, variant) in [(Nic::new(1), "legacy"), (Nic::new(2), "nft")] {
        let client = pod(&vm, nic, programs);
        let process = client.init().open_stdin().start().unwrap();
        let run = |args: &str| xtables(variant, args);
        let load = format!(
            "mkdir -p /tmp; cat > /tmp/rules <<'END'\n{}END\n{} < /tmp/rules",
            rules(ports, server),
            run("iptables-restore --noflush")
        );
        client.sh(&load).unwrap();
        client
            .sh(&format!(
                "ip addr add {LOST}/32 dev lo && \
                 ip route add 10.96.0.0/12 dev $(ls /sys/class/net | grep eth) src {LOST}"
            ))
            .unwrap();
        // Without the rules, and by IPv6.
        let direct = format!("nc -w 30 {} {} < /dev/null", server.ipv6(), ports[0]);
        assert_eq!(client.sh(&direct).unwrap(), "from 8081", "{variant}");
        // Each endpoint answers some; 60 times the same is as likely as never.
        let ask = format!(
            "for i in $(seq 60); do nc -w 30 {SERVICE} 80 < /dev/null; done | sort | uniq -c"
        );
        let said = client.sh(&ask).unwrap();
        println!("{variant}: {said}");
        for port in ports {
            assert!(said.contains(&format!("from {port}")), "{variant}: {said}");
        }
        // Not answered by silence: nobody waits here.
        let refused = "nc -w 60 10.96.0.11 80 < /dev/null; echo $?";
        assert_eq!(client.sh(refused).unwrap(), "1", "{variant}");
        let counted = client.sh(&run("iptables-save -c -t nat")).unwrap();
        let masqueraded = counted
            .lines()
            .find(|line| line.contains("MASQUERADE"))
            .unwrap();
        assert!(!masqueraded.starts_with("[0:0]"), "{variant}: {counted}");
        // The rules are the pod's own.
        let elsewhere = endpoints.sh(&run("iptables-save -t nat")).unwrap();
        assert!(!elsewhere.contains("KUBE"), "{elsewhere}");
        drop(process);
        client.remove().unwrap();
    }
    drop((loops, served));
    endpoints.kill().unwrap();
    endpoints.remove().unwrap();
}
