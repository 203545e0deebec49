//! Sandboxes, workloads and standalone containers: what each has of files and mounts.

use serde_json::{json, Value};

use super::{Area, Scenario};
use crate::{
    codes, contains, refused, same, that, Checked, Container, Guest, Lab, Plan, PLACE, SANDBOX_ID,
    TYPE,
};

pub const AREA: Area = Area {
    name: "kinds",
    scenarios: SCENARIOS,
    not_run: &[],
};

/// The destinations and sources of a config's mounts.
fn mounts(config: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = config["mounts"].as_array().into_iter().flatten();
    list.map(|mount| (text(&mount["destination"]), text(&mount["source"])))
        .collect()
}

fn mount_at<'c>(config: &'c Value, destination: &str) -> &'c Value {
    let list = config["mounts"].as_array().into_iter().flatten();
    let mut found = list.filter(|mount| mount["destination"] == destination);
    found.next().unwrap_or(&Value::Null)
}

/// One of each kind, created.
fn one_of_each(
    vm: &Guest,
    change: impl Fn(&mut Value),
    check: impl Fn(&Container<'_>) -> Checked,
) -> Checked {
    let sandbox = vm.sandbox("true")?.edit(&change).create()?;
    let workload = vm.workload(sandbox.id(), "true").edit(&change).create()?;
    let standalone = vm.container("true").edit(&change).create()?;
    for container in [standalone, workload, sandbox] {
        check(&container)?;
        container.remove()?;
    }
    Ok(())
}

/// A sandbox that waits, with a workload whose program is `script`.
fn in_pod(lab: &mut Lab, check: impl Fn(&Guest, &Container<'_>) -> Checked) -> Checked {
    let vm = lab.guest()?;
    let sandbox = vm.sandbox("true")?.create()?;
    check(&vm, &sandbox)?;
    sandbox.remove()
}

fn output(plan: Plan<'_>) -> Checked<String> {
    Ok(plan.run()?.text())
}

const SCENARIOS: &[(u16, Scenario)] = &[
    (97, |lab| {
        let vm = lab.guest()?;
        one_of_each(&vm, |_| {}, |_| Ok(()))?;
        for other in ["", "Sandbox", "pod"] {
            let plan = vm.container("true").annotate(TYPE, other);
            refused(plan.try_create()?, codes::FAIL)?;
        }
        Ok(())
    }),
    (98, |lab| {
        let vm = lab.guest()?;
        let plan = || vm.container("true").annotate(TYPE, "container");
        let plan = || {
            plan().edit(|spec| {
                if let Some(members) = spec.as_object_mut() {
                    members.remove("hostname");
                }
            })
        };
        refused(plan().try_create()?, codes::FAIL)?;
        refused(plan().annotate(SANDBOX_ID, "").try_create()?, codes::FAIL)?;
        Ok(())
    }),
    (99, |lab| {
        in_pod(lab, |vm, sandbox| {
            let plan = vm.workload(sandbox.id(), "true");
            let plan = plan.edit(|spec| spec["hostname"] = json!("mine"));
            refused(plan.try_create()?, codes::FAIL).map(drop)
        })
    }),
    (100, |lab| {
        let vm = lab.guest()?;
        let given = |spec: &mut Value| spec["linux"]["cgroupsPath"] = json!("/elsewhere");
        one_of_each(&vm, given, |container| {
            let path = container.config()?["linux"]["cgroupsPath"].clone();
            same(
                "cgroupsPath",
                json!(format!("/containers/{}", container.id())),
                path,
            )
        })?;
        let container = vm.container("sleep 600").edit(given).create()?;
        let pid = container.start()?.pid;
        let groups = vm.sh(&format!("cat /proc/{pid}/cgroup"))?;
        let own = format!(":/containers/{}", container.id());
        contains("the control groups of its init", &own, &groups)?;
        container.remove()
    }),
    (101, |lab| {
        let vm = lab.guest()?;
        one_of_each(
            &vm,
            |_| {},
            |container| same("windows", None, container.config()?.get("windows")),
        )
    }),
    (108, |lab| {
        in_pod(lab, |vm, sandbox| {
            for name in ["sandboxMounts", "hugepages"] {
                let path = format!("{}/{name}", sandbox.bundle());
                vm.sh(&format!("test -d {path}"))?;
                let line = vm.sh(&format!("grep -F ' {path} ' /proc/self/mountinfo"))?;
                contains("its line of mountinfo", " shared:", &line)?;
            }
            Ok(())
        })
    }),
    (109, |lab| {
        let vm = lab.guest()?;
        let plan = vm.sandbox("cat /etc/hostname")?;
        let given = mounts(&plan.spec);
        let sandbox = plan.create()?;
        same("its mounts", given, mounts(&sandbox.config()?))?;
        let out = sandbox.init().run()?;
        that(out.code != 0, "no /etc/hostname inside", out.text())?;
        sandbox.remove()
    }),
    (110, |lab| {
        in_pod(lab, |vm, sandbox| {
            for read_only in [false, true] {
                let plan = vm.workload(
                    sandbox.id(),
                    "cat /etc/hostname /etc/hosts /etc/resolv.conf",
                );
                let plan = plan.edit(|spec| spec["root"]["readonly"] = json!(read_only));
                let workload = plan.create()?;
                let config = workload.config()?;
                let mut files = String::new();
                for name in ["hostname", "hosts", "resolv.conf"] {
                    let source = format!("{}/{name}", sandbox.bundle());
                    let options: &[&str] = if read_only {
                        &["bind", "ro"]
                    } else {
                        &["bind"]
                    };
                    let destination = format!("/etc/{name}");
                    let expected = json!({
                        "destination": destination, "type": "bind",
                        "source": source, "options": options});
                    same(
                        "its mount",
                        expected,
                        mount_at(&config, &destination).clone(),
                    )?;
                    files += &vm.sh(&format!("cat {source}; echo ."))?;
                    files.pop();
                }
                same("its files", files, workload.init().run()?.text())?;
                workload.remove()?;
            }
            Ok(())
        })
    }),
    (111, |lab| {
        in_pod(lab, |vm, sandbox| {
            for name in ["hostname", "hosts", "resolv.conf"] {
                let own = format!("{PLACE}/{}", vm.fresh("own"));
                vm.sh(&format!("mkdir -p {PLACE}; echo own > {own}"))?;
                let destination = format!("/etc/{name}");
                let plan = vm.workload(sandbox.id(), &format!("cat {destination}"));
                let workload = plan.with_mount(&destination, &own, &["bind"]).create()?;
                let config = workload.config()?;
                let all = mounts(&config);
                let count = all.iter().filter(|(to, _)| *to == destination).count();
                same("mounts at its destination", 1, count)?;
                let generated = all.iter().filter(|(to, _)| to.starts_with("/etc/")).count();
                same("mounts below /etc", 3, generated)?;
                same("its file", "own\n", workload.init().run()?.text())?;
                workload.remove()?;
                vm.sh(&format!("rm {own}"))?;
            }
            Ok(())
        })
    }),
    (112, |lab| {
        let vm = lab.guest()?;
        let own = format!("{PLACE}/{}", vm.fresh("own"));
        vm.sh(&format!("mkdir -p {PLACE}; echo own > {own}"))?;
        let plan = vm
            .container("cat /etc/hostname /etc/hosts")
            .with_mount("/etc/hosts", &own, &["bind"])
            .edit(|spec| spec["hostname"] = json!("alone"));
        let container = plan.create()?;
        let directory = container.bundle();
        vm.sh(&format!(
            "test -f {directory}/resolv.conf && test ! -e {directory}/hosts"
        ))?;
        let source = mount_at(&container.config()?, "/etc/hostname")["source"].clone();
        same("its source", json!(format!("{directory}/hostname")), source)?;
        same("its files", "alone\nown\n", container.init().run()?.text())?;
        container.remove()?;
        vm.sh(&format!("rm {own}")).map(drop)
    }),
    (113, |lab| {
        in_pod(lab, |vm, sandbox| {
            let plan = |source: &str, script: &str| {
                vm.workload(sandbox.id(), script)
                    .with_mount("/shared", source, &["rbind", "rw"])
            };
            let first = plan("sandbox://a/b", "echo one > /shared/file").create()?;
            let path = format!("{}/sandboxMounts/a/b", sandbox.bundle());
            let source = mount_at(&first.config()?, "/shared")["source"].clone();
            same("its source", json!(path), source)?;
            let modes = vm.sh(&format!("stat -c %a {path} {path}/.."))?;
            same("the modes of what was made", "777\n777", modes.as_str())?;
            first.init().run()?;
            // What one writes the other reads, also by another spelling.
            let read = output(plan("sandbox://a/x/../b", "cat /shared/file"))?;
            same("the file", "one\n", read.as_str())?;
            first.remove()
        })
    }),
    (114, |lab| {
        in_pod(lab, |vm, sandbox| {
            for source in [
                "sandbox://../x",
                "sandbox://a/../../x",
                "sandbox:///../../x",
            ] {
                let plan = vm.workload(sandbox.id(), "true");
                let plan = plan.with_mount("/x", source, &["rbind"]);
                refused(plan.try_create()?, codes::FAIL)?;
                vm.sh(&format!("test ! -e {}/x", sandbox.bundle()))?;
            }
            Ok(())
        })
    }),
    (115, |lab| {
        in_pod(lab, |vm, sandbox| {
            vm.sh(&format!(
                "echo it > {}/sandboxMounts/file",
                sandbox.bundle()
            ))?;
            let plan = vm.workload(sandbox.id(), "cat /file");
            let plan = plan.with_mount("/file", "sandbox://file", &["bind"]);
            same("the file", "it\n", output(plan)?.as_str())
        })
    }),
    (116, |lab| {
        in_pod(lab, |vm, sandbox| {
            let plan = |script: &str| {
                vm.workload(sandbox.id(), script).with_mount(
                    "/huge",
                    "hugepages://2M/x",
                    &["rbind", "rw"],
                )
            };
            let first = plan("touch /huge/file && grep ' /huge ' /proc/mounts").create()?;
            let path = format!("{}/hugepages/2M/x", sandbox.bundle());
            let line = vm.sh(&format!("grep -F ' {path} ' /proc/mounts"))?;
            contains("the mount", " hugetlbfs ", &line)?;
            contains("its options", "pagesize=2M", &line)?;
            let inside = first.init().run()?.text();
            contains("the mount inside", " hugetlbfs ", &inside)?;
            same(
                "what the second sees",
                "file\n",
                output(plan("ls /huge"))?.as_str(),
            )?;
            let count = vm.sh(&format!("grep -cF ' {path} ' /proc/mounts"))?;
            same("mounts there", "1", count.as_str())?;
            first.remove()
        })
    }),
];
