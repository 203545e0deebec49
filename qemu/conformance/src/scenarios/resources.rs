//! Resources and the order of requests of the hosts of 2026 (protocol 16.5, 16.7).

use serde_json::{json, Value};

use super::boot::works;
use super::nics::{add, configured, member, with_nics};
use super::storage::plugged::PluggedDisk;
use super::{Area, Scenario};
use crate::{
    contains, refused, same, that, Checked, Container, Expected, Guest, Plan, LIMIT, PLACE, TOOLS,
};
use uvm::network;
use uvm_vm::network::Nic;

pub const AREA: Area = Area {
    name: "resources",
    scenarios: SCENARIOS,
    not_run: &[],
};

/// Where the new shim has the bundle of a container.
fn in_pod<'g>(plan: Plan<'g>, pod: &str) -> Plan<'g> {
    let bundle = format!("/run/gcs/pods/{pod}/{}", plan.id());
    plan.at(&bundle)
}

/// A pod of the new shim whose scratch is a disk: layers, Create, and what runs if `starts`; then the
/// end in the shim's order. Each step has to succeed at once.
fn life(vm: &Guest, starts: bool) -> Checked {
    vm.tools()?;
    let disk = PluggedDisk::blank(vm)?;
    disk.add_ext4()?;
    let sandbox = vm.sandbox("echo said > /kept; echo said")?;
    let id = sandbox.id().to_owned();
    let plan = in_pod(sandbox, &id);
    let bundle = format!("/run/gcs/pods/{id}/{id}");
    let (root, scratch) = (
        format!("{bundle}/rootfs"),
        format!("{}/scratch/{id}", disk.path),
    );
    vm.combine_layers(&id, &root, &[TOOLS.to_owned()], Some(&scratch))?;
    vm.create(&id, &bundle, &plan.spec, &scratch)?;
    vm.sh(&format!(
        "echo kept > {bundle}/sandboxMounts/file && test -d {bundle}/logs"
    ))?;
    if starts {
        let out = vm.init(&id).limit(LIMIT).run()?;
        same("output", "said\n", out.text())?;
        vm.wait_notification(&id, LIMIT)?;
    }
    vm.remove_layers(&root)?;
    vm.delete(&id)?;
    disk.remove()?;
    let left = vm.sh(&format!(
        "ls -d /run/gcs/pods/* 2>/dev/null; grep -c {id} /proc/mounts; true"
    ))?;
    same("left of the pod", "0", left.as_str())
}

/// Whether a file of the bundle is seen in the scratch, too.
fn lies_on(vm: &Guest, scratch: &str) -> Checked<bool> {
    let there = vm.sh(&format!(
        "test -f {scratch}/bundle/config.json && echo yes || echo no"
    ))?;
    Ok(there == "yes")
}

fn run(container: &Container<'_>) -> Checked<String> {
    Ok(container.init().run()?.text())
}

const SCENARIOS: &[(u16, Scenario)] = &[
    (390, |lab| {
        let vm = lab.guest()?;
        let sandbox = vm.sandbox("sleep 1000")?;
        let pod = sandbox.id().to_owned();
        let sandbox = in_pod(sandbox, &pod).create()?;
        let pause = sandbox.start()?;
        let workload = in_pod(vm.workload(&pod, "cat /etc/hostname"), &pod).create()?;
        let named = vm.sh(&format!("cat {}/hostname", sandbox.bundle()))?;
        same("host name", format!("{named}\n"), run(&workload)?)?;
        workload.remove()?;
        let there = format!("ls -d /run/gcs/pods/{pod} 2>/dev/null || true");
        that(
            !vm.sh(&there)?.is_empty(),
            "the pod with its sandbox",
            "none",
        )?;
        sandbox.end(pause)?;
        same("directory of the pod", "", vm.sh(&there)?.as_str())
    }),
    (391, |lab| {
        let vm = lab.guest()?;
        let disk = PluggedDisk::blank(&vm)?;
        let all = json!({"MountPath": disk.path, "Lun": disk.lun(), "Controller": 0, "Partition": 0,
            "ReadOnly": false, "Encrypted": false, "Options": ["rw"], "EnsureFilesystem": true,
            "Filesystem": "ext4", "BlockDev": false});
        let few = json!({"MountPath": disk.path, "Lun": disk.lun(), "Controller": 0});
        for remove in [&all, &few] {
            vm.modify("MappedVirtualDisk", "Add", all.clone())?;
            disk.keep("file")?;
            vm.modify("MappedVirtualDisk", "Remove", remove.clone())?;
            vm.sh(&format!("! grep -q ' {} ' /proc/mounts", disk.path))?;
        }
        Ok(())
    }),
    (392, |lab| {
        let vm = lab.guest()?;
        let disk = PluggedDisk::blank(&vm)?;
        let raw = json!({"BlockDev": true});
        disk.add(raw.clone())?;
        let link = format!("readlink {}", disk.path);
        let device = vm.sh(&link)?;
        contains("the link", "/dev/sd", &device)?;
        that(
            disk.add(raw).is_err(),
            "a refusal of the second Add",
            "success",
        )?;
        same("the link", device, vm.sh(&link)?)?;
        vm.eject_disk(disk.address())?;
        disk.remove()?;
        disk.remove()?;
        vm.sh(&format!("! test -h {}", disk.path)).map(drop)
    }),
    (393, |lab| {
        let vm = lab.guest()?;
        let disk = PluggedDisk::blank(&vm)?;
        disk.add(json!({"BlockDev": true}))?;
        let device = vm.sh(&format!("readlink -f {}", disk.path))?;
        let sandbox = vm.sandbox("sleep 1000")?.create()?;
        let _pause = sandbox.start()?;
        let workload = |source: &str, options: &[&str], script: &str| {
            vm.workload(sandbox.id(), script)
                .with_mount("blockdev:///dev/lab", source, options)
        };
        let direct = workload(&device, &[], "true");
        refused(direct.try_create()?.map(drop), crate::codes::FAIL)?;
        let write = "echo x > /dev/lab && echo written; stat -c %a /dev/lab";
        let free = workload(&disk.path, &[], write).run()?;
        same("what a writer says", "written\n600\n", free.text())?;
        let bound = workload(&disk.path, &["ro"], write).run()?;
        same("what a reader says", "600\n", bound.text())?;
        // The disk is not held.
        disk.remove()?;
        Ok(())
    }),
    (394, |lab| {
        let vm = lab.guest()?;
        let apart = vm.container("true").create()?;
        that(
            lies_on(&vm, &apart.scratch())?,
            "the bundle on the scratch",
            "in memory",
        )?;
        let (bundle, scratch) = (apart.bundle(), apart.scratch());
        vm.sh(&format!("echo kept > {bundle}/file"))?;
        same(
            "the file",
            "kept",
            vm.sh(&format!("cat {scratch}/bundle/file"))?.as_str(),
        )?;
        apart.remove()?;
        vm.tools()?;
        let within = vm.fresh("/run/gcs/c/within");
        let scratch = format!("{within}/scratch");
        let root = format!("{within}/rootfs");
        vm.combine_layers("within", &root, &[TOOLS.to_owned()], Some(&scratch))?;
        vm.sh(&format!(
            "test -d {scratch}/upper && ! test -e {scratch}/bundle"
        ))?;
        vm.remove_layers(&root)?;
        vm.sh(&format!("rm -r {within}")).map(drop)
    }),
    (395, |lab| {
        let vm = lab.guest()?;
        life(&vm, true)?;
        life(&vm, false)
    }),
    (396, |lab| {
        let vm = lab.guest()?;
        let container = vm.container("true").create()?;
        // An overlay takes no overlay for its upper directory.
        let scratch = format!("{}/run", container.root());
        let bundle = vm.fresh("/run/gcs/c/failed");
        let root = format!("{bundle}/rootfs");
        let layers = [TOOLS.to_owned()];
        let failed = vm.combine_layers("failed", &root, &layers, Some(&scratch));
        that(failed.is_err(), "a refusal", "success")?;
        vm.sh(&format!(
            "! test -e {bundle} && ! test -e {scratch}/bundle && ! grep -q {bundle} /proc/mounts"
        ))?;
        container.remove()
    }),
    (397, |lab| {
        let vm = lab.boot(|b| b.negotiate = false)?;
        vm.negotiate()?;
        works(&vm)?;
        let late = lab.boot(|b| b.negotiate = false)?;
        late.negotiate()?;
        same("what a shell says", "fine", late.sh("echo fine")?.as_str())?;
        late.security_policy_empty()?;
        works(&late)
    }),
    (398, |lab| {
        let vm = with_nics(lab, 1)?;
        let (namespace, nic) = ("7b5f6c1e-0000-4000-8000-000000000398", Nic::new(0));
        for _ in 0..2 {
            add(&vm, network::settings(nic, namespace))?;
            let sandbox = vm.sandbox_in(namespace, "sleep 1000").create()?;
            let pause = sandbox.start()?;
            that(!configured(&sandbox, nic)?.is_empty(), "an adapter", "none")?;
            sandbox.end(pause)?;
            let named = json!({"NamespaceID": namespace, "ID": nic.id()});
            vm.modify("Network", "Remove", named)?;
        }
        Ok(())
    }),
    (399, |lab| {
        let vm = lab.guest()?;
        let script = "trap 'exit 9' TERM; while :; do sleep 1; done";
        for (signal, code, kind) in [(15, 9, "GracefulExit"), (9, 137, "ForcedExit")] {
            let container = vm.container(script).create()?;
            let init = container.start()?;
            // SIGTERM of a first process without a handler is lost.
            container
                .sh("until grep -q 'SigCgt.*[4-7c-f]...$' /proc/1/status; do usleep 50000; done")?;
            let exec = container.exec("exec sleep 1000").start()?;
            vm.signal(container.id(), exec.pid, signal)?;
            same(
                "exit code of an exec",
                128 + signal.unsigned_abs(),
                exec.collect(Vec::new(), LIMIT)?.code,
            )?;
            vm.signal(container.id(), init.pid, signal)?;
            same(
                "exit code of init",
                code,
                init.collect(Vec::new(), LIMIT)?.code,
            )?;
            same(
                "type of the exit",
                json!(kind),
                container.exited()?["Type"].clone(),
            )?;
            vm.remove_layers(&container.root())?;
            vm.delete(container.id())?;
        }
        Ok(())
    }),
    (400, |lab| {
        let vm = lab.guest()?;
        let container = vm.container("exit 3").create()?;
        same("exit code", 3, container.init().run()?.code)?;
        container.exited()?;
        for forced in [false, true] {
            vm.shutdown(container.id(), forced)?;
        }
        container.remove()
    }),
    (401, |lab| {
        let vm = with_nics(lab, 2)?;
        let lease = |more: Value, namespace: &str| -> Checked<String> {
            let mut settings = network::bare(Nic::new(0), namespace);
            for (name, value) in more.as_object().into_iter().flatten() {
                settings[name] = value.clone();
            }
            add(&vm, settings)?;
            let container = member(&vm, namespace).create()?;
            let process = container.init().open_stdin().start()?;
            let addresses = container.sh("ip -4 addr show")?;
            process.collect(Vec::new(), LIMIT)?;
            container.remove()?;
            let named = json!({"NamespaceID": namespace, "ID": Nic::new(0).id()});
            vm.modify("Network", "Remove", named)?;
            Ok(addresses)
        };
        for (index, more) in [json!({}), json!({"IPConfigs": []})]
            .into_iter()
            .enumerate()
        {
            let addresses = lease(more, &format!("dhcp-{index}"))?;
            contains("the addresses", "inet 10.0.2.", &addresses)?;
        }
        let mut fixed = network::bare(Nic::new(1), "fixed");
        fixed["IPConfigs"] = json!([{"IPAddress": "10.0.2.77", "PrefixLength": 24}]);
        fixed["Routes"] = json!([{"NextHop": "0.0.0.0", "DestinationPrefix": "0.0.0.0/0"}]);
        add(&vm, fixed)?;
        let container = member(&vm, "fixed").create()?;
        let _process = container.init().open_stdin().start()?;
        contains(
            "the addresses",
            "10.0.2.77/24",
            &container.sh("ip -4 addr show")?,
        )?;
        let routes = container.sh("ip -4 route show")?;
        that(!routes.contains("default"), "no default route", routes)
    }),
    (402, |lab| {
        let vm = lab.boot(|b| b.negotiate = false)?;
        vm.negotiate()?;
        let settings = json!({"EncodedUVMHashEnvelopeReference": "aGVsbG8="});
        vm.modify("SecurityPolicy", "Add", settings)?;
        let read = "cat $UVM_SECURITY_CONTEXT_DIR/transparent-reference-info-base64";
        let out = vm.container(read).run()?;
        same("the context file", "aGVsbG8=", out.text())?;
        vm.sh(&format!("ls {PLACE} > /dev/null; true")).map(drop)?;
        vm.wait_log(LIMIT, |record| record.complete)
            .map(drop)
            .expected("a log that goes on")
    }),
];
