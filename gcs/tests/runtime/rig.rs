//! A stand-in for PID 1: spawns the helper as PID 1 does, reaps what it leaves behind.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use gcs::error::Failure;
use gcs::runtime::{self, Order, Report, Roots};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::socket::{
    recvmsg, socketpair, AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
};
use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};
use nix::unistd::Pid;
use serde_json::{json, Value};

use crate::sys;

pub struct Rig {
    pub dir: tempfile::TempDir,
    pub roots: Roots,
    pub v2: bool,
}

/// The far ends of a container's standard streams.
pub struct Streams {
    pub stdin: Option<File>,
    pub stdout: File,
    pub stderr: File,
}

pub struct Made {
    pub pid: i32,
    pub streams: Streams,
    pub master: Option<File>,
}

impl Rig {
    pub fn new(v2: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots {
            state: dir.path().join("state"),
            ..Roots::default()
        };
        Self { dir, roots, v2 }
    }

    /// A bundle with a busybox root, its spec changed by `change`.
    pub fn bundle(&self, id: &str, args: &[&str], change: impl FnOnce(&mut Value)) -> PathBuf {
        let bundle = self.dir.path().join("c").join(id);
        let rootfs = bundle.join("rootfs");
        for dir in ["bin", "proc", "sys", "dev", "tmp", "etc"] {
            fs::create_dir_all(rootfs.join(dir)).unwrap();
        }
        fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
        for name in [
            "sh", "cat", "ls", "id", "env", "sleep", "true", "mount", "tty", "stty", "readlink",
            "chroot", "grep", "echo", "mkdir", "mknod", "dd", "kill", "pwd", "truncate", "touch",
            "chmod", "linux32", "linux64", "unshare", "nsenter", "date", "insmod", "dmesg", "find",
            "wc", "head", "cut", "rm", "umount", "hostname", "nice",
        ] {
            symlink("busybox", rootfs.join("bin").join(name)).unwrap();
        }
        let mut spec = spec(id, args);
        change(&mut spec);
        fs::write(
            bundle.join("config.json"),
            serde_json::to_vec(&spec).unwrap(),
        )
        .unwrap();
        bundle
    }

    pub fn create(
        &self,
        id: &str,
        args: &[&str],
        change: impl FnOnce(&mut Value),
    ) -> Result<Made, Failure> {
        let bundle = self.bundle(id, args, change);
        let text = fs::read(bundle.join("config.json")).unwrap();
        let spec: Value = serde_json::from_slice(&text).unwrap();
        let terminal = spec["process"]["terminal"] == true;
        self.order(&Order::Create {
            id: id.into(),
            bundle,
            terminal,
        })
    }

    pub fn exec(&self, id: &str, process: Value) -> Result<Made, Failure> {
        let terminal = process["terminal"] == true;
        self.order(&Order::Exec {
            id: id.into(),
            process,
            terminal,
        })
    }

    pub fn order(&self, order: &Order) -> Result<Made, Failure> {
        self.spawn(order).wait()
    }

    pub fn spawn_exec(&self, id: &str, process: Value) -> Helper {
        self.spawn(&Order::Exec {
            id: id.into(),
            process,
            terminal: false,
        })
    }

    fn spawn(&self, order: &Order) -> Helper {
        let mut file = File::from(memfd_create("order", MFdFlags::MFD_CLOEXEC).unwrap());
        file.write_all(&serde_json::to_vec(order).unwrap()).unwrap();
        file.rewind().unwrap();
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .unwrap();
        let (stdin_r, stdin) = std::io::pipe().unwrap();
        let (stdout, stdout_w) = std::io::pipe().unwrap();
        let (stderr, stderr_w) = std::io::pipe().unwrap();
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0(runtime::APPLET)
            .env_clear()
            .env("PATH", "/sbin:/usr/sbin:/bin:/usr/bin")
            .env("GCS_RUNTIME_STATE", &self.roots.state)
            .stdin(Stdio::from(stdin_r))
            .stdout(Stdio::from(stdout_w))
            .stderr(Stdio::from(stderr_w));
        sys::pass(&mut command, vec![file.into(), theirs]);
        let child = command.spawn().unwrap();
        drop(command); // its copies of the ends
        let streams = Streams {
            stdin: Some(OwnedFd::from(stdin).into()),
            stdout: OwnedFd::from(stdout).into(),
            stderr: OwnedFd::from(stderr).into(),
        };
        Helper {
            pid: child.id() as i32,
            socket: ours,
            streams,
        }
    }

    /// Create, start, read to the end, wait, delete: (stdout, stderr, exit code).
    pub fn run(
        &self,
        id: &str,
        args: &[&str],
        change: impl FnOnce(&mut Value),
    ) -> (String, String, i32) {
        let made = self.create(id, args, change).unwrap();
        self.roots.start(id).unwrap();
        let seen = made.finish();
        self.roots.delete(id).unwrap();
        self.assert_clean(id);
        seen
    }

    /// Nothing of the container is left: state, cgroup, mounts.
    pub fn assert_clean(&self, id: &str) {
        assert!(!self.roots.state.join(id).exists(), "state of {id} is left");
        let find = Command::new("find")
            .args(["/sys/fs/cgroup", "-path", &format!("*/containers/{id}")])
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&find.stdout),
            "",
            "cgroup of {id} is left"
        );
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = self.dir.path().to_str().unwrap();
        assert!(!mounts.contains(dir), "mounts are left: {mounts}");
    }
}

/// A helper at work.
pub struct Helper {
    pid: i32,
    socket: OwnedFd,
    streams: Streams,
}

impl Helper {
    pub fn wait(self) -> Result<Made, Failure> {
        let (report, master) = report(&self.socket);
        reap(self.pid);
        match report {
            Report::Done { pid } => Ok(Made {
                pid: pid.unwrap_or(0),
                streams: self.streams,
                master,
            }),
            Report::Failed(failure) => Err(failure),
        }
    }
}

impl Made {
    pub fn finish(mut self) -> (String, String, i32) {
        drop(self.streams.stdin.take());
        let (mut out, mut err) = (String::new(), String::new());
        if let Some(mut master) = self.master {
            // A pty ends with EIO.
            let mut bytes = Vec::new();
            drop(master.read_to_end(&mut bytes));
            out = String::from_utf8_lossy(&bytes).into_owned();
        } else {
            self.streams.stdout.read_to_string(&mut out).unwrap();
            self.streams.stderr.read_to_string(&mut err).unwrap();
        }
        (out, err, reap(self.pid))
    }
}

/// The report, which comes after the pidfd of an exec's process.
fn report(socket: &OwnedFd) -> (Report, Option<File>) {
    let (text, named) = datagram(socket);
    let (text, master) = if text == b" " {
        assert!(named.is_some(), "a name without a pidfd");
        datagram(socket)
    } else {
        (text, named)
    };
    let report = serde_json::from_slice(&text)
        .unwrap_or_else(|e| panic!("report {:?}: {e}", String::from_utf8_lossy(&text)));
    (report, master)
}

fn datagram(socket: &OwnedFd) -> (Vec<u8>, Option<File>) {
    let mut text = vec![0; 64 * 1024];
    let mut space = nix::cmsg_space!(i32);
    let mut iov = [std::io::IoSliceMut::new(&mut text)];
    let message = recvmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &mut iov,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )
    .unwrap();
    let fd = message.cmsgs().unwrap().find_map(|c| match c {
        ControlMessageOwned::ScmRights(fds) => fds.first().map(|fd| File::from(sys::own(*fd))),
        _ => None,
    });
    let length = message.bytes;
    text.truncate(length);
    (text, fd)
}

/// Exit code as the bridge reports it.
pub fn reap(pid: i32) -> i32 {
    match waitpid(Pid::from_raw(pid), None).unwrap() {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        other => panic!("{other:?}"),
    }
}

/// Collects what failed creates left to us; returns how many.
pub fn reap_strays() -> usize {
    let mut count = 0;
    while let Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) =
        waitpid(None, Some(WaitPidFlag::WNOHANG))
    {
        count += 1;
    }
    count
}

/// Collects what failed execs left, as soon as it ends: the kernel keeps the init of a pid
/// namespace until then.
pub fn reap_all_but(kept: i32) {
    let begun = std::time::Instant::now();
    let me = std::process::id();
    let children = || fs::read_to_string(format!("/proc/{me}/task/{me}/children")).unwrap();
    while children().trim() != kept.to_string() {
        assert!(
            begun.elapsed().as_secs() < 30,
            "children are left: {}",
            children()
        );
        reap_strays();
        std::thread::yield_now();
    }
}

const CAPS: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// A spec as containerd makes it and hcsshim sends it.
pub fn spec(id: &str, args: &[&str]) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "noNewPrivileges": false,
            "capabilities": {"bounding": CAPS, "effective": CAPS, "permitted": CAPS},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        },
        "root": {"path": "rootfs"},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ],
        "linux": {
            "cgroupsPath": format!("/containers/{id}"),
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"],
        },
    })
}

/// As the host sends an exec.
pub fn process(args: &[&str]) -> Value {
    json!({"user": {"uid": 0, "gid": 0}, "args": args, "env": ["PATH=/bin"], "cwd": "/"})
}
