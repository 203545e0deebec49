//! What a container must not do, tried from inside as its root.

use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt};

use nix::sys::stat::{makedev, mknod, Mode, SFlag};
use serde_json::json;

use crate::bundle::sh;
use crate::rig::Rig;

/// Each line of the script prints what went through; nothing should.
fn refused(rig: &Rig, id: &str, script: &str) {
    let (out, err, code) = rig.run(id, &sh(&format!("{script}\ntrue")), |_| {});
    assert_eq!((out.as_str(), code), ("", 0), "{script}: {err}");
}

pub fn what_a_spec_forbids_is_refused(rig: &Rig) {
    refused(
        rig,
        "no-devices",
        "for d in 'b 8 0' 'b 254 0' 'c 1 1' 'c 1 11' 'c 10 237'; do
            mknod /tmp/d $d && { (: </tmp/d) && echo read $d; (: >>/tmp/d) && echo write $d; rm -f /tmp/d; }
         done 2>/dev/null",
    );
    refused(
        rig,
        "no-masked",
        "cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | head -c 1
         ls -A /proc/acpi /sys/firmware 2>/dev/null | grep -v :$ | grep .
         umount /proc/kcore 2>/dev/null && echo unmasked",
    );
    refused(
        rig,
        "no-writes",
        "(echo x >/proc/sys/kernel/hostname) 2>/dev/null && echo sysctl
         (echo x >/proc/sysrq-trigger) 2>/dev/null && echo sysrq
         (echo 0 >/proc/irq/default_smp_affinity) 2>/dev/null && echo irq
         find /sys/fs/cgroup -maxdepth 3 -type d | while read d; do mkdir $d/x && echo $d; done 2>/dev/null
         for f in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/pids/cgroup.procs; do (echo 0 >>$f) && echo $f; done 2>/dev/null
         mount -o remount,rw /proc/sys 2>/dev/null && echo remount",
    );
    refused(
        rig,
        "no-rights",
        "mount -t tmpfs none /tmp 2>/dev/null && echo mount
         mount -o bind /etc /tmp 2>/dev/null && echo bind
         umount /sys 2>/dev/null && echo umount
         unshare -m true 2>/dev/null && echo unshare
         nsenter -t 1 -m true 2>/dev/null && echo setns
         hostname other 2>/dev/null && echo hostname
         nice -n -5 sh -c nice 2>/dev/null | grep -e -5
         ulimit -n 4096 2>/dev/null && echo ulimit
         insmod /etc/x.ko 2>&1 | grep -q 'not permitted\\|No such' || echo module
         dmesg 2>/dev/null | head -c 1",
    );
    // The namespaces are its own.
    let (out, err, _) = rig.run(
        "own",
        &sh("echo $$; ls -d /proc/[0-9]* | wc -l; hostname; grep -c : /proc/net/dev"),
        |_| {},
    );
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        (lines[0], lines[2], lines[3]),
        ("1", "box", "1"),
        "{out}{err}"
    );
    assert!(lines[1].parse::<u32>().unwrap() <= 4, "{out}");
    // In v1 it sees what is its own, in v2 the engine has no less to show.
    if !rig.v2 {
        let show = "cd /sys/fs/cgroup; cat */cgroup.procs | grep -vc '^[0-9]*$'; find . -name gcs -o -name containers; ls pids | grep -c pids.max; cat devices/cgroup.procs | head -1";
        let (out, err, _) = rig.run("groups", &sh(show), |_| {});
        assert_eq!(out, "0\n1\n1\n", "{err}");
    }
    // A read-only root is one, and what is mounted below it stays as it is.
    let script = "(: >/file) 2>/dev/null && echo root; (: >/dev/shm/file) && echo shm";
    let (out, ..) = rig.run("ro", &sh(script), |spec| {
        spec["root"]["readonly"] = json!(true)
    });
    assert_eq!(out, "shm\n");
}

pub fn no_new_privileges_holds_against_setuid_programs(rig: &Rig) {
    for (nnp, code) in [(false, 0), (true, 1)] {
        let id = format!("suid-{nnp}");
        // A raw socket is what the owner of this program may open and its caller may not.
        let (out, err, got) = rig.run(&id, &["/suid/ping", "-c", "1", "127.0.0.1"], |spec| {
            let dir = rig.dir.path().join("c").join(&id).join("rootfs/suid");
            fs::create_dir_all(&dir).unwrap();
            fs::copy("/bin/busybox", dir.join("ping")).unwrap();
            fs::set_permissions(dir.join("ping"), PermissionsExt::from_mode(0o4755)).unwrap();
            spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
            spec["process"]["noNewPrivileges"] = json!(nnp);
        });
        assert_eq!(got, code, "no_new_privs {nnp}: {out}{err}");
    }
}

pub fn limits_and_settings_are_those_of_the_spec(rig: &Rig) {
    let outside = fs::read_to_string("/proc/sys/kernel/msgmax").unwrap();
    let script = "ulimit -n; ulimit -Hn; ulimit -c; ulimit -Hc; cat /proc/sys/kernel/msgmax
        cat /proc/sys/net/ipv4/ip_unprivileged_port_start; umask; cat /proc/self/oom_score_adj";
    let (out, err, _) = rig.run("set", &sh(script), |spec| {
        spec["process"]["rlimits"] = json!([
            {"type": "RLIMIT_NOFILE", "soft": 55, "hard": 66},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 1024},
        ]);
        spec["linux"]["sysctl"] =
            json!({"kernel.msgmax": "4321", "net.ipv4.ip_unprivileged_port_start": "77"});
        spec["process"]["user"]["umask"] = json!(0o27);
        spec["process"]["oomScoreAdj"] = json!(7);
    });
    assert_eq!(out, "55\n66\n0\n2\n4321\n77\n0027\n7\n", "{err}");
    assert_eq!(
        fs::read_to_string("/proc/sys/kernel/msgmax").unwrap(),
        outside
    );
    // A label that nothing would enforce is refused, not forgotten.
    for (name, module) in [("apparmorProfile", "AppArmor"), ("selinuxLabel", "SELinux")] {
        let failure = rig
            .create(&format!("label-{module}"), &["true"], |spec| {
                spec["process"][name] = json!("label");
            })
            .err()
            .expect("a label without its module");
        assert!(failure.message.contains(module), "{failure}");
    }
}

pub fn a_root_with_devices_of_its_own_needs_no_mount(rig: &Rig) {
    let script = "echo x >/dev/null && echo null; ls -l /dev/null | cut -c1; readlink /dev/fd; cat </dev/zero | head -c 2 | wc -c";
    let (out, err, code) = rig.run("dev", &sh(script), |spec| {
        let dev = rig.dir.path().join("c/dev/rootfs/dev");
        let mode = Mode::from_bits_truncate(0o666);
        mknod(&dev.join("null"), SFlag::S_IFCHR, mode, makedev(1, 3)).unwrap();
        fs::write(dev.join("zero"), "not a device").unwrap();
        symlink("/proc/self/fd", dev.join("fd")).unwrap();
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    });
    assert_eq!(
        (out.as_str(), code),
        ("null\nc\n/proc/self/fd\n2\n", 0),
        "{err}"
    );
}
