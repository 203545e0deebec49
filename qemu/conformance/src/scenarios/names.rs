//! The files of a pod that name it and its servers, from the adapters of its network namespace.

use super::nics::{add, know, sandbox, with_nics};
use super::{Area, Scenario};
use crate::{codes, not_run, refused, same, Checked, Container, Guest};
use uvm::network;
use uvm_vm::network::Nic;

pub const AREA: Area = Area {
    name: "names",
    scenarios: SCENARIOS,
    not_run: &[],
};

/// The generated files of a sandbox: `hostname`, `hosts`, `resolv.conf`.
fn file(vm: &Guest, sandbox: &Container<'_>, name: &str) -> Checked<String> {
    vm.sh(&format!("cat /run/gcs/c/{}/{name}; echo .", sandbox.id()))
        .map(|text| text.trim_end_matches('.').to_owned())
}

/// The text of `/etc/hosts` for these names (protocol 5.7).
fn hosts(names: &str) -> String {
    format!(
        "127.0.0.1 localhost\n127.0.0.1 {names}\n\n\
         # The following lines are desirable for IPv6 capable hosts\n\
         ::1     ip6-localhost ip6-loopback\nfe00::0 ip6-localnet\nff00::0 ip6-mcastprefix\n\
         ff02::1 ip6-allnodes\nff02::2 ip6-allrouters\n"
    )
}

const SCENARIOS: &[(u16, Scenario)] = &[
    (102, |lab| {
        let vm = with_nics(lab, 1)?;
        know(&vm, network::settings(Nic::new(0), "files"))?;
        let pod = sandbox(&vm, Some("files"))
            .edit(|spec| spec["hostname"] = "box".into())
            .create()?;
        let dir = format!("/run/gcs/c/{}", pod.id());
        let modes = vm.sh(&format!(
            "cd {dir} && stat -c %a hostname hosts resolv.conf | tr '\\n' ' '"
        ))?;
        same("modes", "644 644 644 ".to_owned(), modes)?;
        same("hostname", "box\n".to_owned(), file(&vm, &pod, "hostname")?)?;
        pod.remove()
    }),
    (103, |lab| {
        let vm = with_nics(lab, 1)?;
        know(&vm, network::settings(Nic::new(0), "hosts"))?;
        for (name, names) in [("box", "box"), ("box.example.org", "box.example.org box")] {
            let pod = sandbox(&vm, Some("hosts")).edit(|spec| spec["hostname"] = name.into());
            let container = pod.create()?;
            same("hosts", hosts(names), file(&vm, &container, "hosts")?)?;
            container.remove()?;
            // A guest may let a namespace be used only once (P-279).
            vm.modify("Network", "Remove", network::bare(Nic::new(0), "hosts"))?;
            if name == "box" && know(&vm, network::settings(Nic::new(0), "hosts")).is_err() {
                return Err(not_run("the adapter cannot be added a second time"));
            }
        }
        Ok(())
    }),
    (104, |lab| {
        let vm = with_nics(lab, 1)?;
        know(&vm, network::settings(Nic::new(0), "name"))?;
        let name = vm.sh("hostname")?;
        let pod = sandbox(&vm, Some("name")).edit(|spec| spec["hostname"] = "".into());
        let container = pod.create()?;
        same(
            "hostname",
            format!("{name}\n"),
            file(&vm, &container, "hostname")?,
        )?;
        container.remove()
    }),
    (105, |lab| {
        let vm = with_nics(lab, 2)?;
        let table = [
            ("none", [("", ""), ("", "")], Some("")),
            (
                "merged",
                [("a.test,b.test", "10.0.2.3,10.0.2.4"), ("b.test,c.test", "10.0.2.4,::1")],
                Some("search a.test b.test c.test\nnameserver 10.0.2.3\nnameserver 10.0.2.4\nnameserver ::1\n"),
            ),
            ("servers", [("", "10.0.2.9"), ("", "")], Some("nameserver 10.0.2.9\n")),
            ("six", [("a,b,c", ""), ("d,e,f", "")], Some("search a b c d e f\n")),
            ("seven", [("a,b,c", ""), ("d,e,f,g", "")], None),
        ];
        for (namespace, adapters, expected) in table {
            for (number, (suffix, servers)) in (0..).zip(adapters) {
                let mut settings = network::settings(Nic::new(number), namespace);
                settings["DNSSuffix"] = suffix.into();
                settings["DNSServerList"] = servers.into();
                add(&vm, settings)?;
            }
            let made = sandbox(&vm, Some(namespace)).try_create()?;
            match expected {
                Some(text) => {
                    let pod = made?;
                    same(namespace, text.to_owned(), file(&vm, &pod, "resolv.conf")?)?;
                    pod.remove()?;
                }
                None => drop(refused(made, codes::FAIL)?),
            }
            for number in 0..2 {
                vm.modify(
                    "Network",
                    "Remove",
                    network::bare(Nic::new(number), namespace),
                )?;
            }
        }
        Ok(())
    }),
    (106, |lab| {
        let vm = lab.guest()?;
        for namespace in [Some("0f1c8d8f-0a3b-4f1a-9e0b-000000000000"), Some(""), None] {
            refused(
                sandbox(&vm, namespace).try_create()?,
                codes::ELEMENT_NOT_FOUND,
            )?;
        }
        Ok(())
    }),
    (107, |lab| {
        let vm = with_nics(lab, 1)?;
        know(
            &vm,
            network::settings(Nic::new(0), "0F1C8D8F-0A3B-4f1a-9E0B-6C5D2B1A7E11"),
        )?;
        let pod = sandbox(&vm, Some("0f1c8d8f-0A3B-4F1A-9e0b-6c5d2b1a7e11")).create()?;
        pod.remove()
    }),
];
