//! What a container must not do in the VM, tried from inside as its root, with cgroup v2 and v1:
//! device rules, masked and read-only paths, capabilities, namespaces, limits, seccomp.

mod common;

use serde_json::{json, Value};
use uvm_conformance::{lab, run, Checked, Container, Guest, Order, Selection};

/// Boots the VM with its control groups in this version; `None` was said.
fn boot(version: &str) -> Option<Guest> {
    let mut profile = common::shipped_profile()?;
    for tool in ["mkfs.ext4", "busybox"] {
        if uvm_vm::choice::program(tool).is_none() {
            eprintln!("SKIPPED: {tool} is not there, which the disks of a container need");
            return None;
        }
    }
    profile
        .kernel_options
        .push(format!("hcsshim.cgroup={version}"));
    let lab = lab(profile, Some(&common::layer_cache())).unwrap();
    let vm = lab.boot(|_| {}).unwrap();
    let seen = vm.sh("test -e /sys/fs/cgroup/cgroup.controllers && echo v2 || echo v1");
    assert_eq!(seen.unwrap(), version);
    Some(vm)
}

/// What a container says that runs `script`, its spec changed by `change`.
fn said(vm: &Guest, script: &str, change: impl FnOnce(&mut Value)) -> String {
    let script = format!("exec 2>/dev/null; {script}\ntrue");
    let out = vm.container(&script).edit(change).run().unwrap();
    assert_eq!(out.code, 0, "{script}: {}", out.error_text());
    out.text()
}

fn everything(version: &str) {
    let Some(vm) = boot(version) else { return };
    devices(&vm);
    paths_and_rights(&vm);
    limits_and_settings(&vm);
    seccomp(&vm).unwrap();
    no_new_privileges(&vm).unwrap();
}

#[test]
fn what_is_forbidden_is_refused_with_cgroup_v2() {
    everything("v2");
}

#[test]
fn what_is_forbidden_is_refused_with_cgroup_v1() {
    everything("v1");
}

/// Making a node is allowed, opening it only by the rules: the VM's disk, its kernel log, its
/// memory, its random numbers' source.
fn devices(vm: &Guest) {
    let nodes = "for d in 'b 8 0' 'c 1 11' 'c 1 1' 'c 10 183' 'c 1 3'; do
            mknod /tmp/d $d; (head -c 1 /tmp/d >/dev/null) && echo read $d; (: >>/tmp/d) && echo write $d
            rm /tmp/d
        done";
    let rule = |kind: &str, major: i64, access: &str| json!({"allow": true, "type": kind, "major": major, "access": access});
    let nothing = json!({"allow": false, "access": "rwm"});
    for (rules, seen) in [
        (json!([]), "read c 1 3\nwrite c 1 3\n"),
        // What the container engine sends usually.
        (json!([nothing]), "read c 1 3\nwrite c 1 3\n"),
        (
            json!([nothing, rule("b", 8, "r")]),
            "read b 8 0\nread c 1 3\nwrite c 1 3\n",
        ),
        (
            json!([rule("b", 8, "rwm"), nothing, rule("b", 8, "r")]),
            "read b 8 0\nread c 1 3\nwrite c 1 3\n",
        ),
    ] {
        let got = said(vm, nodes, |spec| {
            spec["linux"]["resources"] = json!({"devices": rules});
        });
        assert_eq!(got, seen, "{rules}");
    }
    // New limits leave the rules as they are.
    let container = vm.container("sleep 1000").create().unwrap();
    container.start().unwrap();
    let update = json!({"Request": {"ResourceType": "ContainerConstraints", "RequestType": "Update",
        "Settings": {"Linux": {"pids": {"limit": 50}, "devices": [{"allow": true, "access": "rwm"}]}}}});
    let rpc = uvm_host::wire::Rpc::ModifySettings;
    vm.call(rpc, container.id(), update).unwrap();
    let open = "mknod /tmp/d b 8 0; head -c 1 /tmp/d 2>&1 | grep -o 'not permitted'";
    assert_eq!(container.sh(open).unwrap(), "not permitted");
    container.remove().unwrap();
}

fn paths_and_rights(vm: &Guest) {
    let tried = "
        cat /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug | head -c 1
        ls -A /proc/acpi /proc/scsi /sys/firmware | grep -v : | grep .
        umount /proc/kcore && echo unmasked
        (echo x >/proc/sys/kernel/hostname) && echo sysctl
        (echo x >/proc/sysrq-trigger) && echo sysrq
        (echo 0 >/proc/irq/default_smp_affinity) && echo irq
        mount -o remount,rw /proc/sys && echo remount
        find /sys/fs/cgroup -maxdepth 3 -type d | while read d; do mkdir $d/x && echo $d; done
        (echo 1 >/sys/kernel/uevent_seqnum) && echo sysfs
        mount -t tmpfs none /tmp && echo mount
        mount -o bind /etc /tmp && echo bind
        umount /sys && echo umount
        unshare -m true && echo unshare
        nsenter -t 1 -m true && echo setns
        hostname other && echo hostname
        nice -n -5 sh -c nice | grep -e -5
        ulimit -n 1000000 && echo ulimit
        dmesg | head -c 1
        (: >/sys/fs/cgroup/cgroup.procs) && echo procs
        poweroff -f && echo poweroff
        ls /proc/1/root/run/gcs /run/gcs /run/mounts";
    assert_eq!(said(vm, tried, |_| {}), "");
    // The same with the right to do some of it, so that the trying is known to be right.
    let tried = "mount -t tmpfs none /tmp && echo mount; unshare -m true && echo unshare; hostname other && echo hostname";
    let got = said(vm, tried, |spec| {
        for set in ["bounding", "effective", "permitted"] {
            let set = &mut spec["process"]["capabilities"][set];
            set.as_array_mut().unwrap().push(json!("CAP_SYS_ADMIN"));
        }
    });
    assert_eq!(got, "mount\nunshare\nhostname\n");
    // Of its own: pids, host name, network, messages.
    let own = "echo $$; hostname; grep -c : /proc/net/dev; ls /dev/mqueue | wc -l";
    let got = said(vm, own, |spec| spec["hostname"] = json!("box"));
    assert_eq!(got, "1\nbox\n1\n0\n");
    let root = "(: >/file) && echo root; (: >/dev/shm/file) && echo shm";
    let got = said(vm, root, |spec| spec["root"]["readonly"] = json!(true));
    assert_eq!(got, "shm\n");
}

fn limits_and_settings(vm: &Guest) {
    let script = "ulimit -n; ulimit -Hn; ulimit -c; cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/self/oom_score_adj
        for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1000 & done; echo forked";
    let plan = vm.container(script).edit(|spec| {
        spec["process"]["rlimits"] = json!([
            {"type": "RLIMIT_NOFILE", "soft": 55, "hard": 66},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 1024},
        ]);
        spec["process"]["oomScoreAdj"] = json!(7);
        spec["linux"]["sysctl"] =
            json!({"kernel.msgmax": "4321", "net.ipv4.ip_unprivileged_port_start": "77"});
        spec["linux"]["resources"] = json!({"pids": {"limit": 8}});
    });
    let out = plan.run().unwrap();
    // The shell ends when it cannot fork.
    assert_eq!(
        out.text(),
        "55\n66\n0\n4321\n77\n7\n",
        "{}",
        out.error_text()
    );
    assert!(out.error_text().contains("fork"), "{}", out.error_text());
    assert_ne!(vm.sh("cat /proc/sys/kernel/msgmax").unwrap(), "4321");
}

/// The container's filter holds for its first process and for those that come later.
fn seccomp(vm: &Guest) -> Checked {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": ["mkdir", "mkdirat", "some_call_of_the_future"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
            {"names": ["chmod"], "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 1, "value": 0o4000, "valueTwo": 0o4000, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["sync"], "action": "SCMP_ACT_KILL_PROCESS"},
        ],
    });
    let script = "mkdir /tmp/x 2>&1 | grep -o 'No space'; touch /tmp/f; chmod 755 /tmp/f && echo chmod
        chmod 4755 /tmp/f 2>/dev/null || echo no setuid; sync; echo $?; grep ^Seccomp: /proc/self/status";
    let want = "No space\nchmod\nno setuid\n159\nSeccomp:\t2";
    for no_new_privileges in [false, true] {
        let container = vm
            .container(&format!("{script}; sleep 1000"))
            .edit(|spec| {
                spec["linux"]["seccomp"] = profile.clone();
                spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
            })
            .create()?;
        container.start()?;
        assert_eq!(container.sh(script)?, want);
        container.remove()?;
    }
    let out = vm
        .container(script)
        .edit(|spec| spec["linux"]["seccomp"] = profile.clone())
        .run()?;
    assert_eq!(out.text().trim_end(), want);
    // What this guest cannot enforce is refused by name.
    for (member, value, words) in [
        ("listenerPath", json!("/run/x.sock"), "listenerPath"),
        ("defaultAction", json!("SCMP_ACT_NOTIFY"), "SCMP_ACT_NOTIFY"),
    ] {
        let plan = vm.container("true").edit(|spec| {
            spec["linux"]["seccomp"] = profile.clone();
            spec["linux"]["seccomp"][member] = value;
        });
        let Err(refusal) = plan.try_create()? else {
            panic!("{member} was accepted");
        };
        assert!(refusal.to_string().contains(words), "{refusal}");
    }
    Ok(())
}

/// A setuid program of root's, called by somebody else: a raw socket is what it has more.
fn no_new_privileges(vm: &Guest) -> Checked {
    let container = vm
        .container("cp /bin/busybox /ping; chmod 4755 /ping; sleep 1000")
        .create()?;
    container.start()?;
    let ping = |container: &Container<'_>, no_new_privileges: bool| {
        let script = "while ! test -u /ping; do :; done; /ping -c 1 127.0.0.1";
        let exec = container.exec_with(script, |process| {
            process["user"] = json!({"uid": 1000, "gid": 1000});
            process["noNewPrivileges"] = json!(no_new_privileges);
            process["capabilities"] = json!({"bounding": ["CAP_NET_RAW", "CAP_SETUID"]});
        });
        exec.run().map(|out| out.code)
    };
    assert_eq!(ping(&container, false)?, 0);
    assert_eq!(ping(&container, true)?, 1);
    container.remove()
}

/// The scenarios of properties and limits, which the checklist's own run does with v2.
#[test]
fn statistics_and_limits_are_right_with_cgroup_v1() {
    let Some(mut profile) = common::shipped_profile() else {
        return;
    };
    profile.kernel_options.push("hcsshim.cgroup=v1".into());
    let order = Order {
        profile,
        accel: uvm_vm::choice::AccelWish::default(),
        selection: Selection::new(
            &["P-100".into(), "P-220-227".into(), "P-274".into()],
            |_| "",
        )
        .unwrap(),
        jobs: 1,
        fail_fast: false,
        cache: Some(common::layer_cache()),
        log: None,
    };
    let report = run(order, |outcome| println!("{outcome}")).unwrap();
    let fails: Vec<String> = report.fails().map(ToString::to_string).collect();
    assert!(fails.is_empty(), "{}", fails.join("\n"));
}
