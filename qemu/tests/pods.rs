//! Pods as Kubernetes makes them: containers that share the namespaces and directories of a
//! sandbox, and end one by one, in whatever order. The checklist has what a single member is given;
//! here is what the members of one pod see of each other, and that nothing of them is left.

mod common;

use uvm_conformance::{join, join_also, Container, Guest, Plan, LIMIT, TOOLS};
use uvm_host::Process;

/// Waits to be killed, as a shell does that can answer SIGTERM.
const PAUSE: &str = "trap 'exit 0' TERM; sleep 600 & wait";

struct Running<'g> {
    container: Container<'g>,
    process: Process,
}

fn run(plan: Plan<'_>) -> Running<'_> {
    let container = plan.create().unwrap();
    let quiet = container.init().without_stdout().without_stderr();
    let process = quiet.start().unwrap();
    Running { container, process }
}

impl Running<'_> {
    fn sh(&self, script: &str) -> String {
        self.container.sh(script).unwrap()
    }

    /// Kills it and deletes it.
    fn end(self, vm: &Guest) {
        vm.shutdown(self.container.id(), true).unwrap();
        let out = self.process.collect(Vec::new(), LIMIT).unwrap();
        assert_eq!(out.code, 137, "{}", self.container.id());
        self.container.remove().unwrap();
    }
}

/// A workload with all that a pod can share.
fn member<'g>(vm: &'g Guest, sandbox: &Running<'_>) -> Plan<'g> {
    let plan = vm
        .workload(sandbox.container.id(), PAUSE)
        .with_mount("/shared", "sandbox://data", &["rbind", "rw"])
        .with_mount("/huge", "hugepages://2M/pool", &["rbind", "rw"]);
    join(plan, sandbox.process.pid)
}

fn sandbox(vm: &Guest) -> Running<'_> {
    run(vm.sandbox(PAUSE).unwrap())
}

#[test]
fn workloads_share_their_sandbox_and_outlive_each_other() {
    let Some(vm) = common::guest() else { return };
    let vm = &*vm;
    let sandbox = sandbox(vm);
    let (first, second) = (run(member(vm, &sandbox)), run(member(vm, &sandbox)));

    // Network, IPC and host name are the sandbox's; processes are each one's own.
    for kind in ["net", "ipc", "uts"] {
        let name = format!("readlink /proc/self/ns/{kind}");
        let there = sandbox.sh(&name);
        assert_eq!([first.sh(&name), second.sh(&name)], [there.clone(), there]);
    }
    assert_eq!(first.sh("hostname"), sandbox.sh("hostname"));
    assert_ne!(
        first.sh("readlink /proc/self/ns/pid"),
        second.sh("readlink /proc/self/ns/pid")
    );
    let told = |by: &Running<'_>, to: &Running<'_>, word: &str| {
        let speaker = format!("nc -l -p 7777 -e echo {word}");
        let speaker = by.container.exec(&speaker).start().unwrap();
        // Until it listens.
        let heard = to.sh("until nc 127.0.0.1 7777 < /dev/null 2>/dev/null; do :; done");
        speaker.collect(Vec::new(), LIMIT).unwrap();
        heard
    };
    assert_eq!(told(&first, &second, "one"), "one");
    assert_eq!(told(&second, &sandbox, "two"), "two");
    first.sh("touch /dev/mqueue/queue");
    assert_eq!(second.sh("ls /dev/mqueue"), "queue");

    // So are the directories.
    first.sh("echo first > /shared/file; touch /huge/page");
    assert_eq!(second.sh("cat /shared/file; ls /huge"), "first\npage");
    assert_eq!(
        second.sh("cat /etc/hosts"),
        vm.sh(&format!("cat {}/hosts", sandbox.container.bundle()))
            .unwrap()
    );

    first.end(vm);
    assert_eq!(
        second.sh("cat /shared/file; ls /huge /dev/mqueue"),
        "first\n/dev/mqueue:\nqueue\n\n/huge:\npage"
    );
    assert_eq!(told(&second, &sandbox, "three"), "three");
    // One that comes later finds it all.
    let third = run(member(vm, &sandbox));
    assert_eq!(third.sh("cat /shared/file; ls /huge"), "first\npage");
    assert_eq!(told(&third, &second, "four"), "four");
    third.end(vm);
    second.end(vm);
    sandbox.end(vm);
    common::leaves_nothing(vm);
}

#[test]
fn a_workload_goes_on_without_its_sandbox() {
    let Some(vm) = common::guest() else { return };
    let vm = &*vm;
    let sandbox = sandbox(vm);
    let workload = run(member(vm, &sandbox));
    workload.sh("touch /huge/page");
    sandbox.end(vm);
    // Its names, host name and mounts stay; only what the sandbox kept on disk is gone.
    assert_eq!(
        workload.sh("cat /etc/hostname; ls /huge /shared"),
        "container\n/huge:\npage\n\n/shared:"
    );
    workload.end(vm);
    common::leaves_nothing(vm);
}

#[test]
fn a_shared_pid_namespace_ends_with_its_sandbox() {
    let Some(vm) = common::guest() else { return };
    let vm = &*vm;
    let sandbox = sandbox(vm);
    let shared = || {
        run(join_also(
            vm.workload(sandbox.container.id(), PAUSE),
            sandbox.process.pid,
            &["pid"],
        ))
    };
    let (first, second) = (shared(), shared());
    let name = "readlink /proc/self/ns/pid";
    assert_eq!(first.sh(name), sandbox.sh(name));
    // One is killed, and only its own processes with it.
    first.end(vm);
    assert_eq!(second.sh("echo here"), "here");
    assert_eq!(sandbox.sh("echo here"), "here");
    sandbox.end(vm);
    let out = second.process.collect(Vec::new(), LIMIT).unwrap();
    assert_eq!(out.code, 137);
    second.container.remove().unwrap();
    common::leaves_nothing(vm);
}

#[test]
fn what_later_hosts_send_is_understood() {
    let Some(vm) = common::guest() else { return };
    let vm = &*vm;
    // The directory of a container is its bundle.
    let plan = vm.sandbox(PAUSE).unwrap();
    let id = plan.id().to_owned();
    let bundle = format!("/run/gcs/pods/{id}/{id}");
    let sandbox = plan.at(&bundle).create().unwrap();
    let files = "cat config.json hosts > /dev/null; ls -d sandboxMounts hugepages";
    vm.sh(&format!("cd {bundle} && {files}")).unwrap();

    vm.tools().unwrap();
    let disk = vm
        .sh(&format!("grep ' {TOOLS} ' /proc/mounts | cut -d ' ' -f 1"))
        .unwrap();
    // What the host makes of a disk that it adds with `BlockDev`.
    vm.sh(&format!("ln -s {disk} /run/mounts/link")).unwrap();
    let disk = "/run/mounts/link";
    let workload = run(vm
        .workload(&id, PAUSE)
        .with_mount("/memory", "sandbox-tmp://a", &["rbind"])
        .with_mount("/tools", &format!("uvm:/{TOOLS}"), &["rbind", "ro"])
        .with_mount("blockdev:///dev/disk", disk, &["ro"]));
    assert_eq!(
        workload.sh("grep -c '/memory tmpfs' /proc/mounts; test -x /tools/bin/busybox; head -c 512 /dev/disk | wc -c; stat -c %a /dev/disk"),
        "1\n512\n600"
    );
    assert_ne!(workload.sh("(: > /dev/disk) 2>/dev/null; echo $?"), "0");
    assert_eq!(workload.sh("cat /etc/hostname"), "container");
    workload.end(vm);
    sandbox.remove().unwrap();
    let left = vm.sh("ls /run/gcs/pods/*; grep -c /run/gcs/ /proc/mounts; true");
    assert_eq!(left.unwrap(), "0");
}
