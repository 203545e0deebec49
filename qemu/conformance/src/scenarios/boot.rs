//! PID 1, the boot line, flags and the log.

use std::time::Duration;

use serde_json::json;

use super::service::settle;
use super::{Area, Scenario};
use crate::{contains, fail, not_run, same, that, Boot, Checked, Expected, Guest, Lab, BUSYBOX};
use uvm::UvmError;
use uvm_host::wire::Rpc;
use uvm_host::{End, HostError, UVM_ID};
use uvm_vm::profile::{BootForm, ColdDisk, Machine, Root};

pub const AREA: Area = Area {
    name: "boot",
    scenarios: SCENARIOS,
    not_run: &[],
};

const SERVICE: &str = "/bin/gcs -v4 -log-format json -loglevel debug";
const PROGRAM_PATH: &str = "PATH=/sbin:/usr/sbin:/bin:/usr/bin";

/// Target, type, options that must be there. Options of tmpfs are shown with others.
const MOUNTS: [(&str, &str, &[&str]); 7] = [
    ("/dev", "devtmpfs", &["nosuid", "noexec"]),
    ("/proc", "proc", &["nodev", "nosuid", "noexec"]),
    ("/run", "tmpfs", &["nodev", "nosuid", "noexec", "mode=755"]),
    ("/tmp", "tmpfs", &["nodev", "nosuid", "noexec"]),
    ("/dev/shm", "tmpfs", &["nodev", "nosuid", "noexec"]),
    ("/dev/pts", "devpts", &["nosuid", "noexec"]),
    ("/sys", "sysfs", &["nodev", "nosuid", "noexec"]),
];

/// A flag and a value that it takes.
const VALUES: [(&str, &str); 8] = [
    ("loglevel", "TRACE"),
    ("log-format", "json"),
    ("kmsgLogLevel", "7"),
    ("core-dump-location", "/run/core.%p"),
    ("root-mem-reserve-bytes", "80000000"),
    ("gcs-mem-limit-bytes", "60000000"),
    ("initial-policy-stance", "allow"),
    ("logfile", "/run/log"),
];

/// Boots with PID 1 running a busybox script (without double quotes) that then becomes the
/// service: what a program of PID 1's sees.
fn program(lab: &Lab, script: &str) -> Checked<Guest> {
    let initrd = lab.tools_initrd(false)?;
    lab.boot(|b| {
        b.profile.root = Some(Root::Initrd(initrd));
        b.profile.init_line = Some(format!(
            "-e 1 {BUSYBOX} sh -c \"{script}; exec /bin/vsockexec -e 109 {SERVICE}\""
        ));
    })
}

pub(super) fn flags(b: &mut Boot, flags: &str) {
    b.profile.service_flags.push(flags.into());
}

/// What a shell, a container and the log do in a whole VM.
pub(super) fn works(vm: &Guest) -> Checked {
    same("what a shell says", "fine", vm.sh("echo fine")?.as_str())?;
    same(
        "exit code of a container",
        5,
        vm.container("exit 5").run()?.code,
    )
}

pub(super) fn cgroups_mounted(vm: &Guest, kind: &str) -> Checked {
    let mounts = vm.sh("grep /sys/fs/cgroup /proc/mounts")?;
    contains("the mounts", &format!(" {kind} "), &mounts)
}

/// The VM must end before it is negotiated, and say why on its console.
fn ends(lab: &Lab, change: impl FnOnce(&mut Boot)) -> Checked<String> {
    match lab.try_boot(change) {
        Ok(_) => Err(fail("the end of the VM", "a VM that was negotiated")),
        Err(UvmError::Host(HostError::Ended {
            end: End::Panic(text) | End::Exited(text),
            ..
        })) => Ok(text),
        Err(other) => Err(fail("the end of the VM", other)),
    }
}

/// Frames and documents over which a careless service fails.
fn barrage() -> Vec<(Rpc, serde_json::Value)> {
    let create = |oci: serde_json::Value| {
        let config = json!({"SchemaVersion": {"Major": 2, "Minor": 1}, "OciSpecification": oci});
        json!({"ContainerId": "barrage", "ContainerConfig": config.to_string()})
    };
    let external = |parameters: serde_json::Value| json!({"ContainerId": UVM_ID, "Settings": {"ProcessParameters": parameters.to_string()}});
    let modify = |resource: &str, settings: serde_json::Value| json!({"ContainerId": UVM_ID, "Request": {"ResourceType": resource, "Settings": settings}});
    vec![
        (Rpc::Create, create(json!({}))),
        (
            Rpc::Create,
            create(json!({"ociVersion": "1.1.0", "process": {}, "root": {}})),
        ),
        (
            Rpc::Create,
            create(json!({"process": {"args": []}, "root": {"path": ""}, "linux": {}})),
        ),
        (
            Rpc::ExecuteProcess,
            external(json!({"CommandLine": "", "CreateInUtilityVM": true})),
        ),
        (
            Rpc::ExecuteProcess,
            external(json!({"CommandArgs": ["", "\u{0}"]})),
        ),
        (
            Rpc::ExecuteProcess,
            external(json!({"CommandLine": "\"", "EmulateConsole": true})),
        ),
        (
            Rpc::ModifySettings,
            modify(
                "MappedVirtualDisk",
                json!({"MountPath": "", "Controller": 255}),
            ),
        ),
        (Rpc::ModifySettings, modify("CombinedLayers", json!({}))),
        (Rpc::ModifySettings, modify("Network", json!({}))),
        (Rpc::ModifySettings, modify("MappedDirectory", json!({}))),
        (Rpc::ModifySettings, modify("VPMemDevice", json!({}))),
        (
            Rpc::SignalProcess,
            json!({"ContainerId": UVM_ID, "ProcessId": 0, "Options": {"Signal": -1}}),
        ),
        (
            Rpc::ResizeConsole,
            json!({"ContainerId": UVM_ID, "ProcessId": 0}),
        ),
        (
            Rpc::DeleteContainerState,
            json!({"ContainerId": "../../.."}),
        ),
    ]
}

const SCENARIOS: &[(u16, Scenario)] = &[
    (290, |lab| {
        let vm = lab.guest()?;
        let table = vm.sh("cat /proc/mounts")?;
        for (target, kind, options) in MOUNTS {
            let mut rows = table
                .lines()
                .map(|line| line.split(' ').collect::<Vec<_>>());
            let found = rows.any(|row| {
                let shown: Vec<&str> = row.get(3).map_or(vec![], |o| o.split(',').collect());
                row[1..3] == [target, kind] && options.iter().all(|o| shown.contains(o))
            });
            that(
                found,
                format!("{target} as {kind} with {options:?}"),
                &table,
            )?;
        }
        let v1 = lab.boot(|b| b.profile.kernel_options.push("hcsshim.cgroup=v1".into()))?;
        let each = "awk '!/^#/ && $4 == 1 {print $1}' /proc/cgroups | while read name; do \
                    grep -q \" /sys/fs/cgroup/$name cgroup .*$name\" /proc/mounts || echo $name; done";
        same("controllers without hierarchy", "", v1.sh(each)?.as_str())
    }),
    (291, |lab| {
        let links = lab
            .guest()?
            .sh("for n in fd stdin stdout stderr; do readlink /dev/$n; done")?;
        let wanted = "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2";
        same("links", wanted, links.as_str())
    }),
    (292, |lab| {
        let vm = lab.boot(|b| b.options.entropy_hold = Duration::from_millis(1500))?;
        let (entropy, bridge) = (vm.timings().entropy, vm.timings().bridge);
        let entropy = entropy.expected("an entropy connection")?;
        that(
            entropy < bridge,
            format!("the bridge after the end of the entropy at {entropy:?}"),
            format!("{bridge:?}"),
        )
    }),
    (293, |lab| {
        let vm = program(
            lab,
            &format!("{BUSYBOX} cat /proc/$$/environ > /run/environ"),
        )?;
        let environ = vm.sh("tr '\\0' '\\n' < /run/environ")?;
        same("the environment", PROGRAM_PATH, environ.as_str())
    }),
    (294, |lab| {
        let initrd = lab.tools_initrd(false)?;
        let text = ends(lab, |b| {
            b.profile.root = Some(Root::Initrd(initrd));
            b.profile.init_line = Some(format!("-e 1 {BUSYBOX} sh -c \"exit 7\""));
        })?;
        contains("the last words", "exitcode=0x00000700", &text)
    }),
    (295, |lab| {
        let orphan = format!("( {BUSYBOX} sh -c ': > /run/orphan$0' $i & )");
        let vm = program(lab, &format!("for i in 1 2 3; do {orphan} ; done"))?;
        let wait = |script: &str| {
            vm.sh(&format!(
                "for i in $(seq 300); do {script} && exit 0; usleep 100000; done; exit 1"
            ))
        };
        wait("[ -e /run/orphan1 -a -e /run/orphan2 -a -e /run/orphan3 ]")?;
        wait("! grep -q '^State:.Z' /proc/[0-9]*/status 2>/dev/null")
            .map(drop)
            .map_err(|_| fail("no zombie", "zombies after half a minute"))
    }),
    (296, |lab| {
        let limits = "ulimit -Sn; ulimit -Hn";
        let vm = program(lab, &format!("( {limits} ) > /run/limits"))?;
        let expected = "1024\n1048576";
        same(
            "limits of the program",
            expected,
            vm.sh("cat /run/limits")?.as_str(),
        )?;
        same(
            "limits of a process of the VM",
            expected,
            vm.sh(limits)?.as_str(),
        )
    }),
    (297, |lab| {
        let vm = lab.guest()?;
        let flags = vm.sh("cat /sys/class/net/lo/flags")?;
        let value = u32::from_str_radix(flags.trim_start_matches("0x"), 16)?;
        that(value & 1 == 1, "IFF_UP in the flags of lo", &flags)?;
        vm.sh("ping -c 1 127.0.0.1").map(drop)
    }),
    (298, |lab| {
        // Without PCI and without serial console, as a plain VM of a host is.
        let vm = lab.boot(|b| {
            b.profile.machine = Machine::Microvm;
            b.profile.serial_console = false;
        })?;
        that(vm.timings().entropy.is_some(), "the entropy taken", "none")?;
        that(vm.timings().log.is_some(), "the log connected", "nothing")?;
        works(&vm)
    }),
    (299, |lab| {
        // The host takes one connection: a second one would fail and the program with it.
        let vm = lab.boot(|b| {
            b.profile.init_line = Some(format!("-e 1 /bin/vsockexec -o 109 -e 109 {SERVICE}"));
        })?;
        settle(&vm)
    }),
    (300, |lab| {
        let forms: [fn(&str, &str) -> String; 4] = [
            |name, value| format!("-{name} {value}"),
            |name, value| format!("--{name} {value}"),
            |name, value| format!("-{name}={value}"),
            |name, value| format!("--{name}={value}"),
        ];
        let switches = [
            "-v4 -disable-time-sync -scrub-logs",
            "--v4 --disable-time-sync --scrub-logs",
            "-v4=true -disable-time-sync=true -scrub-logs=false -use-inouterr=false",
            "--v4=1 --disable-time-sync=0 --scrub-logs=T",
        ];
        for (form, switches) in forms.into_iter().zip(switches) {
            let values: Vec<String> = VALUES.iter().map(|(n, v)| form(n, v)).collect();
            let vm = lab.boot(|b| {
                let line = format!(
                    "-e 1 /bin/vsockexec -e 109 /bin/gcs {switches} {}",
                    values.join(" ")
                );
                b.profile.init_line = Some(line);
            })?;
            vm.sh("test -s /run/log")?;
        }
        let vm = lab.guest()?;
        for bad in [
            "-v4=maybe",
            "-loglevel loud",
            "-log-format=xml",
            "-loglevel",
        ] {
            let args: Vec<&str> = std::iter::once("/bin/gcs").chain(bad.split(' ')).collect();
            let out = vm.external(&args).run()?;
            that(out.code != 0, format!("{bad} to be refused"), "exit code 0")?;
        }
        ends(lab, |b| flags(b, "-v4=maybe")).map(drop)
    }),
    (309, |lab| {
        let root = lab.root_disk()?;
        let vm = lab.boot(|b| {
            b.profile.root = Some(Root::Scsi(ColdDisk::boot(root)));
        })?;
        let mount = vm.sh("grep ' / ' /proc/mounts | cut -d' ' -f2,4")?;
        contains("the mount", "/ ro", &mount)?;
        works(&vm)
    }),
    (310, |lab| {
        let vm = lab.guest()?;
        let mounts = vm.sh("grep ' / ' /proc/mounts")?;
        if !mounts.contains("rootfs") && !mounts.contains("tmpfs") {
            return Err(not_run(format!("the root is not in memory: {mounts}")));
        }
        works(&vm)
    }),
    (311, |lab| {
        let vm = lab.boot(|b| b.profile.form = BootForm::Shell)?;
        works(&vm)?;
        if vm.sh("test -e /bin/sh && echo there || true")? == "there" {
            return Ok(());
        }
        let initrd = lab.tools_initrd(true)?;
        let vm = lab.boot(|b| {
            b.profile.root = Some(Root::Initrd(initrd));
            b.profile.form = BootForm::Shell;
        })?;
        let service = vm.sh("echo $PPID")?;
        that(service != "1", "a service beside the shell", "pid 1")?;
        works(&vm)
    }),
    (312, |lab| {
        let vm = lab.guest()?;
        for (rpc, document) in barrage() {
            let answer = vm.ask_json(rpc, &document)?;
            let refused = answer.code() != 0;
            that(
                refused,
                format!("a refusal of {rpc:?} {document}"),
                answer.text(),
            )?;
        }
        works(&vm)
    }),
    (313, |lab| {
        const COUNT: usize = 50;
        let vm = lab.boot(|b| b.profile.memory_mib = 1024)?;
        let mut containers = Vec::new();
        for _ in 0..COUNT {
            let container = vm.container("sleep 1000").create()?;
            container.init().without_stdout().without_stderr().start()?;
            containers.push(container);
        }
        let rss = vm.sh("awk '/VmRSS/ {print $2}' /proc/$PPID/status")?;
        let kib: u64 = rss.parse()?;
        // The machine goes with them.
        vm.vm().kill();
        that(kib < 50 << 10, "less than 50 MiB", format!("{kib} KiB"))
    }),
    (314, |lab| {
        let vm = lab.guest()?;
        if vm.sh("grep -c cgroup2 /proc/filesystems || true")? == "0" {
            return Err(not_run("the kernel has no cgroup v2"));
        }
        cgroups_mounted(&vm, "cgroup2")?;
        works(&vm)?;
        let v1 = lab.boot(|b| b.profile.kernel_options.push("hcsshim.cgroup=v1".into()))?;
        cgroups_mounted(&v1, "cgroup")?;
        works(&v1)
    }),
];
