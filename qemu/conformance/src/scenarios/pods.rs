//! Pods of the hosts of 2026 and their annotations (protocol 16.3, 16.4).

use std::time::{Duration, Instant};

use serde_json::{json, Value};

use super::nics::{add, configured, in_vm, with_nics};
use super::{Area, Scenario};
use crate::{
    codes, contains, not_run, refused, same, that, AnswerIs, Checked, Guest, Plan, SANDBOX_ID,
};
use uvm::network;
use uvm_host::wire::Rpc;
use uvm_host::UVM_ID;
use uvm_vm::network::Nic;

pub const AREA: Area = Area {
    name: "pods",
    scenarios: SCENARIOS,
    not_run: &[],
};

const HOST_NETWORK: &str = "io.microsoft.virtualmachine.lcow.hostnetwork";
const LOG_PATH: &str = "io.microsoft.container.lcow.tee-log-path";
const VIRTUAL_POD: &str = "io.microsoft.cri.virtual-pod-id";
const SKIP_NETWORK: &str = "io.microsoft.cri.skip-pod-networking";
const PAUSE: &str = "sleep 1000";

/// A PodCgroupMemoryLimit request with these members besides its type.
fn limit(vm: &Guest, members: Value) -> Checked<uvm_host::Answer> {
    let mut request = json!({"ResourceType": "PodCgroupMemoryLimit"});
    if let (Some(all), Value::Object(members)) = (request.as_object_mut(), members) {
        all.extend(members);
    }
    vm.ask_json(
        Rpc::ModifySettings,
        &json!({"ContainerId": UVM_ID, "Request": request}),
    )
}

/// The VM's memory, and what all containers may use of it, in bytes.
fn memory(vm: &Guest) -> Checked<(u64, u64)> {
    let text = vm.sh(
        "awk '/MemTotal/ {print $2 * 1024}' /proc/meminfo; cd /sys/fs/cgroup; \
         cat containers/memory.max 2>/dev/null || cat memory/containers/memory.limit_in_bytes",
    )?;
    let mut numbers = text.lines().map(str::parse::<u64>);
    let mut next = || numbers.next().unwrap_or(Ok(0));
    Ok((next()?, next()?))
}

fn limited(vm: &Guest) -> Checked {
    let (ram, limit) = memory(vm)?;
    let wanted = ram.saturating_sub(75 << 20).max(ram / 2);
    that(
        limit <= wanted && wanted - limit < 4096,
        format!("a limit of {wanted} bytes"),
        limit,
    )
}

/// The sandbox of a virtual pod, whose id is its own.
fn virtual_sandbox<'g>(vm: &'g Guest, network: &str) -> Plan<'g> {
    let plan = vm.sandbox_in(network, PAUSE);
    let id = plan.id().to_owned();
    plan.annotate(VIRTUAL_POD, &id)
}

const SCENARIOS: &[(u16, Scenario)] = &[
    (370, |lab| {
        let vm = lab.guest()?;
        for _ in 0..2 {
            limit(&vm, json!({"RequestType": "Update"}))?.is(0)?;
            limited(&vm)?;
        }
        Ok(())
    }),
    (371, |lab| {
        let vm = lab.guest()?;
        for kind in [
            json!({"RequestType": "Add"}),
            json!({"RequestType": "Remove"}),
            json!({}),
        ] {
            limit(&vm, kind)?.is(codes::FAIL)?;
        }
        for settings in [json!(null), json!({}), json!({"Limit": 1}), json!("odd")] {
            let members = json!({"RequestType": "Update", "Settings": settings});
            limit(&vm, members)?.is(0)?;
        }
        limited(&vm)
    }),
    (372, |lab| {
        let vm = lab.boot(|_| {})?;
        let (before, _) = memory(&vm)?;
        // A part of the memory is taken away, as a host takes it back.
        let off = "for block in /sys/devices/system/memory/memory*/state; do \
                   echo offline > $block 2>/dev/null && exit 0; done; exit 0";
        vm.sh(off)?;
        if memory(&vm)?.0 == before {
            return Err(not_run("this kernel takes no memory away while it runs"));
        }
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            match limited(&vm) {
                Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_secs(1)),
                outcome => return outcome,
            }
        }
    }),
    (375, |lab| {
        let vm = lab.guest()?;
        let orphan = vm.workload("no-such-pod", "true");
        let again = orphan.clone();
        refused(orphan.try_create()?.map(drop), codes::FAIL)?;
        refused(again.try_create()?.map(drop), codes::FAIL)?;
        let sandbox = vm.sandbox("true")?.create()?;
        let (id, late) = (
            sandbox.id().to_owned(),
            vm.workload(sandbox.id(), "echo late"),
        );
        sandbox.init().run()?;
        sandbox.remove()?;
        refused(late.clone().try_create()?.map(drop), codes::FAIL)?;
        // The id of the refused one is free.
        let free = late.edit(|spec| spec["annotations"] = json!({}));
        same("what it says", "late\n", free.run()?.text())?;
        that(!id.is_empty(), "a sandbox with an id", id)
    }),
    (376, |lab| {
        let vm = with_nics(lab, 1)?;
        let (namespace, nic) = ("7b5f6c1e-0000-4000-8000-000000000376", Nic::new(0));
        add(&vm, network::settings(nic, namespace))?;
        let plan = vm.sandbox_in(namespace, PAUSE);
        let sandbox = plan.annotate(HOST_NETWORK, "true").create()?;
        let _pause = sandbox.start()?;
        same(
            "interfaces of the VM with its address",
            "1",
            in_vm(&vm, nic)?.as_str(),
        )?;
        let seen = configured(&sandbox, nic)?;
        that(seen.len() > 2, "addresses and routes", format!("{seen:?}"))?;
        let names = "ls /sys/class/net";
        let of_vm = vm.sh(names)?;
        same(
            "interfaces of the sandbox",
            of_vm.clone(),
            sandbox.sh(names)?,
        )?;
        // What a workload says itself changes nothing.
        let workload = vm.workload(sandbox.id(), PAUSE);
        let workload = workload.annotate(HOST_NETWORK, "false").create()?;
        let _program = workload.start()?;
        same("interfaces of the workload", of_vm, workload.sh(names)?)?;
        let other = vm.container(PAUSE).create()?;
        let _other = other.start()?;
        let alone = other.sh(names)?;
        that(
            !alone.contains("eth"),
            "a namespace of its own elsewhere",
            alone,
        )
    }),
    (377, |lab| {
        let vm = with_nics(lab, 2)?;
        let namespace = "7b5f6c1e-0000-4000-8000-000000000377";
        add(&vm, network::settings(Nic::new(0), namespace))?;
        let plan = vm.sandbox_in(namespace, PAUSE);
        let sandbox = plan.annotate(HOST_NETWORK, "true").create()?;
        let _pause = sandbox.start()?;
        add(&vm, network::settings(Nic::new(1), namespace))?;
        let seen = configured(&sandbox, Nic::new(1))?;
        that(
            seen.len() > 1,
            "a late adapter with addresses",
            format!("{seen:?}"),
        )?;
        sandbox.remove()?;
        for nic in [Nic::new(0), Nic::new(1)] {
            same("interfaces left in the VM", "1", in_vm(&vm, nic)?.as_str())?;
        }
        vm.sh("ping -c 1 127.0.0.1").map(drop)
    }),
    (379, |lab| {
        let vm = lab.guest()?;
        for path in ["../x", "a/../../x"] {
            let plan = vm.container("true").annotate(LOG_PATH, path);
            refused(plan.try_create()?.map(drop), codes::FAIL)?;
        }
        let inside = vm.container("echo said").annotate(LOG_PATH, "/etc/lab.log");
        let container = inside.create()?;
        container.init().run()?;
        vm.sh(&format!(
            "test -d {}/logs/etc && ! test -e /etc/lab.log",
            container.bundle()
        ))?;
        container.remove()
    }),
    (382, |lab| {
        let vm = lab.guest()?;
        let network = vm.namespace()?;
        let sandbox = virtual_sandbox(&vm, &network).create()?;
        let pause = sandbox.start()?;
        let pod = format!("/run/gcs/c/virtual-pods/{}", sandbox.id());
        vm.sh(&format!(
            "cat {pod}/hosts {pod}/hostname > /dev/null && ls -d {pod}/logs"
        ))?;
        let member = |script: &str| {
            vm.workload("elsewhere", script)
                .annotate(VIRTUAL_POD, sandbox.id())
                .with_mount("/shared", "sandbox://both", &["rbind"])
        };
        let writer = member("echo shared > /shared/file").run()?;
        same("exit code of the writer", 0, writer.code)?;
        same(
            "what the other reads",
            "shared\n",
            member("cat /shared/file").run()?.text(),
        )?;
        for id in ["../x", "/x"] {
            let odd = vm.container("true").annotate(VIRTUAL_POD, id);
            that(
                odd.try_create()?.is_err(),
                "a refusal",
                format!("a virtual pod {id}"),
            )?;
        }
        sandbox.end(pause)?;
        let left = vm.sh(&format!(
            "ls -d {pod} 2>/dev/null; grep -c {pod} /proc/mounts; true"
        ))?;
        same("left of the pod", "0", left.as_str())
    }),
    (383, |lab| {
        let vm = lab.guest()?;
        let networks = [vm.namespace()?, vm.namespace()?];
        let first = virtual_sandbox(&vm, &networks[0]).create()?;
        let pause = first.start()?;
        let second = virtual_sandbox(&vm, &networks[1]).create()?;
        let other_pause = second.start()?;
        let network = "readlink /proc/self/ns/net";
        let (one, other) = (first.sh(network)?, second.sh(network)?);
        that(one != other, "two network namespaces", &one)?;
        let file = |id: &str| vm.sh(&format!("stat -c %i /run/gcs/c/virtual-pods/{id}/hosts"));
        that(
            file(first.id())? != file(second.id())?,
            "two hosts files",
            "one",
        )?;
        first.end(pause)?;
        same(
            "what the other says",
            "here",
            second.sh("echo here")?.as_str(),
        )?;
        second.end(other_pause)
    }),
    (384, |lab| {
        let vm = with_nics(lab, 1)?;
        let (namespace, nic) = ("7b5f6c1e-0000-4000-8000-000000000384", Nic::new(0));
        refused(
            vm.sandbox_in(namespace, PAUSE).try_create()?.map(drop),
            codes::ELEMENT_NOT_FOUND,
        )?;
        let plan = vm.sandbox_in(namespace, PAUSE);
        let sandbox = plan.annotate(SKIP_NETWORK, "True").create()?;
        let _pause = sandbox.start()?;
        let id = sandbox.id().to_owned();
        same(
            "resolv.conf",
            "",
            vm.sh(&format!("cat /run/gcs/c/{id}/resolv.conf"))?.as_str(),
        )?;
        add(&vm, network::settings(nic, namespace))?;
        let seen = configured(&sandbox, nic)?;
        that(
            seen.len() > 1,
            "a late adapter in the pod",
            format!("{seen:?}"),
        )?;
        contains(
            "its annotation",
            &id,
            &sandbox.config()?["annotations"][SANDBOX_ID].to_string(),
        )
    }),
];
