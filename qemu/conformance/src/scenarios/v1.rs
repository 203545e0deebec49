//! The retired V1 schema (protocol 8). A guest without it refuses the first Create, and the
//! lines about it do not apply.

mod mappings;

use serde_json::{json, Value};

use super::process::{ended, line, rest};
use super::{Area, Scenario};
use crate::{
    codes, contains, not_run, same, that, AnswerIs, Checked, Expected, Guest, Lab, LIMIT, TOOLS,
};
use uvm_host::wire::Rpc;
use uvm_host::{Answer, Launch};

pub const AREA: Area = Area {
    name: "v1",
    scenarios: SCENARIOS,
    not_run: &[],
};

const SCENARIOS: &[(u16, Scenario)] = &[
    (330, create_first),
    (331, paths),
    (332, first_and_later),
    (333, mappings::exit),
    (334, under_protocol_4),
];

const ID: &str = "v1";
/// Outlives the tools' disk, on the root file system of the VM.
const KEPT: &str = "/busybox-kept";

/// The tools' disk as the only layer and, so that there are tools in the VM, mapped as well.
fn document() -> Value {
    json!({
        "Layers": [{"Path": "0"}], "SandboxDataPath": "", "MappedDirectories": [],
        "MappedVirtualDisks": [
            {"ContainerPath": TOOLS, "Lun": 0, "CreateInUtilityVM": true, "ReadOnly": true}]})
}

fn create(vm: &Guest, document: &Value) -> Checked<Answer> {
    vm.register(ID);
    let body = json!({"ContainerId": ID, "ContainerConfig": document.to_string(),
        "SupportedVersions": {"MinimumProtocolVersion": 3, "MaximumProtocolVersion": 3}});
    vm.ask_json(Rpc::Create, &body)
}

/// A VM of the old protocol with its container.
fn created(lab: &Lab) -> Checked<Guest> {
    let vm = lab.boot(|boot| {
        boot.negotiate = false;
        boot.profile.service_flags.push("-v4=false".into());
    })?;
    let answer = create(&vm, &document())?;
    if answer.code() == codes::NOT_IMPLEMENTED {
        return Err(not_run("this guest has no V1 schema"));
    }
    answer.is(0)?;
    let version = answer.members.get("SelectedProtocolVersion");
    same(
        "SelectedProtocolVersion",
        Some(3),
        version.and_then(Value::as_u64),
    )?;
    Ok(vm)
}

fn shell(vm: &Guest, busybox: &str, script: &str) -> Checked<String> {
    let bin = format!("{TOOLS}/bin");
    let launch = vm.external(&[busybox, "sh", "-c", script]);
    let out = launch.env("PATH", &bin).limit(LIMIT).run()?;
    that(
        out.code == 0,
        format!("`{script}` to succeed"),
        out.error_text(),
    )?;
    Ok(out.text())
}

fn inside(vm: &Guest, script: &str) -> Checked<String> {
    shell(vm, &format!("{TOOLS}/bin/busybox"), script)
}

/// The first process: it brings the spec.
fn first(vm: &Guest, script: &str) -> Launch {
    let spec = vm.container(script).spec;
    vm.init(ID).parameter("OciSpecification", spec).limit(LIMIT)
}

pub fn create_first(lab: &mut Lab) -> Checked {
    let vm = created(lab)?;
    let refused: [(Rpc, Value); 5] = [
        (
            Rpc::NegotiateProtocol,
            json!({"MinimumVersion": 4, "MaximumVersion": 4}),
        ),
        (Rpc::Start, json!({"ContainerId": ID})),
        (Rpc::DumpStacks, json!({})),
        (Rpc::DeleteContainerState, json!({"ContainerId": ID})),
        (
            Rpc::Create,
            json!({"ContainerId": "other", "ContainerConfig": document().to_string()}),
        ),
    ];
    for (rpc, body) in refused {
        vm.ask_json(rpc, &body)?.is(codes::NOT_IMPLEMENTED)?;
    }
    let query = json!({"ContainerId": ID, "Query": "{\"PropertyTypes\":[\"ProcessList\"]}"});
    let answer = vm.ask_json(Rpc::GetProperties, &query)?;
    answer.is(0)?;
    let list = answer.members.get("Properties").and_then(Value::as_str);
    same("Properties before the first process", Some("{}"), list)
}

/// The mount at `path` is read-only; its type is a matter of who made the image.
fn read_only(mounts: &str, path: &str) -> Checked {
    let is_it = |line: &str| {
        let mut members = line.split(' ').skip(1);
        members.next() == Some(path) && members.nth(1).is_some_and(|o| o.starts_with("ro"))
    };
    let found = mounts.lines().any(is_it);
    that(found, format!("{path} to be mounted read-only"), mounts)
}

pub fn paths(lab: &mut Lab) -> Checked {
    let vm = created(lab)?;
    let mounts = inside(&vm, "cat /proc/mounts")?;
    read_only(&mounts, "/run/gcs/c/0/0")?;
    contains("the mounts", " /run/gcs/c/0/rootfs overlay rw", &mounts)?;
    contains("the mounts", "=/tmp/base", &mounts)?;
    read_only(&mounts, TOOLS)?;
    let modes = "stat -c '%n %a' /run/gcs/c/0/0 /run/gcs/c/0/scratch | sort; \
                 ls -d /run/gcs/c/0/scratch/upper /run/gcs/c/0/scratch/work; \
                 echo x > /run/gcs/c/0/rootfs/written; cat /run/gcs/c/0/scratch/upper/written";
    let seen = inside(&vm, modes)?;
    contains("the scratch", "/run/gcs/c/0/scratch 755", &seen)?;
    contains(
        "the scratch",
        "upper\n/run/gcs/c/0/scratch/work\nx\n",
        &seen,
    )
}

pub fn first_and_later(lab: &mut Lab) -> Checked {
    let vm = created(lab)?;
    let early = vm.init(ID).parameter("CommandArgs", json!(["/bin/true"]));
    super::process::any_refusal(early.start(), "a first process without OciSpecification")?;
    let mut init = first(&vm, "echo ready; cat; exit 7").open_stdin().start()?;
    line(init.stdio.stdout.as_mut(), "ready")?;

    let process = super::process::oci_process(&["sh", "-c", "echo by a document; exit 3"]);
    let process = process["OciProcess"].clone();
    let out = vm.exec(ID, &process).limit(LIMIT).run()?;
    same(
        "a process by its document",
        (3, "by a document\n".to_owned()),
        (out.code, out.text()),
    )?;

    let script = "echo $A $(pwd) $(id -u) $(ulimit -n); grep NoNewPrivs /proc/self/status";
    let made = vm
        .init(ID)
        .parameter("CommandArgs", json!(["/bin/sh", "-c", script]))
        .parameter("WorkingDirectory", "/tmp".into())
        .parameter("Environment", json!({"A": "b", "PATH": "/bin"}));
    let out = made.limit(LIMIT).run()?;
    let wanted = "b /tmp 0 1024\nNoNewPrivs:\t1\n";
    same("a process by its args", wanted, out.text().as_str())?;

    // By pid alone: the id does not count.
    let script = format!("{TOOLS}/bin/busybox sleep 1000");
    let mut external = vm.external_line(&script).start()?;
    vm.signal("whatever", external.pid, 9)?;
    that(
        matches!(external.wait(LIMIT)?, 137 | u32::MAX),
        "an exit by a signal",
        "another",
    )?;
    let mut stdin = init.stdio.stdin.take().expected("a connection")?;
    std::io::Write::write_all(&mut stdin, b"heard")?;
    drop(stdin);
    let mut stdout = init.stdio.stdout.take().expected("a connection")?;
    same(
        "output of the first process",
        "heard",
        rest(&mut stdout)?.as_str(),
    )?;
    drop(stdout);
    ended(&mut init, "exit code of the first process", 7)
}

pub fn under_protocol_4(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    create(&vm, &document())?.is(codes::INVALID_JSON)?;
    same("the next process", "on", vm.sh("echo on")?.as_str())
}
