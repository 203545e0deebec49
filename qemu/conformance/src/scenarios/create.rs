//! Create: its document, its answer, what it leaves when it fails.

use serde_json::{json, Value};

use super::{Area, Scenario};
use crate::{
    codes, contains, fail, refused, same, that, AnswerIs, Checked, Guest, Plan, LIMIT, PLACE, TYPE,
};
use uvm::container::{bundle, root};
use uvm_host::wire::Rpc;
use uvm_host::HostError;

pub const AREA: Area = Area {
    name: "create",
    scenarios: SCENARIOS,
    not_run: &[],
};

/// Creates by a document of the scenario's own, after the root was mounted.
fn create_document(vm: &Guest, plan: Plan<'_>, document: &Value) -> Checked<Result<(), HostError>> {
    let id = plan.id().to_owned();
    let mounted = plan.mount()?;
    let made = vm.create_document(&id, document);
    match made {
        Ok(()) => mounted.created().remove()?,
        Err(_) => mounted.discard(),
    }
    Ok(made)
}

/// A spec with a mount that no engine can make.
fn broken(plan: Plan<'_>) -> Plan<'_> {
    plan.with_mount("/x", "/no/such/source", &["bind"])
}

/// What a container has in the VM: directories, mounts, control groups.
fn traces(vm: &Guest, id: &str) -> Checked<String> {
    vm.sh(&format!(
        "ls -d {} 2>/dev/null; grep -F /{id}/ /proc/mounts; \
         find /sys/fs/cgroup -type d -name '{id}*' 2>/dev/null; true",
        bundle(id)
    ))
}

const SCENARIOS: &[(u16, Scenario)] = &[
    (90, |lab| {
        let vm = lab.guest()?;
        for (version, good) in [
            (json!({"Major": 2, "Minor": 1}), true),
            (json!({"Major": 2, "Minor": 2}), true),
            (json!({"Major": 3, "Minor": 0}), true),
            (json!({"Major": 2, "Minor": 0}), false),
            (json!({"Major": 1, "Minor": 0}), false),
            (json!("2.1"), false),
            (Value::Null, false),
        ] {
            let plan = vm.container("true");
            let mut document = plan.document();
            document["SchemaVersion"] = version;
            let made = create_document(&vm, plan, &document)?;
            match good {
                true => made?,
                false => refused(made, codes::INVALID_JSON).map(drop)?,
            }
        }
        Ok(())
    }),
    (91, |lab| {
        let vm = lab.guest()?;
        let plan = vm.container("true");
        let (id, document) = (plan.id().to_owned(), plan.document().to_string());
        let mounted = plan.mount()?;
        vm.register(&id);
        let request = json!({"ContainerId": id, "ContainerConfig": document});
        let answer = vm.ask_json(Rpc::Create, &request)?;
        let container = mounted.created();
        answer.is(0)?;
        let version = &answer.members["SelectedProtocolVersion"];
        that(version.is_u64(), "SelectedProtocolVersion", answer.text())?;
        container.remove()
    }),
    (92, |lab| {
        let vm = lab.guest()?;
        let plan = vm.container("echo first");
        let again = plan.spec.clone();
        let container = plan.create()?;
        let second = vm.create(
            container.id(),
            &container.bundle(),
            &again,
            &container.scratch(),
        );
        refused(second, codes::ALREADY_EXISTS)?;
        same("output", "first\n", container.init().run()?.text())?;
        container.remove()
    }),
    (93, |lab| {
        let vm = lab.guest()?;
        let plan = vm.container("echo again");
        refused(broken(plan.clone()).try_create()?, codes::FAIL)?;
        let bad = plan.clone().annotate(TYPE, "nonsense");
        refused(bad.try_create()?, codes::FAIL)?;
        same("output", "again\n", plan.run()?.text())
    }),
    (94, |lab| {
        let vm = lab.guest()?;
        for (pointer, name) in [
            ("", "OciSpecification"),
            ("/OciSpecification", "process"),
            ("/OciSpecification", "root"),
            ("/OciSpecification", "linux"),
        ] {
            for null in [false, true] {
                let plan = vm.container("true");
                let mut document = plan.document();
                let parent = document.pointer_mut(pointer).and_then(Value::as_object_mut);
                let parent = parent.expect("the plan's document has these members");
                match null {
                    true => drop(parent.insert(name.into(), Value::Null)),
                    false => drop(parent.remove(name)),
                }
                match create_document(&vm, plan, &document)? {
                    // An empty one will do.
                    Ok(()) if name == "linux" => {}
                    Ok(()) => return Err(fail(format!("no {name}: a refusal"), "success")),
                    Err(HostError::Refused { .. }) => {}
                    Err(other) => return Err(other.into()),
                }
            }
        }
        Ok(())
    }),
    (95, |lab| {
        let vm = lab.guest()?;
        let mut pending = Vec::new();
        for n in 0..4 {
            let plan = vm.container(&format!("echo {n}"));
            let (id, document) = (plan.id().to_owned(), plan.document().to_string());
            let mounted = plan.mount()?;
            vm.register(&id);
            let request = json!({"ContainerConfig": document});
            pending.push((n, mounted, vm.send(Rpc::Create, &id, request)?));
        }
        for (n, mounted, mut create) in pending {
            create.wait(LIMIT)?;
            let container = mounted.created();
            same("output", format!("{n}\n"), container.init().run()?.text())?;
            container.remove()?;
        }
        Ok(())
    }),
    (96, |lab| {
        let vm = lab.guest()?;
        let container = vm.container("true").create()?;
        let config = container.config()?;
        same(
            "its program",
            json!(["/bin/sh", "-c", "true"]),
            config["process"]["args"].clone(),
        )?;
        // The bundle was made with the root file system, and stays as it was made.
        let mode = vm.sh(&format!("stat -c %a {}", container.bundle()))?;
        same("the mode of the bundle", "755", mode.as_str())?;
        container.remove()?;

        let plan = vm.container("true");
        let (id, mut document) = (plan.id().to_owned(), plan.document());
        let elsewhere = format!("{PLACE}/bundles/{id}");
        document["OciBundlePath"] = json!(elsewhere);
        let mounted = plan.mount()?;
        vm.create_document(&id, &document)?;
        let container = mounted.created();
        let mode = vm.sh(&format!(
            "ls {elsewhere}/config.json && stat -c %a {elsewhere}"
        ))?;
        contains("what is there of a bundle that was missing", "\n700", &mode)?;
        container.remove()
    }),
    (128, |lab| {
        let vm = lab.guest()?;
        let container = vm.container("touch /ran").create()?;
        let ran = format!("{}/ran", container.root());
        vm.sh(&format!("test ! -e {ran}"))?;
        vm.start(container.id())?;
        vm.sh(&format!("test ! -e {ran}"))?;
        container.init().run()?;
        vm.sh(&format!("test -e {ran}"))?;
        container.remove()
    }),
    (129, |lab| {
        let vm = lab.guest()?;
        let script = "test -t 0 && test -t 1 && test -t 2 && echo terminal";
        let plan = vm.container(script);
        let container = plan
            .edit(|spec| spec["process"]["terminal"] = json!(true))
            .create()?;
        let out = container.init().open_stdin().without_stderr().run()?;
        contains("its output", "terminal", &out.text())?;
        container.remove()
    }),
    (130, |lab| {
        let vm = lab.guest()?;
        let unknown = json!({"a": [1, null, {"b": "c"}]});
        let plan = vm.container("true").edit(|spec| {
            spec["x-future"] = unknown.clone();
            spec["process"]["x-future"] = unknown.clone();
            spec["linux"]["x-future"] = unknown.clone();
        });
        let container = plan.create()?;
        let config = container.config()?;
        for of in [&config, &config["process"], &config["linux"]] {
            same("x-future", unknown.clone(), of["x-future"].clone())?;
        }
        container.remove()
    }),
    (131, |lab| {
        let vm = lab.guest()?;
        let sandbox = vm.sandbox("true")?.create()?;
        let shared = format!("{}/sandboxMounts/fresh", sandbox.bundle());
        let huge = format!("{}/hugepages/2M/fresh", sandbox.bundle());
        let workload = vm
            .workload(sandbox.id(), "true")
            .with_mount("/a", "sandbox://fresh", &["rbind"])
            .with_mount("/b", "hugepages://2M/fresh", &["rbind"]);
        for plan in [vm.container("true"), vm.sandbox("true")?, workload] {
            let id = plan.id().to_owned();
            refused(broken(plan).mount()?.create(), codes::FAIL)?;
            same("left behind", "", traces(&vm, &id)?.as_str())?;
            let gone = vm.properties(&id, &[]).map(drop);
            refused(gone, codes::NOT_FOUND)?;
        }
        let left = vm.sh(&format!(
            "grep -F {huge} /proc/mounts; ls -d {shared} {huge}; true"
        ))?;
        same("left of the workload in its pod", "", left.as_str())?;
        sandbox.remove()
    }),
    (132, |lab| {
        let vm = lab.guest()?;
        let plan = |n: u32| vm.container(&format!("echo {n}"));
        let both = [plan(0).create()?, plan(1).create()?];
        for (n, container) in both.into_iter().enumerate() {
            same("output", format!("{n}\n"), container.init().run()?.text())?;
            container.remove()?;
        }
        same("output", "2\n", plan(2).run()?.text())
    }),
    (135, |lab| {
        let vm = lab.guest()?;
        // A spec with as little as possible works or is refused.
        for keep in [&["process", "root"][..], &["process", "root", "mounts"]] {
            let plan = vm.container("true").edit(|spec| {
                if let Some(members) = spec.as_object_mut() {
                    members.retain(|name, _| keep.contains(&name.as_str()));
                }
            });
            if let Ok(container) = plan.try_create()? {
                container.remove()?;
            }
        }
        for member in ["namespaces", "maskedPaths", "readonlyPaths"] {
            let plan = vm.container("true").edit(|spec| {
                if let Some(members) = spec["linux"].as_object_mut() {
                    members.remove(member);
                }
            });
            if let Ok(container) = plan.try_create()? {
                container.remove()?;
            }
        }
        let few = vm.container("echo few").edit(|spec| {
            if let Some(members) = spec["process"].as_object_mut() {
                for member in ["capabilities", "rlimits", "noNewPrivileges"] {
                    members.remove(member);
                }
            }
        });
        same("output", "few\n", few.run()?.text())
    }),
    (137, |lab| {
        let vm = lab.guest()?;
        let container = vm.container("touch /ran").create()?;
        for id in [container.id(), "no-such-container"] {
            vm.ask_json(Rpc::Start, &json!({"ContainerId": id}))?
                .is(0)?;
        }
        vm.ask(Rpc::Start as u32, "{\"ContainerId\"")?
            .is(codes::INVALID_JSON)?;
        let ran = format!("{}/ran", root(container.id()));
        vm.sh(&format!("test ! -e {ran}"))?;
        container.init().run()?;
        vm.sh(&format!("test -e {ran}"))?;
        container.remove()
    }),
];
