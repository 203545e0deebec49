//! What annotations and devices do to a spec, and the working directory.

use serde_json::{json, Value};

use super::{Area, Scenario};
use crate::{
    codes, contains, not_run, refused, same, that, AnswerIs, Checked, Container, Guest, Lab, Plan,
    PLACE, TOOLS,
};
use uvm_host::wire::Rpc;

pub const AREA: Area = Area {
    name: "spec",
    scenarios: SCENARIOS,
    not_run: &[],
};

const SHM: &str = "io.microsoft.lcow.shm.size-kb";
const CORE: &str = "io.microsoft.lcow.rlimitcore";
const PRIVILEGED: &str = "io.microsoft.virtualmachine.lcow.privileged";
const CERTIFICATE: &str = "io.microsoft.virtualmachine.lcow.amd-certificate";
const CAPABILITIES: &str = "io.microsoft.container.gpu.capabilities";
const SECURITY: &str = "io.microsoft.virtualmachine.lcow.securitypolicy.env";

/// The pod of a workload that is judged.
fn in_pod(lab: &mut Lab, check: impl Fn(&Guest, &Container<'_>) -> Checked) -> Checked {
    let vm = lab.guest()?;
    let sandbox = vm.sandbox("true")?.create()?;
    check(&vm, &sandbox)?;
    sandbox.remove()
}

fn with_device<'g>(plan: Plan<'g>, path: &str) -> Plan<'g> {
    let device = json!({"path": path, "type": "c", "major": 77, "minor": 78});
    plan.edit(|spec| spec["linux"]["devices"] = json!([device]))
}

/// The disk with the tools: a device that every VM of the run has and no container may use unasked.
struct TheDisk {
    path: String,
    major: u64,
    minor: u64,
}

impl TheDisk {
    fn of(vm: &Guest) -> Checked<Self> {
        vm.tools()?;
        let said = vm.sh(&format!(
            "set -- $(grep ' {TOOLS} ' /proc/mounts); stat -c '%n %t %T' $1"
        ))?;
        let words: Vec<&str> = said.split(' ').collect();
        let number = |at: usize| u64::from_str_radix(words.get(at).unwrap_or(&""), 16);
        Ok(Self {
            path: words[0].to_owned(),
            major: number(1)?,
            minor: number(2)?,
        })
    }

    /// Makes a node of its own and reads from it.
    fn script(&self) -> String {
        let Self { major, minor, .. } = self;
        format!("mknod /own b {major} {minor}; head -c 512 /own | wc -c")
    }

    /// It must be in the spec with the numbers it has.
    fn is_in(&self, config: &Value) -> Checked {
        let list = config["linux"]["devices"].as_array().into_iter().flatten();
        let mut found = list.filter(|device| device["path"] == self.path.as_str());
        let seen = found
            .next()
            .map(|device| json!([device["type"], device["major"], device["minor"]]));
        same(&self.path, Some(json!(["b", self.major, self.minor])), seen)
    }
}

const INSTANCE: &str = "7d2f8c3e-6a0b-4b8f-8a51-55a1b2c3d4e5";

/// Makes the VMBus that Hyper-V would have, on which the disk's own PCI function was assigned.
/// Gives the function's address. Nothing else is found on a bus of the VM any more.
fn assign_disk(vm: &Guest, disk: &TheDisk) -> Checked<String> {
    let name = disk.path.trim_start_matches("/dev/");
    let device = vm.sh(&format!("readlink -f /sys/block/{name}/device"))?;
    let mut parts = device
        .split('/')
        .skip_while(|part| !part.starts_with("pci"));
    let (Some(bus), Some(function)) = (parts.next(), parts.next()) else {
        return Err(not_run("the disks of this machine are not on PCI"));
    };
    let place = format!("/sys/bus/vmbus/devices/{INSTANCE}/{bus}");
    vm.sh(&format!(
        "mount -t tmpfs tmpfs /sys/bus && mkdir -p {place} && \
         ln -s /sys/devices/{bus}/{function} {place}/"
    ))?;
    Ok(function.to_owned())
}

/// What a program finds of its security context: variable, then files with modes and texts.
const CONTEXT: &str = "echo $UVM_SECURITY_CONTEXT_DIR; cd ${UVM_SECURITY_CONTEXT_DIR:-/none} && \
                       stat -c '%a %n' . * && cat *";

const SCENARIOS: &[(u16, Scenario)] = &[
    (117, |lab| {
        in_pod(lab, |vm, sandbox| {
            let plan = || vm.workload(sandbox.id(), "grep ' /dev/shm ' /proc/mounts");
            let workload = plan().annotate(SHM, "2048").create()?;
            let config = workload.config()?;
            let all = config["mounts"].as_array().into_iter().flatten();
            let shm: Vec<&Value> = all.filter(|m| m["destination"] == "/dev/shm").collect();
            let expected = json!({
                "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=2048k"]});
            same("mounts at /dev/shm", vec![&expected], shm)?;
            contains("the mount", "size=2048k", &workload.init().run()?.text())?;
            workload.remove()?;
            for bad in ["0", "", "many", "-1", "1.5"] {
                refused(plan().annotate(SHM, bad).try_create()?, codes::FAIL)?;
            }
            Ok(())
        })
    }),
    (118, |lab| {
        in_pod(lab, |vm, sandbox| {
            let script = "grep core /proc/self/limits | tr -s ' '";
            let plan = || vm.workload(sandbox.id(), script);
            let out = plan().annotate(CORE, "1;2").run()?;
            contains("its limits", "Max core file size 1 2 bytes", &out.text())?;
            // One that is there is replaced; engines refuse two.
            let own = json!({"type": "RLIMIT_CORE", "soft": 5, "hard": 6});
            let twice = plan().annotate(CORE, "0;7").edit(|spec| {
                spec["process"]["rlimits"] = json!([own]);
            });
            contains(
                "its limits",
                "Max core file size 0 7 bytes",
                &twice.run()?.text(),
            )?;
            for bad in ["1", "1;2;3", "a;b", "-1;2", ";"] {
                refused(plan().annotate(CORE, bad).try_create()?, codes::FAIL)?;
            }
            Ok(())
        })
    }),
    (119, |lab| {
        in_pod(lab, |vm, sandbox| {
            let disk = TheDisk::of(vm)?;
            for text in ["true", "TRUE", "True"] {
                let plan = vm.workload(sandbox.id(), &disk.script());
                let workload = plan.annotate(PRIVILEGED, text).create()?;
                let config = workload.config()?;
                let rules = config["linux"]["resources"]["devices"].clone();
                same(
                    "its rules",
                    json!([{"allow": true, "access": "rwm"}]),
                    rules,
                )?;
                disk.is_in(&config)?;
                same("bytes it read", "512\n", workload.init().run()?.text())?;
                workload.remove()?;
            }
            let plan = vm.workload(sandbox.id(), &disk.script());
            let out = plan.annotate(PRIVILEGED, "yes").run()?;
            same("bytes that an ordinary one read", "0\n", out.text())
        })
    }),
    (120, |lab| {
        in_pod(lab, |vm, sandbox| {
            let (pipe, directory) = (vm.fresh("pipe"), vm.fresh("sub"));
            vm.sh(&format!(
                "mkfifo /dev/{pipe}; mkdir -p /dev/{directory}/mqueue; \
                 mknod /dev/{directory}/null c 1 3; mknod /dev/{directory}/mqueue/null c 1 3"
            ))?;
            let plan = vm
                .workload(sandbox.id(), "true")
                .annotate(PRIVILEGED, "true");
            let workload = plan.create()?;
            let config = workload.config()?;
            vm.sh(&format!("rm -r /dev/{pipe} /dev/{directory}"))?;
            let list = config["linux"]["devices"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let paths: Vec<&str> = list.iter().filter_map(|d| d["path"].as_str()).collect();
            let made = format!("/dev/{directory}/null");
            that(
                paths.contains(&made.as_str()),
                "nodes of sub-directories",
                format!("{paths:?}"),
            )?;
            let skipped = |path: &&&str| {
                let mut parts = path.split('/');
                path.ends_with("/console")
                    || path.ends_with(&pipe)
                    || parts.any(|part| ["pts", "shm", "fd", "mqueue"].contains(&part))
            };
            same("what is to be left out", None, paths.iter().find(skipped))?;
            workload.remove()
        })
    }),
    (121, |lab| {
        in_pod(lab, |vm, sandbox| {
            let disk = TheDisk::of(vm)?;
            let plan = |path: &str| with_device(vm.workload(sandbox.id(), &disk.script()), path);
            let workload = plan(&disk.path).create()?;
            let config = workload.config()?;
            disk.is_in(&config)?;
            let rules = config["linux"]["resources"]["devices"].as_array().cloned();
            let rule = json!({
                "allow": true, "type": "b", "major": disk.major, "minor": disk.minor,
                "access": "rwm"});
            same(
                "the last rule",
                Some(&rule),
                rules.unwrap_or_default().last(),
            )?;
            same("bytes it read", "512\n", workload.init().run()?.text())?;
            workload.remove()?;
            refused(plan("/dev/no-such-node").try_create()?, codes::FAIL)?;
            let link = vm.fresh("link");
            vm.sh(&format!("ln -s null /dev/{link}"))?;
            let linked = plan(&format!("/dev/{link}")).try_create()?;
            vm.sh(&format!("rm /dev/{link}"))?;
            refused(linked, codes::FAIL).map(drop)
        })
    }),
    (122, |lab| {
        in_pod(lab, |vm, sandbox| {
            let bare = |plan: Plan<'_>| {
                plan.edit(|spec| {
                    if let Some(members) = spec["linux"].as_object_mut() {
                        members.remove("resources");
                    }
                })
                .create()?
                .remove()
            };
            bare(with_device(vm.workload(sandbox.id(), "true"), "/dev/kmsg"))?;
            bare(
                vm.workload(sandbox.id(), "true")
                    .annotate(PRIVILEGED, "true"),
            )
        })
    }),
    (127, |lab| {
        let vm = lab.guest()?;
        let plan = vm.container("pwd; stat -c %a /srv/new /srv/new/here");
        let plan = plan.edit(|spec| spec["process"]["cwd"] = json!("/srv/new/here"));
        let out = plan.run()?;
        same("its directory", "/srv/new/here\n755\n755\n", out.text())
    }),
    (133, |lab| {
        let vm = lab.guest()?;
        let plan = || vm.container(CONTEXT);
        let found = plan().annotate(CERTIFICATE, "Y2VydA==").run()?.text();
        let (dir, files) = found.split_once('\n').unwrap_or_default();
        that(
            dir.starts_with("/security-context-"),
            "its directory",
            &found,
        )?;
        same(
            "its files",
            "755 .\n744 host-amd-cert-base64\nY2VydA==",
            files,
        )?;
        let nothing = |plan: Plan<'_>| same("what it finds", "\n", plan.run()?.text());
        nothing(plan())?;
        nothing(
            plan()
                .annotate(CERTIFICATE, "Y2VydA==")
                .annotate(SECURITY, "False"),
        )?;
        drop(vm);

        // Reference information that comes with an empty policy.
        let vm = lab.boot(|b| b.negotiate = false)?;
        let versions = json!({"MinimumVersion": 4, "MaximumVersion": 4});
        vm.ask_json(Rpc::NegotiateProtocol, &versions)?.is(0)?;
        vm.modify(
            "SecurityPolicy",
            "Add",
            json!({"EncodedUVMReference": "cmVm"}),
        )?;
        let found = vm.container(CONTEXT).run()?.text();
        contains(
            "what it finds",
            "\n755 .\n744 reference-info-base64\ncmVm",
            &found,
        )
    }),
    (136, |lab| {
        let vm = lab.boot(|_| {})?;
        let disk = TheDisk::of(&vm)?;
        let function = assign_disk(&vm, &disk)?;
        let sandbox = vm.sandbox("true")?.create()?;
        let with = |kind: &str, id: &str, script: &str| {
            let device = json!({"id": id, "idType": kind});
            let plan = vm.workload(sandbox.id(), script);
            plan.edit(|spec| spec["windows"] = json!({"layerFolders": null, "devices": [device]}))
        };
        let read = format!("head -c 512 {} | wc -c", disk.path);
        for kind in ["vpci", "vpci-instance-id"] {
            let id = INSTANCE.to_uppercase();
            same(
                "bytes it read",
                "512\n",
                with(kind, &id, &read).run()?.text(),
            )?;
        }
        refused(with("vpci", "../..", "true").try_create()?, codes::FAIL)?;

        // The vendor's tool: a script that notes its arguments.
        vm.sh(&format!(
            "mkdir -p {PLACE}; {{ echo '#!{TOOLS}/bin/busybox sh'; \
             echo 'echo \"$@\" $NVC_INSECURE_MODE > {PLACE}/gpu'; \
             echo 'test ! -e {PLACE}/broken'; }} > /bin/nvidia-container-cli; \
             chmod 755 /bin/nvidia-container-cli"
        ))?;
        let plan = with("gpu", INSTANCE, "true").annotate(CAPABILITIES, "utility,compute");
        let again = plan.clone();
        let workload = plan.create()?;
        let words = vm.sh(&format!("cat {PLACE}/gpu"))?;
        for part in [
            " configure --ldconfig=@/sbin/ldconfig --utility --compute ",
            &format!(" --device={function} --no-cgroups --pid="),
            &format!(" {} 1", workload.root()),
        ] {
            contains("the words of the tool", part, &words)?;
        }
        let pid = words.split("--pid=").nth(1).unwrap_or_default();
        let pid = pid.split(' ').next().unwrap_or_default();
        let groups = vm.sh(&format!("cat /proc/{pid}/cgroup"))?;
        contains("the control group of its pid", workload.id(), &groups)?;
        workload.remove()?;
        vm.sh(&format!("touch {PLACE}/broken"))?;
        refused(again.try_create()?, codes::FAIL)?;
        sandbox.remove()
    }),
];
