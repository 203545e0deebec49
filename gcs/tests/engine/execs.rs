//! Further processes in a container.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

use gcs::prot::HResult;
use serde_json::json;

use crate::bundle::{process, sh};
use crate::rig::Rig;
use crate::task::{reap, reap_all_but};

pub fn exec_runs_as_given_before_and_after_start(rig: &Rig) {
    let made = rig.create("host", &["sleep", "1000"], |_| {}).unwrap();
    let mut p = process(&sh(
        "echo $A $(id -u) $(pwd) $(ulimit -n); env | grep -c PATH; exit 5",
    ));
    p["env"] = json!(["A=b"]);
    p["args"][0] = json!("/bin/sh");
    p["user"] = json!({"uid": 7, "gid": 8});
    p["cwd"] = json!("/tmp");
    p["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "hard": 77, "soft": 66}]);
    let early = rig.exec("host", p.clone()).unwrap().finish();
    rig.start("host").unwrap();
    let at = std::time::Instant::now();
    let late = rig.exec("host", p).unwrap().finish();
    println!("    exec to exit: {:?}", at.elapsed());
    assert_eq!(early.2, 5, "{early:?}");
    // The shell has none from us and makes one up for itself, unexported.
    assert_eq!(late.0.lines().next(), Some("b 7 /tmp 66"), "{late:?}");
    assert_eq!(early, late);
    // In the same namespaces and cgroup, seen by the pid of ours.
    let running = rig.exec("host", process(&["sleep", "1000"])).unwrap();
    let pids = rig.pids("host").unwrap();
    assert_eq!(pids, [made.pid, running.pid]);
    let ns = |pid: i32, name: &str| {
        fs::metadata(format!("/proc/{pid}/ns/{name}"))
            .unwrap()
            .ino()
    };
    for name in ["pid", "mnt", "net", "ipc", "uts"] {
        assert_eq!(ns(made.pid, name), ns(running.pid, name), "{name}");
    }
    rig.signal_all("host", libc::SIGKILL).unwrap();
    // The kernel holds init back until everything in its pid namespace is reaped.
    assert_eq!((reap(running.pid), reap(made.pid)), (137, 137));
    let gone = rig.exec("host", process(&["true"])).err().unwrap();
    println!("    {gone}");
    rig.delete("host").unwrap();
    rig.assert_clean("host");
}

pub fn a_failing_exec_says_why_and_harms_nothing(rig: &Rig) {
    let made = rig.create("ex", &sh("cat"), |_| {}).unwrap();
    rig.start("ex").unwrap();
    for (p, words) in [
        (process(&["nothere"]), "nothere"),
        (process(&["/bin/nothere"]), "/bin/nothere"),
        (
            {
                let mut p = process(&["true"]);
                p["cwd"] = json!("/no-dir");
                p
            },
            "/no-dir",
        ),
        (
            {
                let mut p = process(&["true"]);
                p["args"] = json!([]);
                p
            },
            "args",
        ),
        (
            {
                let mut p = process(&["true"]);
                p["args"] = json!("x");
                p
            },
            "",
        ),
    ] {
        let failure = rig.exec("ex", p).err().unwrap();
        println!("    {failure}");
        assert!(failure.message.contains(words), "{failure}");
    }
    assert_eq!(
        rig.exec("none", process(&["true"])).err().unwrap().code,
        HResult::SYSTEM_NOT_FOUND
    );
    reap_all_but(made.pid);
    assert_eq!(rig.pids("ex").unwrap(), [made.pid]);
    let (fds, ..) = rig
        .exec("ex", process(&["ls", "/proc/self/fd"]))
        .unwrap()
        .finish();
    assert_eq!(fds, "0\n1\n2\n3\n");
    assert_eq!(made.finish().2, 0);
    rig.delete("ex").unwrap();
    rig.assert_clean("ex");
}

pub fn an_exec_gets_its_own_terminal(rig: &Rig) {
    let init = rig.create("xtty", &sh("cat"), |_| {}).unwrap();
    rig.start("xtty").unwrap();
    let mut p = process(&sh("read line; echo got $line; tty"));
    p["terminal"] = json!(true);
    let mut made = rig.exec("xtty", p).unwrap();
    made.master.as_mut().unwrap().write_all(b"word\n").unwrap();
    let (out, _, code) = made.finish();
    assert_eq!(
        (out.as_str(), code),
        ("word\r\ngot word\r\n/dev/pts/0\r\n", 0)
    );
    init.finish();
    rig.delete("xtty").unwrap();
    rig.assert_clean("xtty");
}

pub fn parallel_execs_work(rig: &Rig) {
    let init = rig.create("par", &sh("cat"), |_| {}).unwrap();
    rig.start("par").unwrap();
    let running: Vec<_> = (0..20)
        .map(|n| {
            let process = process(&sh(&format!("echo {n}; exit {n}")));
            rig.spawn_exec("par", process).unwrap()
        })
        .collect();
    for (n, exec) in running.into_iter().enumerate() {
        let (out, _, code) = exec.wait().unwrap().finish();
        assert_eq!((out, code), (format!("{n}\n"), n as i32));
    }
    assert_eq!(rig.pids("par").unwrap(), [init.pid]);
    init.finish();
    rig.delete("par").unwrap();
    rig.assert_clean("par");
}
