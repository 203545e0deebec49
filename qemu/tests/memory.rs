//! Memory that runs out in a real VM: who is killed, what is logged, and that the service survives.
//! The checklist has one such container (P-305); here are the limits of our own guest's groups.

mod common;

use std::time::{Duration, Instant};

use serde_json::json;
use uvm_conformance::{Guest, Lab};
use uvm_host::log::Record;
use uvm_host::wire::Rpc;
use uvm_host::UVM_ID;

use common::LONG;

/// Wants more memory than there is.
const GLUTTON: &str = "tail /dev/zero";

fn boot(lab: &Lab, cgroup: &str, memory_mib: u32) -> Guest {
    lab.boot(|boot| {
        boot.profile.memory_mib = memory_mib;
        let option = format!("hcsshim.cgroup={cgroup}");
        boot.profile.kernel_options.push(option);
    })
    .unwrap()
}

/// The service's own record of kills in a group.
#[track_caller]
fn told(vm: &Guest, group: &str) -> Record {
    vm.wait_log(LONG, |record| {
        record.fields.get("group").is_some_and(|of| of == group)
            && record.message.starts_with("out of memory")
    })
    .unwrap()
}

/// Of a child of PID 1 that is the same program: one is kept busy by a share whose server is silent.
fn task_score(vm: &Guest) -> String {
    let host = vm.host();
    let port = host.open_stream().unwrap();
    let settings = json!({"MountPath": "/run/silent", "Port": port, "ShareName": "none"});
    let request = json!({"Request": {"ResourceType": "MappedDirectory", "RequestType": "Add",
        "Settings": settings}});
    let mut added = vm.send(Rpc::ModifySettings, UVM_ID, request).unwrap();
    let silent = host.take_stream(port, LONG).unwrap();
    let score = "for task in /proc/[0-9]*; do \
                 grep -q '^PPid:.1$' $task/status && [ $task/exe -ef /proc/1/exe ] && \
                 cat $task/oom_score_adj; done; true";
    let begun = Instant::now();
    let score = loop {
        let found = vm.sh(score).unwrap();
        if !found.is_empty() {
            break found;
        }
        assert!(begun.elapsed() < LONG, "no task is there");
    };
    drop(silent);
    assert!(added.wait(LONG).is_err());
    score
}

#[test]
fn the_service_is_safe_its_children_are_not_and_no_limit_is_its_own() {
    let Some(lab) = common::lab() else { return };
    for (cgroup, files) in [
        (
            "v2",
            "cd /sys/fs/cgroup; cat gcs/memory.max gcs/memory.high gcs/cpu.max gcs/memory.low \
             containers/memory.max",
        ),
        (
            "v1",
            "cd /sys/fs/cgroup; for f in memory/gcs/memory.limit_in_bytes \
             cpu/gcs/cpu.cfs_quota_us; do cat $f; done; \
             cat memory/memory.use_hierarchy memory/containers/memory.limit_in_bytes",
        ),
    ] {
        let vm = boot(&lab, cgroup, 256);
        let limits = vm.sh(files).unwrap();
        let ram = "awk '/MemTotal/ {print $2 * 1024}' /proc/meminfo";
        let ram: u64 = vm.sh(ram).unwrap().parse().unwrap();
        let containers = (ram - (75 << 20)) / 4096 * 4096;
        let expected = match cgroup {
            "v2" => format!("max\nmax\nmax 100000\n{}\n{containers}", 50 << 20),
            _ => format!("9223372036854771712\n-1\n1\n{containers}"),
        };
        assert_eq!(limits, expected, "{cgroup}");
        let place = vm.sh("cut -d: -f3 /proc/1/cgroup | sort -u").unwrap();
        assert_eq!(place, "/gcs", "{cgroup}: where PID 1 is");
        let score = "cat /proc/self/oom_score_adj";
        assert_eq!(vm.sh("cat /proc/1/oom_score_adj").unwrap(), "-1000");
        assert_eq!(vm.sh(score).unwrap(), "0", "a process of the VM");
        assert_eq!(task_score(&vm), "0", "a task of the service");
        for (given, found) in [(None, "0"), (Some(500), "500"), (Some(-500), "-500")] {
            let plan = vm.container("cat").edit(|spec| {
                if let Some(given) = given {
                    spec["process"]["oomScoreAdj"] = json!(given);
                }
            });
            let container = plan.create().unwrap();
            let process = container.init().open_stdin().start().unwrap();
            let init = container.sh("cat /proc/1/oom_score_adj").unwrap();
            assert_eq!(init, found, "the init with {given:?}");
            // What joins a container is as dear as what is in it.
            assert_eq!(container.sh(score).unwrap(), found, "an exec");
            drop(process);
            container.remove().unwrap();
        }
    }
}

#[test]
fn each_kill_is_told_with_the_group_at_its_limit_and_counted() {
    let Some(lab) = common::lab() else { return };
    for cgroup in ["v2", "v1"] {
        let vm = boot(&lab, cgroup, 160);
        // At its own limit, in a process beside its first one.
        let plan = vm.container("cat").edit(|spec| {
            spec["linux"]["resources"]["memory"] = json!({"limit": 32 << 20});
        });
        let container = plan.create().unwrap();
        let process = container.init().open_stdin().start().unwrap();
        assert_eq!(container.exec(GLUTTON).run().unwrap().code, 137);
        let group = format!("/containers/{}", container.id());
        let text = told(&vm, &group).message;
        assert!(text.contains(&format!("{group} is at its limit")), "{text}");
        let statistics = vm.properties(container.id(), &["Statistics"]).unwrap();
        let kills = &statistics["LCOWMetrics"]["memory_oom_control"]["oom_kill"];
        assert_eq!(kills, 1, "{cgroup}: {statistics}");
        // Its first process was not touched.
        assert_eq!(container.sh("echo here").unwrap(), "here");
        drop(process);
        container.remove().unwrap();

        // Without one: all containers together.
        let container = vm.container(GLUTTON).create().unwrap();
        let group = format!("/containers/{}", container.id());
        assert_eq!(container.init().run().unwrap().code, 137);
        // The container is deleted at once, and what was counted is logged all the same.
        container.remove().unwrap();
        let text = told(&vm, &group).message;
        assert!(text.contains("/containers is at its limit"), "{text}");

        // A process of the VM itself.
        let out = vm.shell(GLUTTON).unwrap().limit(LONG).run().unwrap();
        assert_eq!(out.code, 137, "{cgroup}: {}", out.error_text());
        let text = told(&vm, "/gcs").message;
        assert!(text.contains("the VM has none left"), "{text}");
        let out = vm.container("exit 3").run().unwrap();
        assert_eq!(out.code, 3, "{cgroup}: the guest goes on");
    }
}

/// Times of so many round trips, sorted.
fn round_trips(vm: &Guest, count: usize) -> Vec<Duration> {
    let trip = |_| {
        let begun = Instant::now();
        vm.call(Rpc::Start, UVM_ID, json!({})).unwrap();
        begun.elapsed()
    };
    let mut times: Vec<Duration> = (0..count).map(trip).collect();
    times.sort();
    times
}

#[test]
fn containers_under_memory_pressure_do_not_stall_the_bridge() {
    const TRIPS: usize = 200;
    let Some(lab) = common::lab() else { return };
    let vm = boot(&lab, "v2", 256);
    let quiet = round_trips(&vm, TRIPS);
    let high = "/sys/fs/cgroup/containers/memory.high";
    vm.sh(&format!("echo {} > {high}", 24 << 20)).unwrap();
    let events = "awk '/^high/ {print $2}' /sys/fs/cgroup/containers/memory.events";
    let count = || vm.sh(events).unwrap().parse::<u64>().unwrap();
    let container = vm.container(GLUTTON).create().unwrap();
    container.start().unwrap();
    let begun = Instant::now();
    while count() == 0 {
        assert!(begun.elapsed() < LONG, "no pressure");
    }
    let before = count();
    let pressed = round_trips(&vm, TRIPS);
    assert!(count() > before, "the pressure was gone meanwhile");
    let at = |times: &[Duration], percent: usize| times[(times.len() - 1) * percent / 100];
    let ratio = at(&pressed, 50).as_secs_f64() / at(&quiet, 50).as_secs_f64();
    println!(
        "round trip quiet {:?} (99 % {:?}), under pressure {:?} (99 % {:?}): {ratio:.2} times",
        at(&quiet, 50),
        at(&quiet, 99),
        at(&pressed, 50),
        at(&pressed, 99)
    );
    assert!(ratio < 20.0, "{ratio}");
    assert!(at(&pressed, 100) < Duration::from_secs(5), "{pressed:?}");
    // Requests that need memory of their own, too.
    assert_eq!(vm.sh("echo here").unwrap(), "here");
    vm.sh(&format!("echo max > {high}")).unwrap();
    container.kill().unwrap();
    container.remove().unwrap();
}
